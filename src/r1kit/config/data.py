"""Configs of the stages that make training data out of a model's samples."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from r1kit.config.checked import config
from r1kit.config.common import LATER, Device, DType, SamplerKind, VllmConfig, json_or_text, require
from r1kit.config.evaluate import GivenForm, require_sampling
from r1kit.config.source import ColumnsConfig, FilterConfig

OWN_FIELDS = ("model", "messages", "n", "stream")
"""Fields of a request that are not the user's: replies are read as one whole answer to the conversation."""


@config
class EndpointConfig:
    """An OpenAI-compatible server that rewrites, judges or teaches; without a URL, rules and `model` do it."""

    url: str = ""
    """Base URL, such as https://api.deepseek.com/v1. Empty: no endpoint."""
    model: str = ""
    """Model name that the server knows."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; the key itself is never written down."""
    temperature: float = 0.0
    """Sampling temperature of the calls (a teacher's: the stage's own)."""
    max_new_tokens: int = 4096
    """Length cap of an answer, tokens (a teacher's: the stage's own)."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = field(default="max_tokens", metadata=LATER)
    """The request's field for that cap. OpenAI's o-series and GPT-5 take max_completion_tokens alone."""
    body: tuple[str, ...] = field(default=(), metadata=LATER)
    """Further fields of every request, NAME=VALUE, such as reasoning_effort=low; NAME= alone leaves a field out, such
    as temperature= for models that take none."""
    concurrency: int = 8
    """Calls in flight at a time."""
    requests_per_minute: int = 0
    """Rate limit; 0 is none."""
    retries: int = 5
    """Further tries after a time-out, a 429 or a 5xx, with growing pauses."""
    timeout: float = 600.0
    """Longest wait for one answer, seconds."""
    prompt_price: float = 0.0
    """Price of a million prompt tokens, in any currency: the card then says what the calls cost."""
    completion_price: float = 0.0
    """Price of a million completion tokens."""
    cache: Path | None = None
    """Folder of answered calls, so that a resumed stage does not pay twice; default: in the run folder."""

    def __post_init__(self) -> None:
        require(bool(self.url) == bool(self.model), f"endpoint url {self.url!r} and model {self.model!r} go together")
        require(self.concurrency > 0, f"endpoint concurrency is {self.concurrency}; give at least 1")
        require(self.retries >= 0, f"endpoint retries is {self.retries}; give 0 or more")
        for name in ("prompt_price", "completion_price"):
            value = getattr(self, name)
            require(value >= 0, f"endpoint {name} is {value}; give 0 (unknown) or more, per million tokens")
        for one in self.body:
            name, equals, _ = one.partition("=")
            require(
                bool(name and equals), f"endpoint body has {one!r}; give NAME=VALUE, or NAME= to leave the field out"
            )
            require(name not in OWN_FIELDS, f"endpoint body has {one!r}; {name} is not for the user to set")
        sent = self.sent({"temperature": self.temperature}).get("temperature", 1.0)
        require(
            isinstance(sent, int | float) and not isinstance(sent, bool),
            f"endpoint body sets temperature to {sent!r}; give a number",
        )

    def sent(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body of a request with `body`'s fields: JSON where they are, else text; without those left out."""
        pairs = [one.partition("=")[::2] for one in self.body]
        changed = body | {name: json_or_text(value) for name, value in pairs}
        return {name: value for name, value in changed.items() if (name, "") not in pairs}


