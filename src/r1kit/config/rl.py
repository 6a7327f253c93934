"""Configs of reinforcement learning: the algorithm, the reward, the run."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Literal

from r1kit.config.checked import config
from r1kit.config.common import (
    Device,
    DType,
    LoraConfig,
    MemoryConfig,
    OptimConfig,
    SamplerKind,
    TrackerName,
    VllmConfig,
    require,
)
from r1kit.config.evaluate import AnswerForm, EvalConfig, require_sampling
from r1kit.config.source import ColumnsConfig, FilterConfig


@config
class AlgoConfig:
    """GRPO (DeepSeekMath eq. 3, R1 eq. 1-3) and its variants, each a change of one number or word.

    `r1kit.presets.ALGOS` has them by name: grpo, dr-grpo, dapo, gspo.
    """

    advantage: Literal["group-std", "group-mean"] = "group-std"
    """group-std: (r - mean) / std of the group (GRPO). group-mean: r - mean (Dr.GRPO)."""
    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio per token (DeepSeekMath eq. 3) or per sequence, length-normalised (GSPO eq. 7)."""
    aggregation: Literal["sequence", "token", "constant"] = "sequence"
    """sequence: mean over a completion's tokens, then over completions (GRPO). token: mean over all tokens of the step
    (DAPO). constant: sum over tokens divided by completions x the length cap (Dr.GRPO)."""
    clip_low: float = 0.2
    """Ratios below 1 - clip_low are clipped (the paper does not state epsilon for R1-Zero; 0.2 is PPO's)."""
    clip_high: float = 0.2
    """Ratios above 1 + clip_high are clipped. DAPO's clip-higher: 0.28. R1's RL stage 1: 10."""
    kl_coef: float = 0.001
    """Weight of the k3 KL to the reference policy. The paper's R1-Zero: 0.001. 0 needs no reference."""
    reference_every: int = 400
    """The reference becomes the current policy every N steps (paper: 400). 0 keeps the first one."""
    dynamic_sampling: int = 0
    """DAPO: sample up to N more rounds of problems to replace groups whose rewards are all equal. 0 keeps them."""
    overlong_buffer: int = 0
    """DAPO eq. 13: the last N tokens under the length cap cost up to `overlong_penalty`, linearly. 0 is off."""
    overlong_penalty: float = 1.0
    """Reward taken from a completion that reaches the cap, when overlong_buffer > 0."""
    mask_truncated: bool = False
    """Leave completions that hit the length cap out of the loss (DAPO's overlong filtering)."""
    truncated_is: float = 0.0
    """Weigh each token by min(pi_learner / pi_sampler, C), against sampler/learner mismatch. 0 is off, except with
    `--sampler vllm`, where `vllm.truncated_is` holds; 2 is usual."""

    def __post_init__(self) -> None:
        require(self.clip_low >= 0, f"--algo.clip-low is {self.clip_low}; give 0 or more")
        require(self.clip_high >= 0, f"--algo.clip-high is {self.clip_high}; give 0 or more")
        require(self.kl_coef >= 0, f"--algo.kl-coef is {self.kl_coef}; give 0 or more")
        require(self.reference_every >= 0, f"--algo.reference-every is {self.reference_every}; give 0 or more")
        require(self.dynamic_sampling >= 0, f"--algo.dynamic-sampling is {self.dynamic_sampling}; give 0 or more")
        require(self.overlong_buffer >= 0, f"--algo.overlong-buffer is {self.overlong_buffer}; give 0 or more")
        require(self.overlong_penalty >= 0, f"--algo.overlong-penalty is {self.overlong_penalty}; give 0 or more")
        require(self.truncated_is >= 0, f"--algo.truncated-is is {self.truncated_is}; give 0 (off) or a cap above 0")


