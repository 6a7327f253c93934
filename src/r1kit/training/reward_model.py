"""Reward models: the policy's own decoder with a scalar head, read at the end of the text (R1 V2 section 3.1.1).

A text is the rendered prompt, the part of the completion that the model reads, and the end-of-sequence token. `helpful`
reads the response without its thought, `safety` all of the completion. Shapes: T packed tokens, D width, S texts.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from r1kit.algo.packing import Batch, Packable, microbatches, pack
from r1kit.config import Device, DType
from r1kit.model.chat import CHAT, render_prompt
from r1kit.model.deepseek_v3 import DeepseekConfig, DeepseekV3
from r1kit.model.device import resolve_device, resolve_dtype
from r1kit.model.generic import GenericModel
from r1kit.model.hf import load_model
from r1kit.model.tokenizer import begin_text, load_tokenizer
from r1kit.model.transformer import Decoder, PackedAttention, Transformer, TransformerConfig
from r1kit.rewards.format import parse_completion
from r1kit.run import write_json_atomic
from r1kit.training.base import Loss
from r1kit.training.checkpoint import find_model
from r1kit.training.learner import LocalLearner
from r1kit.types import Message, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Kind = Literal["helpful", "safety"]
ABOUT = "reward_model.json"
# In a folder of its own: what loads a model folder reads every .safetensors file that lies beside config.json.
HEAD = Path("reward_head") / "reward_head.safetensors"


class RewardModel(Decoder):
    """A decoder and a head [1, D] without bias, as transformers' models for sequence classification have it."""

    reward_head: nn.Parameter

    def scores(self, batch: Batch) -> Tensor:
        """Scores [S], fp32: the head's value at the last token of each of the batch's sequences."""
        attention = PackedAttention(batch.lengths, batch.tokens_T.device)
        hidden_TD = self(batch.tokens_T, attention.positions_T, attention)
        last_S = torch.tensor(batch.lengths, device=hidden_TD.device).cumsum(0) - 1
        # bf16 has 8 bits: two responses would often score the same.
        return (hidden_TD[last_S].float() @ self.reward_head.float().T).squeeze(-1)


class TransformerRewardModel(RewardModel, Transformer):
    """Made of the fast decoder."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.reward_head = nn.Parameter(torch.zeros(1, config.hidden))


class DeepseekRewardModel(RewardModel, DeepseekV3):
    """Made of DeepSeek-V3's decoder."""

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__(config)
        self.reward_head = nn.Parameter(torch.zeros(1, config.hidden))


class GenericRewardModel(RewardModel, GenericModel):
    """Made of a model that runs through transformers."""

    def __init__(self, model: GenericModel) -> None:
        super().__init__(model.hf, model.config)
        self.reward_head = nn.Parameter(torch.zeros(1, model.config.hidden))


@torch.no_grad()
def add_head(model: Decoder, head_1D: Tensor) -> RewardModel:
    """A reward model with the weights, type and device of `model`, which is not to be used after."""
    weight = model.embed.weight
    match model:
        case GenericModel():
            reward_model: RewardModel = GenericRewardModel(model)
            reward_model.reward_head.data = reward_model.reward_head.to(weight)
        case DeepseekV3():
            reward_model = DeepseekRewardModel(model.config)
            reward_model.kept = model.kept
        case Transformer():
            reward_model = TransformerRewardModel(model.config)
        case _:
            raise TypeError(f"no reward model is made of a {type(model).__name__}")
    if not isinstance(model, GenericModel):
        reward_model = reward_model.to(weight.dtype).to(weight.device)
        reward_model.load_state_dict(model.state_dict(), strict=False)
    reward_model.reward_head.copy_(head_1D)
    return reward_model


def first_head(width: int, seed: int) -> Tensor:
    """First weights [1, D] of a head: normal of variance 1 / (D + 1) (Stiennon et al. 2020, appendix B)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(1, width).normal_(0.0, (width + 1) ** -0.5, generator=generator)


class RewardModelLearner(LocalLearner):
    """`LocalLearner` whose losses see the scores [S] of a batch's sequences in place of log-probs."""

    model: RewardModel

    def forward_backward(self, batch: Batch, loss: Loss) -> dict[str, Tensor]:
        value, metrics = loss(self.model.scores(batch), batch)
        value.backward()
        return metrics

    def save(self, folder: Path) -> None:
        super().save(folder)
        save_head(self.model, folder)

    def _saved_model(self, folder: Path) -> RewardModel:
        return _load(folder, self.params[0].dtype, self.device)


def save_head(model: RewardModel, folder: Path) -> None:
    """Write the head beside the decoder that `save_model` wrote."""
    from safetensors.torch import save_file

    (folder / HEAD).parent.mkdir(parents=True, exist_ok=True)
    save_file({"weight": model.reward_head.detach().cpu().contiguous()}, folder / HEAD, metadata={"format": "pt"})


def _load(folder: Path, dtype: torch.dtype, device: torch.device | str) -> RewardModel:
    from safetensors.torch import load_file

    if not (folder / HEAD).is_file():
        raise FileNotFoundError(f"{folder} has no {HEAD}: not a reward model; give a run of `r1kit reward-model`")
    return add_head(load_model(folder, dtype, device), load_file(folder / HEAD)["weight"])


def read_part(kind: Kind, text: str) -> str:
    """What a reward model reads of a completion: `helpful` the response after the thought, `safety` all of it."""
    return parse_completion(text).response if kind == "helpful" else text.strip()