@config
class ReadableConfig:
    """What makes a completion readable (R1 V2 B.3.2, B.3.3 name the filters; the thresholds are ours)."""

    min_consistency: float = 0.97
    """Least share of words in the prompt's language: of the chain of thought, and of the response around the answer."""
    max_repetition: float = 0.3
    """Largest share of the thought's lines (or sentences, where it is one line) that repeat an earlier one, of its
    characters in a loop (2 to 30 characters, 4 times or more on end), and of its runs of 20 words that repeat an
    earlier one."""
    max_paragraph_chars: int = 2000
    """Longest paragraph, a line of its own, characters: "long paragraphs" are left out; 0 is no limit."""
    code_blocks: bool = False
    """Keep chains of thought with ``` or ~~~ code blocks."""
    min_tokens: int = 1
    """Shortest completion, tokens."""
    max_tokens: int = 0
    """Longest completion, tokens; 0 is no limit beyond the sampling cap."""

    def __post_init__(self) -> None:
        for name in ("min_consistency", "max_repetition"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"--readable.{name.replace('_', '-')} is {value}; give a share from 0 to 1")
        for name in ("max_paragraph_chars", "min_tokens", "max_tokens"):
            value = getattr(self, name)
            require(value >= 0, f"--readable.{name.replace('_', '-')} is {value}; give 0 (no limit) or more")
        require(
            not self.max_tokens or self.max_tokens >= self.min_tokens,
            f"--readable.max-tokens {self.max_tokens} is below --readable.min-tokens {self.min_tokens}; no completion "
            f"is both",
        )


@config
class RejectConfig:
    """Sample a model, keep the right and readable completions, write them as SFT data: `r1kit reject PRESET`.

    Cold start: R1-Zero's samples, rewritten (R1 V2 B.3.2). Rejection sampling: the reasoning-RL checkpoint's samples
    with general data joined (R1 V2 B.3.3). Teacher: R1's own samples for the students.
    """

    run: Path = Path("runs/reject")
    """Run folder; sft.jsonl and its card README.md go there. The same command with the same folder resumes."""
    model: str = ""
    """Model folder, run folder or Hugging Face name to sample."""
    tasks: tuple[str, ...] = ("countdown", "remainder")
    """Tasks whose training problems are sampled: names of `r1kit.tasks`, or data sets."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    system_prompt: str = ""
    """Put before prompts that have no system message. R1's own models want none (their model card)."""
    template: str = "short"
    """Prompt template of the model that is sampled."""
    format: GivenForm = ""
    """Form that answers are read in, as --reward.format. Empty: that of the run which is sampled, where it has one;
    else free with the model's own template (chat) and with a teacher, r1-zero with the others."""
    num_problems: int = 512
    """Problems per task."""
    num_samples: int = 4
    """Completions per problem (not stated by the paper; ours)."""
    keep_per_problem: int = 1
    """At most so many kept per problem, as they were sampled."""
    temperature: float = 1.0
    """Sampling temperature (cold start, R1 V2 B.3.2: 1.0)."""
    top_p: float = 1.0
    """Nucleus sampling threshold."""
    max_new_tokens: int = 512
    """Length cap per completion, tokens."""
    readable: ReadableConfig = field(default_factory=ReadableConfig)
    """Filters on the chain of thought."""
    rewrite: Literal["none", "rules", "endpoint"] = "none"
    """Rewrite each kept completion into the readable form, thought and summary: by rules that know the demo's tasks,
    or by the endpoint (R1 V2 B.3.2, Listing 1)."""
    rewriter: EndpointConfig = field(default_factory=EndpointConfig)
    """The endpoint that rewrites."""
    judge: EndpointConfig = field(default_factory=EndpointConfig)
    """The endpoint that judges completions whose problem has no rule (R1 V2 B.3.3, Listing 4)."""
    teacher: EndpointConfig = field(default_factory=EndpointConfig)
    """An endpoint that is sampled instead of `model`, whose tokenizer then counts tokens and is all that is read."""
    general_data: tuple[str, ...] = ()
    """Non-reasoning data to join: `general` (the demo's), or conversations (a file, a folder, org/name)."""
    general_share: float = 0.22
    """Share of the joined general data (R1 V2 Table 5: 177,812 of 804,745)."""
    seed: int = 0
    """Everything random is a function of it."""
    sampler: SamplerKind = "local"
    """local: r1kit's own. vllm: vLLM, for large models."""
    vllm: VllmConfig = field(default_factory=VllmConfig)
    rows: int = 256
    """Completions decoded at a time."""
    device: Device = "auto"
    """Where to run."""
    dtype: DType = "auto"
    """auto: bf16 where the hardware has it, else fp32."""

    def __post_init__(self) -> None:
        for name in ("num_problems", "num_samples", "keep_per_problem", "rows"):
            value = getattr(self, name)
            require(value > 0, f"--{name.replace('_', '-')} is {value}; give at least 1")
        require(len(self.tasks) > 0, "--tasks is empty; give at least one task")
        require_sampling(self.temperature, self.top_p, self.max_new_tokens)
        require(0 <= self.general_share < 1, f"--general-share is {self.general_share}; give 0 or more, below 1")
        require(
            bool(self.general_data) or self.general_share in (0, RejectConfig.general_share),
            f"--general-share is {self.general_share} and there are no general data; give --general-data too, or "
            f"--general-share 0",
        )
        require(
            self.rewrite != "endpoint" or bool(self.rewriter.url),
            "--rewrite endpoint needs --rewriter.url and --rewriter.model",
        )