@config
class RewardConfig:
    """Reward = the weighted sum of its parts; a part of weight 0 is not computed.

    R1-Zero: accuracy + format, equal weights (R1 section 2.2). Reasoning RL adds the language consistency of the chain
    of thought (V2 eq. 7); RL for all scenarios adds the preference of a reward model on general prompts (V2 eq. 8-10).
    """

    accuracy_weight: float = 1.0
    """Weight of the accuracy reward (1 for a right answer, else 0)."""
    code_share: bool = False
    """The accuracy of a program that fails is the share of the tests that it passes, not 0."""
    format_weight: float = 1.0
    """Weight of the format reward (1 for a completion in the form that `format` asks for, else 0)."""
    format: AnswerForm = "r1-zero"
    """r1-zero: <think>...</think> then <answer>...</answer> and nothing else. r1: one closed <think>...</think>, then a
    response that is not empty (the summary, with the answer in <answer> or \\boxed). free: no form, so no format
    reward; the answer may also be the last one boxed or stated."""
    language_weight: float = 0.0
    """Weight of the language consistency of the chain of thought, 0 to 1 (the paper sums it directly: 1)."""
    preference_weight: float = 0.0
    """Weight of the reward model's score on general prompts, in units of its standard deviation (scaling is ours)."""
    repetition_weight: float = 0.0
    """Weight of the repetition penalty: minus the share of n-grams that repeat an earlier one (not the paper's)."""
    repetition_ngram: int = 20
    """Words (or Chinese characters) in an n-gram of the repetition penalty."""
    length: Literal["none", "cosine"] = "none"
    """cosine: a reward that goes from one value at 0 tokens to another at `length_max` along half a cosine, apart for
    right and for wrong answers (Yeo et al. 2025; not the paper's). An undecided answer has none."""
    length_weight: float = 1.0
    """Weight of the length reward."""
    length_max: int = 0
    """Tokens at which the cosine ends."""
    length_right: tuple[float, float] = (1.0, 0.5)
    """Length reward of right answers: at 0 tokens, at `length_max`."""
    length_wrong: tuple[float, float] = (-0.5, 0.0)
    """Length reward of wrong answers: at 0 tokens, at `length_max`."""
    length_exceeded: float = -0.5
    """Length reward of a completion of `length_max` tokens or more, right or wrong."""
    unsafe_code: bool = False
    """Run model-written programs (scorer `code`) without a sandbox, where the machine offers none. They can then do
    all that you can: for machines that are thrown away."""
    helpful_model: str = ""
    """Reward model of prompts with scorer `helpful`: a run folder of `r1kit reward-model`."""
    safety_model: str = ""
    """Reward model of prompts with scorer `safety`."""
    function: str = ""
    """A function of yours, as FILE.py:NAME: one more part of the reward (docs/your-reward.md)."""
    function_weight: float = 1.0
    """Weight of what the function returns."""

    def __post_init__(self) -> None:
        for name in ("accuracy", "format", "language", "preference", "repetition", "length"):
            value = getattr(self, f"{name}_weight")
            require(value >= 0, f"--reward.{name}-weight is {value}; give 0 (off) or more")
        require(
            self.preference_weight == 0 or bool(self.helpful_model or self.safety_model),
            f"--reward.preference-weight is {self.preference_weight}; give --reward.helpful-model or "
            f"--reward.safety-model too",
        )
        require(self.repetition_ngram > 0, f"--reward.repetition-ngram is {self.repetition_ngram}; give at least 1")
        require(
            self.length == "none" or self.length_max > 0,
            f"--reward.length is {self.length} and --reward.length-max is {self.length_max}; give its tokens",
        )
        require(
            not self.function or ".py:" in self.function,
            f"--reward.function is {self.function!r}; give FILE.py:NAME, such as my_rewards.py:brief",
        )


