"""Presets to start from: R1-Zero, and R1's cold start and reasoning RL, for the base models that people have.

For one GPU of 80 GB, one of 24 GB (adapters), and a node of eight of 80 GB: the learner on one, vLLM on seven. What
each takes is reckoned from the model's published shape (memory.py) and is in its description. The values are ours;
docs/presets.md has the reasons. What follows, up to R1, is in models_r1.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from r1kit.config import (
    EvalConfig,
    FilterConfig,
    LoraConfig,
    MemoryConfig,
    OptimConfig,
    RejectConfig,
    RewardConfig,
    RewardModelConfig,
    RLConfig,
    SFTConfig,
    VllmConfig,
)
from r1kit.presets.algos import grpo
from r1kit.presets.memory import GIB, Need, Shape, reckon
from r1kit.presets.paper import sft_student

PROMPT = 512
"""Longest prompt, tokens; longer ones are left out, so that the memory is bounded."""


@dataclass(frozen=True)
class BaseModel:
    """A base on the Hugging Face hub, and what suits its size."""

    hub: str
    shape: Shape
    task: str
    """What it can learn from: neither all right nor all wrong at the beginning."""
    template: str
    """Of fine-tuning: the base's own, where it has one."""
    max_new_tokens: int
    """On one 80 GB GPU; on a node twice as many, where the context allows it."""
    rows: int
    """Completions decoded at a time on 80 GB."""
    rows_24: int
    """The same on 24 GB."""
    max_new_tokens_24: int = 1024
    judge_24: str = ""
    """Of MODELS: whose base its reward models are made of on 24 GB, where its own do not fit beside it."""
    context: int = 32_768
    """Positions, at least."""


_QWEN = {"tied": True, "qkv_bias": True, "vocab": 151_936}
_LLAMA = {"qkv_bias": False, "vocab": 128_256}
_QWEN_1_5B = Shape(hidden=1536, layers=28, heads=12, kv_heads=2, head_dim=128, mlp=8960, **_QWEN)
_QWEN_7B = Shape(
    hidden=3584, layers=28, heads=28, kv_heads=4, head_dim=128, mlp=18_944, vocab=152_064, tied=False, qkv_bias=True
)
MODELS: dict[str, BaseModel] = {
    "qwen2.5-0.5b": BaseModel(
        "Qwen/Qwen2.5-0.5B",
        Shape(hidden=896, layers=24, heads=14, kv_heads=2, head_dim=64, mlp=4864, **_QWEN),
        task="gsm8k", template="chat", max_new_tokens=1024, rows=256, rows_24=128,
    ),
    "qwen2.5-1.5b": BaseModel(
        "Qwen/Qwen2.5-1.5B", _QWEN_1_5B, task="gsm8k", template="chat", max_new_tokens=2048, rows=256, rows_24=128
    ),
    "qwen2.5-3b": BaseModel(
        "Qwen/Qwen2.5-3B",
        Shape(hidden=2048, layers=36, heads=16, kv_heads=2, head_dim=128, mlp=11_008, **_QWEN),
        task="math", template="chat", max_new_tokens=2048, rows=128, rows_24=96, judge_24="qwen2.5-0.5b",
    ),
    "qwen2.5-7b": BaseModel(
        "Qwen/Qwen2.5-7B", _QWEN_7B, task="math", template="chat", max_new_tokens=2048, rows=128, rows_24=24,
        judge_24="qwen2.5-0.5b",
    ),
    "qwen2.5-math-1.5b": BaseModel(
        "Qwen/Qwen2.5-Math-1.5B", _QWEN_1_5B, task="math", template="chat", max_new_tokens=3072, rows=256, rows_24=128,
        context=4096,
    ),
    "qwen2.5-math-7b": BaseModel(
        "Qwen/Qwen2.5-Math-7B", _QWEN_7B, task="math", template="chat", max_new_tokens=3072, rows=128, rows_24=24,
        judge_24="qwen2.5-0.5b", context=4096,
    ),
    # Llama's bases have no chat template.
    "llama-3.2-1b": BaseModel(
        "meta-llama/Llama-3.2-1B",
        Shape(hidden=2048, layers=16, heads=32, kv_heads=8, head_dim=64, mlp=8192, tied=True, **_LLAMA),
        task="gsm8k", template="short", max_new_tokens=1024, rows=256, rows_24=128,
    ),
    "llama-3.1-8b": BaseModel(
        "meta-llama/Llama-3.1-8B",
        Shape(hidden=4096, layers=32, heads=32, kv_heads=8, head_dim=128, mlp=14_336, tied=False, **_LLAMA),
        task="gsm8k", template="short", max_new_tokens=2048, rows=64, rows_24=16,
        judge_24="qwen2.5-0.5b",
    ),
}  # fmt: skip
STUDENT_SHAPES: dict[str, Shape] = {
    "distill-qwen-1.5b": _QWEN_1_5B,
    "distill-qwen-7b": _QWEN_7B,
    "distill-qwen-14b": replace(_QWEN_7B, hidden=5120, layers=48, heads=40, kv_heads=8, mlp=13_824),
    "distill-qwen-32b": replace(_QWEN_7B, hidden=5120, layers=64, heads=40, kv_heads=8, mlp=27_648),
    "distill-llama-8b": MODELS["llama-3.1-8b"].shape,
    "distill-llama-70b": replace(
        MODELS["llama-3.1-8b"].shape, hidden=8192, layers=80, heads=64, kv_heads=8, mlp=28_672
    ),
}
"""Of the paper's students (paper.py)."""