@config
class PreferencesConfig:
    """Make the reward models' data: responses to general prompts, judged: `r1kit preferences PRESET` (R1 V2 3.1)."""

    run: Path = Path("runs/preferences")
    """Run folder; pairs.jsonl, safety.jsonl and README.md go there."""
    model: str = ""
    """Model that is sampled."""
    tasks: tuple[str, ...] = ("general",)
    """Tasks of general prompts; scorer `helpful` gives pairs, scorer `safety` labelled responses."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    template: str = "short"
    """Prompt template of the model that is sampled."""
    num_prompts: int = 384
    """Prompts per task; of a task that has fewer, all."""
    num_samples: int = 4
    """Responses per prompt; all their pairs are judged."""
    temperature: float = 1.0
    """Sampling temperature."""
    max_new_tokens: int = 256
    """Length cap per response, tokens."""
    queries: int = 4
    """Verdicts per pair, averaged (R1 V2 3.1.1: 4): half of them with either response first, in random order. A pair
    without a readable verdict in each of the two orders is undecided; with 1 query there is one order."""
    min_margin: float = 1.0
    """Pairs are kept when the mean verdict is above this, on -2 (B much better) .. 2 (R1 V2 3.1.1: above 1)."""
    max_length_bias: float = 0.05
    """Pairs are dropped until |mean relative length difference of chosen and rejected| is at most this (R1 V2 3.1.1
    asks for comparable lengths; the number is ours)."""
    judge: EndpointConfig = field(default_factory=EndpointConfig)
    """The endpoint that judges; without one, the rules of the demo's small world."""
    sampler: SamplerKind = "local"
    """local: r1kit's own. vllm: vLLM, for large models."""
    vllm: VllmConfig = field(default_factory=VllmConfig)
    """Where vLLM runs, what it gets."""
    seed: int = 0
    """Everything random is a function of it."""
    rows: int = 256
    """Completions decoded at a time."""
    device: Device = "auto"
    """Where to run."""
    dtype: DType = "auto"
    """auto: bf16 where the hardware has it, else fp32."""

    def __post_init__(self) -> None:
        require(self.num_samples > 1, f"--num-samples is {self.num_samples}; pairs need at least 2")
        for name in ("num_prompts", "queries", "max_new_tokens", "rows"):
            value = getattr(self, name)
            require(value > 0, f"--{name.replace('_', '-')} is {value}; give at least 1")
        require(self.temperature >= 0, f"--temperature is {self.temperature}; give 0 (greedy) or more")
        require(
            self.max_length_bias >= 0,
            f"--max-length-bias is {self.max_length_bias}; give 0 (chosen and rejected of one length) or more",
        )
        require(
            0 <= self.min_margin < 2,
            f"--min-margin is {self.min_margin}; verdicts reach from -2 to 2, so give 0 or more, below 2",
        )
