"""r1kit's verdicts inside other trainers: a reward function for TRL's GRPOTrainer, `compute_score` for verl.

Neither library is imported here. Undecided is no reward: TRL takes None for it, verl has a number and the verdict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from r1kit.config import RewardConfig
from r1kit.model.chat import prefill_of
from r1kit.rewards.accuracy import SCORERS, check_scorer, gold_fault
from r1kit.rewards.pool import VerdictPool, shared_pool
from r1kit.rewards.reward import FREE
from r1kit.types import Message, Problem

Turns = Sequence[dict[str, Any]]


def trl_reward(
    scorer: str = "math",
    gold: str = "answer",
    *,
    reward: RewardConfig = FREE,
    prefill: str = "",
    pool: VerdictPool | None = None,
) -> TRLReward:
    """A reward function for TRL's GRPOTrainer: `GRPOTrainer(model, reward_funcs=trl_reward("math"), ...)`.

    `gold` is the data set's column that `scorer` compares with. By default the reward is the accuracy, 1 or 0, of
    completions in any form; `reward` gives other parts and weights. Where the chat template ends the prompt with
    `<think>`, say so by `prefill="<think>"`: completions then begin inside a thought, and what stands only there is no
    answer. At the end of plain prompts it is seen. Undecided is None, which TRL leaves out.
    """
    check_scorer(scorer)
    return TRLReward(scorer, gold, reward, prefill, pool)


@dataclass(frozen=True)
class TRLReward:
    """What `trl_reward` returns; can be pickled."""

    scorer: str
    gold: str
    reward: RewardConfig
    prefill: str
    pool: VerdictPool | None

    @property
    def __name__(self) -> str:
        """TRL logs `rewards/math_reward/mean`."""
        return f"{self.scorer}_reward"

    def check(self, golds: Sequence[Any]) -> None:
        """ValueError when a gold of the data set cannot be used; to be called before training."""
        faults = [(row, fault) for row, one in enumerate(golds) if (fault := gold_fault(self.scorer, one))]
        if faults:
            row, fault = faults[0]
            raise ValueError(f"row {row}: {self.gold} {fault} ({len(faults)} such rows)")

    def __call__(
        self, prompts: Sequence[str | Turns], completions: Sequence[str | Turns], **columns: Any
    ) -> list[float | None]:
        if self.gold not in columns:
            known = ", ".join(sorted(columns)) or "none"
            raise ValueError(
                f"the data set has no column {self.gold!r} (columns: {known}); name it: trl_reward(gold=...)"
            )
        pairs, lengths = [], columns.get("completion_ids")
        for row, (prompt, completion, gold) in enumerate(zip(prompts, completions, columns[self.gold], strict=True)):
            problem = Problem(str(row), self.scorer, _messages(prompt), gold, self.scorer)
            prefill = self.prefill or (prefill_of(prompt) if isinstance(prompt, str) else "")
            pairs.append((problem, _joined(prefill, _text(completion))))
        tokens = None if lengths is None else [len(ids) for ids in lengths]
        scores = (self.pool or shared_pool()).score_many(pairs, self.reward, tokens)
        _log(columns, "verdict", [score.verdict for score in scores])
        _log(columns, "reason", [score.reason for score in scores])
        return [None if score.verdict == "undecided" else score.reward for score in scores]


def verl_compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    scorer: str = "",
    prefill: str = "",
    **_: Any,
) -> dict[str, Any]:
    """verl's `custom_reward_function`: the accuracy as "score", with "acc", "verdict", "reason" and "pred" beside it.

    The scorer is `scorer` (custom_reward_function.reward_kwargs), else `extra_info["scorer"]`, else `data_source`
    itself. A `ground_truth` may be JSON text where the scorer wants an object. Undecided has score 0, and says so.
    ValueError when no scorer is named.
    """
    chosen = scorer or (extra_info or {}).get("scorer") or data_source
    if chosen not in SCORERS:
        raise ValueError(
            f"no scorer for data source {data_source!r}; set custom_reward_function.reward_kwargs.scorer or "
            f'extra_info["scorer"] to one of {", ".join(SCORERS)}'
        )
    problem = Problem(data_source, chosen, (), _gold(chosen, ground_truth), chosen)
    score = shared_pool().score(problem, _joined(prefill, solution_str))
    return {
        "score": score.reward,
        "acc": score.verdict == "right",
        "verdict": score.verdict,
        "reason": score.reason,
        "pred": score.extracted,
    }


def _joined(prefill: str, completion: str) -> str:
    """Unless the completion has the opening tag itself."""
    return completion if completion.lstrip().startswith("<think>") else prefill + completion


def _messages(prompt: str | Turns) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    known = [turn for turn in prompt if turn.get("role") in ("system", "user", "assistant")]
    return tuple(Message(turn["role"], _content(turn)) for turn in known)


def _text(completion: str | Turns) -> str:
    """The last turn of a conversation, with its thought where the template has taken that out."""
    if isinstance(completion, str):
        return completion
    last = next((turn for turn in reversed(completion) if turn.get("role") == "assistant"), {})
    thought = last.get("reasoning_content") or ""
    return f"<think>{thought}</think>{_content(last)}" if thought else _content(last)


def _content(turn: dict[str, Any]) -> str:
    """A turn's text; images and the like are left out."""
    content = turn.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def _gold(scorer: str, ground_truth: Any) -> Any:
    """For math, `[0, 1]` is an interval and no JSON."""
    if scorer in ("exact", "number", "math") or not isinstance(ground_truth, str):
        return ground_truth
    try:
        return json.loads(ground_truth)
    except ValueError:
        return ground_truth


def _log(columns: dict[str, Any], name: str, values: list[str]) -> None:
    """Into TRL's table of completions, where it has one."""
    log: Callable[[str, list[str]], None] | None = columns.get("log_extra")
    if log is not None:
        log(name, values)
