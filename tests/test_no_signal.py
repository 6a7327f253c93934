"""A run whose rewards teach nothing says so, and which of the reasons it is: once for each of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r1kit import presets
from r1kit.config import RLConfig
from r1kit.report.read import read_run
from r1kit.stages import rl
from r1kit.training.no_signal import ROLLOUTS, SignalWatch, diagnosis, silence, together
from r1kit.types import Completion, FinishReason, Problem, Sample, Score, Verdict
from scripted import ANSWERS, save_scripted_model

PROBLEM = Problem("p", "sums", (), "23", "number")


def sample(
    verdict: Verdict, reason: str = "", *, reward: float | None = None, form: float | None = 1.0,
    text: str = "It is 5.", finish: FinishReason = "stop", scorer: str = "number",
) -> Sample:  # fmt: skip
    parts = {} if form is None else {"format": form}
    earned = float(verdict == "right") if reward is None else reward
    problem = replace(PROBLEM, scorer=scorer)
    return Sample(problem, (1,), Completion((2,), (), text, finish), Score(earned, verdict, reason, parts=parts))


RIGHT = [sample("right"), sample("right")]
WRONG = [sample("wrong", "5 is not 23"), sample("wrong", "77 is not 23")]
NO_FORM = [sample("wrong", "no answer; format: no <think>", form=0.0)] * 2
TORN = [sample("right"), sample("wrong")]


def said(*groups: list[Sample]) -> str:
    found = silence(groups)
    assert found is not None
    return f"{found.case}: {diagnosis(found)}"


def test_a_group_that_differs_in_anything_is_a_signal():
    assert silence([RIGHT, TORN]) is None
    assert silence([[sample("wrong", reward=0.1), sample("wrong", reward=0.2)]]) is None
    assert silence([[sample("wrong", reward=float("nan"))] * 2]) is None, "the loss must see it"
    assert silence([]) is None
    assert silence([RIGHT, WRONG]) is not None


def test_all_wrong_comes_with_the_commonest_reason_and_an_example():
    told = said([*WRONG, sample("wrong", "no answer", text="I  do\nnot know.")], WRONG)
    assert told.startswith("all wrong: none of 5 completions is right; most often (4): 5 is not 23; one ends with")
    assert "'It is 5.'" in told and "Try easier problems, a larger --group-size" in told
    long = said([sample("wrong", "no answer", text="x" * 500 + " the\nend")] * 2)
    assert "...xxx" in long and "xx the end'" in long and len(long) < 500


def test_all_right_all_or_none_and_no_form_are_other_cases():
    assert said(RIGHT, RIGHT).startswith("all right: all of 4 completions are right. Try harder problems")
    told = said(RIGHT, WRONG)
    assert told.startswith("all or none: 2 of 4 completions are right, in each group all or none; most often (2): 5 is")
    told = said(NO_FORM, NO_FORM)
    assert told.startswith(
        "no form: none of 4 completions has the form that --reward.format asks for; most often (4): no"
    )
    assert "--reward.format free" in told
    assert said([sample("wrong", "no answer", form=None)] * 2).startswith("all wrong"), "no form is asked for"
    general = [sample("undecided", scorer="helpful", reward=0.0)] * 2
    assert said(general).startswith("all the same: ") and said(general, RIGHT).startswith("all right: ")


def test_completions_that_are_cut_off_are_named_with_the_flag():
    told = said([sample("wrong", "no answer", finish="length")] * 3 + [sample("wrong", "no answer")])
    assert "3 are cut off at the length cap. Try a higher --max-new-tokens, easier problems" in told
    assert "cut off" not in said([sample("wrong", finish="length"), sample("wrong")])


def test_rollouts_are_judged_together():
    both = together([one for groups in ([WRONG], [NO_FORM], [RIGHT]) if (one := silence(groups)) is not None])
    assert (both.case, both.completions, both.right, both.in_form) == ("all or none", 6, 2, 4)
    assert sorted(fault.count for fault in both.faults.values()) == [2, 2]


def test_it_is_said_after_so_many_rollouts_on_end_and_once_for_each_case():
    watch = SignalWatch()
    lines = [watch.look([group]) for group in [WRONG] * (ROLLOUTS - 1) + [TORN] + [WRONG] * (ROLLOUTS + 3)]
    assert [bool(line) for line in lines] == [False] * (2 * ROLLOUTS - 1) + [True] + [False] * 3
    assert lines[2 * ROLLOUTS - 1].startswith(
        f"no signal in the last {ROLLOUTS} rollouts, the rewards in every group are"
    )
    later = [watch.look([RIGHT]) for _ in range(ROLLOUTS)]
    assert [line for line in later if "all or none" in line] == later[:1]
    assert "all of 10 completions are right" in later[-1]


@pytest.fixture
def cfg(tmp_path: Path) -> RLConfig:
    """The model answers 23 or 24, in the right form; no problem has that answer."""
    save_scripted_model(tmp_path / "model", ANSWERS)
    rows = [{"prompt": f"Sum {i}", "answer": "99", "scorer": "number", "split": "train"} for i in range(8)]
    task = tmp_path / "sums.jsonl"
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return replace(
        presets.RL["tiny"][1], run=tmp_path / "run", model=str(tmp_path / "model"), tasks=(str(task),),
        steps=ROLLOUTS + 2, problems_per_step=2, group_size=2, max_new_tokens=24, eval_every=0, save_every=ROLLOUTS + 1,
        device="cpu", dtype="fp32",
    )  # fmt: skip


def notes(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "notes.jsonl").read_text().splitlines()]


def test_a_run_says_it_and_keeps_it_and_the_report_shows_it(cfg: RLConfig, capsys: pytest.CaptureFixture[str]):
    rl.main(cfg)
    (note,) = notes(cfg.run)
    assert note["step"] == ROLLOUTS and "none of 20 completions is right" in note["text"]
    assert capsys.readouterr().out.count(note["text"]) == 1
    assert f"step {ROLLOUTS}: {note['text']}" in read_run(cfg.run).notes
    metrics = [json.loads(line) for line in (cfg.run / "metrics.jsonl").read_text().splitlines()]
    assert [row["reward/equal_groups"] for row in metrics] == [1.0] * cfg.steps


def test_groups_that_dynamic_sampling_drops_count_too(cfg: RLConfig):
    rl.main(replace(cfg, algo=replace(cfg.algo, dynamic_sampling=1), steps=ROLLOUTS))
    (note,) = notes(cfg.run)
    assert f"none of {2 * 2 * 2 * ROLLOUTS} completions is right" in note["text"]


def test_what_was_said_after_the_checkpoint_is_forgotten_with_its_steps(cfg: RLConfig):
    rl.main(replace(cfg, save_every=ROLLOUTS - 1, stop_after=ROLLOUTS))
    assert len(notes(cfg.run)) == 1
    rl.main(replace(cfg, save_every=ROLLOUTS - 1))
    assert notes(cfg.run) == [], "the run went on from step 4, and two rollouts are too few"