def text_tokens(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: Sequence[Message], response: str
) -> tuple[int, ...]:
    """The rendered prompt without a prefill, the response, and the end-of-sequence token.

    The two are tokenized apart, as they are when a policy samples. After a plain template the response starts with a
    space, as in the corpus; such a template holds one question, so earlier turns are rendered one after the other.
    """
    if template in CHAT:
        prompt, space = _without_prefill(template, messages, tokenizer), ""
    else:
        prompt, space = _plain_dialogue(template, messages, tokenizer), " "
    ids = tokenizer([prompt, space + response], add_special_tokens=False)["input_ids"]
    prompt_ids, response_ids = cast("list[list[int]]", ids)
    return (*prompt_ids, *response_ids, cast(int, tokenizer.eos_token_id))


def _plain_dialogue(template: str, messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> str:
    text, question = "", []
    begin = begin_text(tokenizer)  # before the first turn only
    for message in messages:
        if message.role != "assistant":
            question.append(message)
            continue
        text += f"{_without_prefill(template, question, tokenizer).removeprefix(begin)} {message.content}\n"
        question = []
    return begin + text + _without_prefill(template, question, tokenizer).removeprefix(begin)


def _without_prefill(template: str, messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> str:
    prompt = render_prompt(template, messages, tokenizer)
    return prompt.text.removesuffix(prompt.prefill).rstrip(" ") if prompt.prefill else prompt.text


@torch.no_grad()
def score_texts(model: RewardModel, texts: Sequence[tuple[int, ...]], tokens_per_microbatch: int) -> list[float]:
    """The score of every text, in order; the same texts give the same scores."""
    scores = [0.0] * len(texts)
    for part in microbatches([len(text) for text in texts], tokens_per_microbatch):
        batch = pack([Packable(texts[i], len(texts[i])) for i in part], model.embed.weight.device)
        for i, score in zip(part, model.scores(batch).tolist(), strict=True):
            scores[i] = score
    return scores


@dataclass(frozen=True)
class Scale:
    """Where a trained reward model's scores lie on its training texts (the paper states no scaling; ours).

    Of `helpful` the raw scores, of `safety` P(safe).
    """

    mean: float
    std: float
    lowest: float


def scale_of(kind: Kind, raw: Sequence[float]) -> Scale:
    """The scale that these raw scores have."""
    values = [_probability(score) for score in raw] if kind == "safety" else list(raw)
    return Scale(statistics.fmean(values), statistics.pstdev(values), min(values))


class PreferenceScorer:
    """A trained reward model that scores completions: the preference reward of RL for all scenarios (V2 eq. 10)."""

    def __init__(
        self, model: RewardModel, tokenizer: PreTrainedTokenizerBase, kind: Kind, template: str, scale: Scale,
        *, tokens_per_microbatch: int = 16_384,
    ) -> None:  # fmt: skip
        self.model, self.tokenizer = model, tokenizer
        self.kind: Kind = kind
        self.template, self.scale = template, scale
        self.tokens_per_microbatch = tokens_per_microbatch

    def score(self, items: Sequence[tuple[Problem | Sequence[Message], str]]) -> list[float]:
        """A preference for each (problem or its messages, prefill + completion), in order.

        helpful: (score - mean) / standard deviation over the training texts. safety: P(safe), 0 to 1. Where there is
        nothing to read (a thought that is not closed, for `helpful`), the lowest value of the training texts. Of a text
        longer than the model's context, the end is read.
        """
        scores = [self._scaled(self.scale.lowest)] * len(items)
        texts: dict[int, tuple[int, ...]] = {}
        for i, (asked, completion) in enumerate(items):
            messages = asked.messages if isinstance(asked, Problem) else asked
            if response := read_part(self.kind, completion):
                tokens = text_tokens(self.tokenizer, self.template, messages, response)
                texts[i] = tokens[-self.model.config.context :]
        raw = score_texts(self.model, list(texts.values()), self.tokens_per_microbatch)
        for i, value in zip(texts, raw, strict=True):
            scores[i] = self._scaled(_probability(value) if self.kind == "safety" else value)
        return scores

    def _scaled(self, value: float) -> float:
        return value if self.kind == "safety" else (value - self.scale.mean) / (self.scale.std or 1.0)


def write_about(folder: Path, kind: Kind, template: str, scale: Scale | None, results: dict[str, Any]) -> None:
    """reward_model.json: what `load_reward_model` needs, and the results. Without a scale, training goes on."""
    numbers = {"mean": None, "std": None, "lowest": None} if scale is None else asdict(scale)
    write_json_atomic(folder / ABOUT, {"kind": kind, "template": template, **numbers, **results})


def find_reward_model(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """The model folder and reward_model.json of what `load_reward_model` takes, and its errors; no weights."""
    folder = find_model(path)
    if not (folder / ABOUT).is_file():
        raise FileNotFoundError(f"{folder} has no {ABOUT}: not a reward model; give a run of `r1kit reward-model`")
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    if about["mean"] is None:
        raise ValueError(f"{folder}: the reward model's training has not finished; give its command again first")
    return folder, about


def require_kind(path: str | Path, found: Kind, kind: str) -> None:
    """ValueError where the reward model of `--reward.KIND-model` is of the other kind."""
    if found != kind:
        raise ValueError(f"--reward.{kind}-model {path} is a {found} reward model; train one with --kind {kind}")


def load_reward_model(path: str | Path, device: Device = "auto", dtype: DType = "auto") -> PreferenceScorer:
    """The trained reward model of a run folder of `r1kit reward-model`, or of one of its checkpoints.

    Raises FileNotFoundError where there is none, ValueError when its training has not finished.
    """
    folder, about = find_reward_model(path)
    where = resolve_device(device)
    scale = Scale(about["mean"], about["std"], about["lowest"])
    model = _load(folder, resolve_dtype(dtype, where), where)
    model.requires_grad_(False)
    return PreferenceScorer(model, load_tokenizer(folder), about["kind"], about["template"], scale)


def _probability(logit: float) -> float:
    """The logistic function, without overflow."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