@dataclass(frozen=True)
class Machine:
    """What a preset is for."""

    end: str
    """Of the presets' names."""
    card: int
    """Memory of a GPU, GiB."""
    gpus: int = 1


MACHINES = (Machine("", 80), Machine("-lora-24gb", 24), Machine("-node", 80, gpus=8))
OFFLOADED = 6e9
"""From so many weights on, AdamW's state is in CPU memory: with it, 16 bytes a weight do not fit on 80 GB."""
VLLM_SHARE = 0.85
"""Of each GPU that vLLM has for itself."""


def rl_zero(name: str, machine: Machine) -> RLConfig:
    """R1-Zero of a model of MODELS: its base, the paper's template, right answers and their form (R1 section 2.2)."""
    base, lora, node = MODELS[name], machine.card == 24, machine.gpus > 1
    longest = base.max_new_tokens_24 if lora else base.max_new_tokens
    longest = min(2 * longest, base.context - 2 * PROMPT) if node else longest
    rows = base.rows_24 if lora else base.rows
    cfg = RLConfig(
        run=Path(f"runs/r1-zero-{name}{machine.end}"),
        model=base.hub,
        tasks=(base.task,),
        filter=FilterConfig(max_prompt_tokens=PROMPT),
        template="r1-zero",
        steps=400,
        problems_per_step=16 if lora else 32,
        group_size=8,
        max_new_tokens=longest,
        optim=OptimConfig(lr=1e-5 if lora else 1e-6, warmup_steps=10),
        lora=LoraConfig(rank=32 if lora else 0, alpha=64.0),
        memory=MemoryConfig(gradient_checkpointing=True, offload_optimizer=_offloaded(base, machine)),
        # No KL term, so no reference policy in memory and no pass through it, as in DAPO and Dr. GRPO.
        algo=replace(grpo(), kl_coef=0.0, reference_every=0),
        reward=RewardConfig(format="r1-zero"),
        eval=EvalConfig(
            num_problems=256, num_samples=4, temperature=0.6, top_p=0.95, max_new_tokens=longest, rows=rows
        ),
        eval_every=50,
        save_every=50,
        keep_checkpoints=1,
        tokens_per_microbatch=(PROMPT + longest if base.shape.parameters > OFFLOADED else 8192) if lora else 16_384,
        rows=rows,
    )
    if not node:
        return cfg
    # A batch as the paper's, 32 x 16. A copy of the model gets five groups of them at most.
    rows = -(-cfg.problems_per_step // (machine.gpus - 1)) * 16
    return replace(cfg, group_size=16, rows=rows, sampler="vllm", vllm=_vllm(range(1, machine.gpus), longest))


def _vllm(gpus: range, longest: int) -> VllmConfig:
    """A copy of the model on each GPU. Evaluations have prompts of any length: there is room for twice PROMPT."""
    return VllmConfig(
        mode="server",
        gpus=tuple(gpus),
        args=(f"data_parallel_size={len(gpus)}",),
        memory=VLLM_SHARE,
        max_len=2 * PROMPT + longest,
    )


def reject_cold_start_of(name: str, machine: Machine) -> RejectConfig:
    """The cold start's data from R1-Zero's right and readable completions; `--rewrite endpoint` is the paper's way."""
    zero = rl_zero(name, machine)
    cfg = RejectConfig(
        run=Path(f"runs/cold-start-{name}{machine.end}"),
        model=str(zero.run),
        tasks=zero.tasks,
        filter=zero.filter,
        template=zero.template,
        num_problems=4000,
        num_samples=4,
        max_new_tokens=zero.max_new_tokens,
        general_share=0.0,
        rows=zero.rows,
    )
    if machine.gpus == 1:
        return cfg
    return replace(cfg, sampler="vllm", vllm=_vllm(range(machine.gpus), zero.max_new_tokens))


def sft_dev1(name: str, machine: Machine) -> SFTConfig:
    """Dev1: the base on the cold start's data; epochs and rate are R1's (V2 B.4.2), the batch is for thousands.

    One process, on a node too, where the other GPUs have nothing to do.
    """
    base, zero = MODELS[name], rl_zero(name, machine)
    return SFTConfig(
        run=Path(f"runs/r1-dev1-{name}{machine.end}"),
        model=base.hub,
        data=(str(reject_cold_start_of(name, machine).run),),
        template=base.template,
        epochs=2,
        batch_size=32,
        max_tokens=PROMPT + zero.max_new_tokens,
        optim=OptimConfig(lr=1e-4 if zero.lora.on else 1e-5, schedule="cosine", final_lr_fraction=0.1),
        lora=zero.lora,
        memory=zero.memory,
        eval=replace(zero.eval, tasks=zero.tasks),
        eval_every=0,
        tokens_per_microbatch=zero.tokens_per_microbatch,
    )


def rl_dev2(name: str, machine: Machine) -> RLConfig:
    """Dev2: reasoning RL from Dev1, with the reward for one language (V2 section 3.2.1)."""
    return replace(
        rl_zero(name, machine),
        run=Path(f"runs/r1-dev2-{name}{machine.end}"),
        model=str(sft_dev1(name, machine).run),
        template=MODELS[name].template,
        reward=RewardConfig(format="r1", language_weight=1.0),
    )


def judge(name: str, *, small: bool) -> str:
    """The model of MODELS that the reward models have the backbone of: the policy's, or on a small card another's."""
    return MODELS[name].judge_24 or name if small else name


def need(name: str, cfg: RLConfig | SFTConfig | RejectConfig | RewardModelConfig) -> Need:
    """What a preset of that model takes."""
    shape = MODELS[name].shape
    if isinstance(cfg, RewardModelConfig):
        return reckon(cfg, next((base.shape for base in MODELS.values() if base.hub == cfg.model), shape), PROMPT)
    scorers = []
    if isinstance(cfg, RLConfig):
        judges = filter(None, (cfg.reward.helpful_model, cfg.reward.safety_model))
        scorers = [MODELS[judge(name, small=cfg.lora.on)].shape for _ in judges]
    return reckon(cfg, shape, PROMPT, scorers)


def student_need(name: str, memory: MemoryConfig) -> Need:
    """What the paper's fine-tuning of a student takes with that way to save memory."""
    return reckon(replace(sft_student(name), memory=memory, eval_every=0), STUDENT_SHAPES[name], PROMPT)


def student_hardware(name: str) -> str:
    """The least change with which a student's fine-tuning fits on one GPU of 80 GB, in words."""
    checkpointed = MemoryConfig(gradient_checkpointing=True)
    ways = {"gradient checkpointing": checkpointed}
    ways["gradient checkpointing and the optimizer offloaded"] = replace(checkpointed, offload_optimizer=True)
    for way, memory in ways.items():
        takes = student_need(name, memory)
        if takes.fits(80):
            cpu = f", {takes.cpu / GIB:.0f} GB of CPU memory" if takes.cpu else ""
            return f"one 80 GB GPU with {way} ({takes.gpu / GIB:.0f} reckoned){cpu}"
    return "more than one GPU holds, and a run has one process"


def _offloaded(base: BaseModel, machine: Machine) -> bool:
    return machine.card == 80 and base.shape.parameters > OFFLOADED


def described(
    what: str,
    name: str,
    machine: Machine,
    cfg: RLConfig | SFTConfig | RejectConfig | RewardModelConfig,
    with_what: str = "",
) -> str:
    """A preset's description: what it does, with what, and on which hardware."""
    takes = need(name, cfg)
    cpu = f", {takes.cpu / GIB:.0f} GB of CPU memory" if takes.cpu else ""
    adapters = " by adapters" if isinstance(cfg, RLConfig | SFTConfig) and cfg.lora.on else ""
    where = f"one {machine.card} GB GPU ({takes.gpu / GIB:.0f} reckoned)"
    if takes.vllm:
        copies = len(cfg.vllm.gpus) if isinstance(cfg, RLConfig | RejectConfig) else 0
        learner = f"the learner on one ({takes.gpu / GIB:.0f} reckoned), " if takes.standing else ""
        where = (
            f"{machine.gpus} x {machine.card} GB: {learner}vLLM on {copies} ({takes.vllm / GIB:.0f} for weights and KV "
            f"cache)"
        )
    return f"{what} {MODELS[name].hub}{adapters}{with_what}; {where}{cpu}"


EACH = [(name, machine) for machine in MACHINES for name in MODELS]


MODEL_RL: dict[str, tuple[str, RLConfig]] = {
    f"{stage}-{n}{m.end}": (described(what, n, m, make(n, m)), make(n, m))
    for stage, what, make in (("r1-zero", "R1-Zero of", rl_zero), ("r1-dev2", "Dev1 to Dev2 of", rl_dev2))
    for n, m in EACH
}
MODEL_SFT: dict[str, tuple[str, SFTConfig]] = {
    f"r1-dev1-{n}{m.end}": (described("cold start of", n, m, sft_dev1(n, m)), sft_dev1(n, m)) for n, m in EACH
}
MODEL_REJECT: dict[str, tuple[str, RejectConfig]] = {
    f"cold-start-{n}{m.end}": (
        described("cold-start data from R1-Zero of", n, m, reject_cold_start_of(n, m)),
        reject_cold_start_of(n, m),
    )
    for n, m in EACH
}