@config
class RLConfig:
    """RL with GRPO: R1-Zero, and both RL stages of R1: `r1kit rl PRESET`."""

    run: Path = Path("runs/zero")
    """Run folder. The same command with the same folder resumes."""
    model: str = "demo-base"
    """Base model: a folder, a Hugging Face name, or demo-base (shipped with r1kit)."""
    tasks: tuple[str, ...] = ("countdown", "remainder")
    """Training tasks, mixed evenly: names of `r1kit.tasks`, Python files with `make_problem`, `reasoning_gym:NAME`, or
    data sets (a file, gsm8k, org/name)."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    system_prompt: str = ""
    """Put before prompts that have no system message. R1's own models want none (their model card)."""
    general_tasks: tuple[str, ...] = ()
    """Tasks of general prompts, whose reward is the reward models' (RL for all scenarios)."""
    general_share: float = 0.25
    """Share of each step's problems that are general prompts (the mixture is not stated by the paper; ours)."""
    general_from: int = 0
    """Step from which general prompts and their preference reward take part (paper: the last 400 of 1,700 steps,
    because longer training on a reward model invites reward hacking)."""
    template: str = "short"
    """Prompt template: short, r1-zero or r1 (each also -prefilled), or chat or chat-prefilled (the model's own)."""
    seed: int = 0
    """Everything random is a function of (seed, step)."""
    steps: int = 100
    """Optimizer steps."""
    problems_per_step: int = 32
    """Problems in each optimizer step (paper: 32)."""
    group_size: int = 16
    """Completions per problem, G (paper: 16)."""
    minibatches: int = 1
    """Optimizer steps that one rollout is split into (paper: 16, so that 8,192 outputs make 16 batches of 512)."""
    inner_epochs: int = 1
    """Passes over each rollout (paper: 1)."""
    temperature: float = 1.0
    """Rollout temperature (paper: 1.0)."""
    top_p: float = 1.0
    """Rollout nucleus threshold; below 1 biases the gradient."""
    top_k: int = 0
    """Rollout top-k; 0 keeps the whole vocabulary."""
    max_new_tokens: int = 512
    """Length cap, tokens (paper: 32,768)."""
    raise_cap_at: int = 0
    """Step at which the cap becomes `raised_cap` (paper: 8,200). 0 is never."""
    raised_cap: int = 0
    """The later cap (paper: 65,536)."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    algo: AlgoConfig = field(default_factory=AlgoConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Held-out evaluation before the first step, every `eval_every` steps and after the last. Its model, template,
    system prompt and form of answers are this run's; so are its tasks, unless it names others."""
    eval_every: int = 20
    """Steps between evaluations; 0 is never."""
    save_every: int = 20
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Checkpoints kept; older ones are deleted."""
    tokens_per_microbatch: int = 16384
    """Tokens in one forward/backward pass. Changes speed and memory, not the gradient."""
    sampler: SamplerKind = "local"
    """local: r1kit's own, on the learner's weights. vllm: vLLM, for large models; its mismatch is measured as
    `kl/sampler` and corrected by `vllm.truncated_is`."""
    vllm: VllmConfig = field(default_factory=VllmConfig)
    rows: int = 256
    """Completions decoded at a time."""
    device: Device = "auto"
    """Where to run."""
    dtype: DType = "auto"
    """Compute type; master weights and optimizer state are always fp32. auto: bf16 where the hardware has it."""
    track: tuple[TrackerName, ...] = ()
    """Also show the rows of metrics.jsonl in these: tensorboard, wandb, trackio (docs/trackers.md)."""
    push_to_hub: str = ""
    """When the run is done, put its model on the Hugging Face hub as this, ORG/NAME, private where it is new."""
    stop_after: int = 0
    """Stop after this step as if interrupted (the schedule is unchanged); 0 runs to the end."""

    def __post_init__(self) -> None:
        counts = ("steps", "problems_per_step", "minibatches", "inner_epochs", "save_every", "keep_checkpoints")
        for name in (*counts, "tokens_per_microbatch", "rows"):
            value = getattr(self, name)
            require(value > 0, f"--{name.replace('_', '-')} is {value}; give at least 1")
        for name in ("eval_every", "raise_cap_at", "general_from", "stop_after"):
            value = getattr(self, name)
            require(value >= 0, f"--{name.replace('_', '-')} is {value}; give 0 or more")
        require_sampling(self.temperature, self.top_p, self.max_new_tokens, self.top_k)
        require(self.group_size > 1, f"--group-size is {self.group_size}; GRPO compares completions, give at least 2")
        require(
            len(self.tasks) > 0 or (len(self.general_tasks) > 0 and self.general_from == 0),
            "--tasks is empty; give at least one task, or --general-tasks from step 0",
        )
        require(0 < self.general_share <= 1, f"--general-share is {self.general_share}; give a share above 0, up to 1")
        if self.general_tasks:
            require(
                self.general_from < self.steps,
                f"--general-from {self.general_from} is not below --steps {self.steps}: --general-tasks "
                f"{' '.join(self.general_tasks)} would never take part; lower it",
            )
        # With a preference weight the run says what is missing, once it knows which prompts --tasks has.
        for name in () if self.general_tasks or self.reward.preference_weight else ("general_share", "general_from"):
            value, usual = getattr(self, name), getattr(RLConfig, name)
            flag = f"--{name.replace('_', '-')}"
            require(
                value == usual,
                f"{flag} is {value} and there are no general prompts; give --general-tasks too, or {flag} {usual}",
            )
        require(
            self.steps % self.steps_per_rollout == 0,
            f"--steps {self.steps} must be a multiple of --minibatches x --inner-epochs = {self.steps_per_rollout}",
        )
        for name in ("save_every", "eval_every", "raise_cap_at", "general_from"):
            value = getattr(self, name)
            require(
                value % self.steps_per_rollout == 0,
                f"--{name.replace('_', '-')} {value} must be a multiple of --minibatches x --inner-epochs = "
                f"{self.steps_per_rollout}, because checkpoints fall between rollouts",
            )
        require(
            not self.raise_cap_at or self.raised_cap > self.max_new_tokens,
            f"--raised-cap {self.raised_cap} must be above --max-new-tokens {self.max_new_tokens} "
            f"when --raise-cap-at is set",
        )
        require(
            self.algo.overlong_buffer < self.max_new_tokens,
            f"--algo.overlong-buffer {self.algo.overlong_buffer} must be below --max-new-tokens {self.max_new_tokens}",
        )
        require(
            self.sampler == "local" or (self.top_p == 1 and self.top_k == 0),
            f"--top-p {self.top_p} and --top-k {self.top_k}: vLLM gives no log-probs of the distribution before these "
            f"cut it, which the loss needs; use --top-p 1 --top-k 0, or --sampler local",
        )
        require(
            self.temperature > 0,
            f"--temperature is {self.temperature:g}; give a value above 0: the completions of a greedy group are the "
            f"same, and GRPO learns from their differences",
        )

    @property
    def steps_per_rollout(self) -> int:
        return self.minibatches * self.inner_epochs

    @property
    def truncated_is(self) -> float:
        """The cap of the importance weights that holds; 0 is off."""
        return self.algo.truncated_is or (self.vllm.truncated_is if self.sampler == "vllm" else 0.0)
