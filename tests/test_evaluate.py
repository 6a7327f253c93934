"""`r1kit evaluate`: the files and the table say the same, where they go, and what is refused before loading."""

from __future__ import annotations

import json
from dataclasses import replace
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

import pytest

from r1kit.config import EvalConfig
from r1kit.stages.evaluate import main
from r1kit.training import evaluation
from scripted import ANSWERS, save_scripted_model, save_scripted_run

K = 7


@pytest.fixture
def cfg(tmp_path: Path) -> EvalConfig:
    """A run whose checkpoint answers 23 or 24, and problems of which each is right for some."""
    run, file = tmp_path / "run", tmp_path / "sums.jsonl"
    save_scripted_run(run, 3, ANSWERS)
    (run / "evals").mkdir()
    (run / "evals" / "step-000003.json").write_text("the run's own")
    rows = [
        {"prompt": f"Problem {i}", "answer": "23" if i < 4 else "24", "scorer": "number", "split": "heldout"}
        for i in range(6)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return EvalConfig(
        model=str(run), tasks=(str(file),), num_problems=6, num_samples=K, max_new_tokens=9, device="cpu", dtype="fp32"
    )


def test_the_numbers_are_those_of_the_completions(cfg: EvalConfig, capsys: pytest.CaptureFixture[str]):
    path = main(cfg)
    numbers = json.loads(path.read_text())["results"]["sums"]
    problems = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
    right = [[c["verdict"] == "right" for c in problem["completions"]] for problem in problems]
    assert (len(right), {len(of_problem) for of_problem in right}) == (6, {K})
    for problem in problems:
        for c in problem["completions"]:
            assert (c["verdict"] == "right") == (f"<answer>{problem['gold']}</answer>" in c["text"])
    pass_at_1 = [fmean(of_problem) for of_problem in right]
    votes = [
        [c["extracted"] for c in problem["completions"] if c["extracted"]]  # fmt: skip
        for problem in problems
    ]
    assert all(of_problem.count("23") != of_problem.count("24") for of_problem in votes), "no ties, so that: "
    cons = [float(max(set(v), key=v.count) == p["gold"]) for v, p in zip(votes, problems, strict=True)]
    completions = [c for problem in problems for c in problem["completions"]]
    truncated = fmean(c["finish_reason"] == "length" for c in completions)
    assert 0.2 < fmean(pass_at_1) < 0.9 and 0 < truncated < 0.5 and 0 < fmean(cons) < 1, "or the numbers prove little"
    assert numbers["pass@1"] == pytest.approx(fmean(pass_at_1))
    assert numbers["pass@1_se"] == pytest.approx(stdev(pass_at_1) / sqrt(6))
    assert numbers[f"cons@{K}"] == pytest.approx(fmean(cons))
    assert numbers[f"pass@{K}"] == fmean(any(of_problem) for of_problem in right)
    assert numbers["length"] == pytest.approx(fmean(c["tokens"] for c in completions))
    assert (numbers["truncated"], numbers["undecided"]) == (truncated, 0)
    printed = capsys.readouterr().out
    interval = 1.96 * stdev(pass_at_1) / sqrt(6)
    row = next(line for line in printed.splitlines() if line.startswith(" sums"))
    assert f"{100 * fmean(pass_at_1):.1f} ±{100 * interval:.1f}" in row
    assert f"{100 * fmean(cons):.1f} ±" in row and f"{100 * truncated:.1f}" in row


def test_the_sampling_policy_is_printed_with_the_numbers(cfg: EvalConfig, capsys: pytest.CaptureFixture[str]):
    main(replace(cfg, temperature=0.6, top_p=0.95, top_k=40, seed=7))
    words = " ".join(capsys.readouterr().out.split())
    for setting in ("temperature 0.6", "top-p 0.95", "top-k 40", "7 completions", "most 9 tokens", "short", "heldout"):
        assert setting in words
    assert "seed 7" in words


def test_results_lie_beside_the_runs_own_and_each_policy_apart(cfg: EvalConfig):
    run = Path(cfg.model)
    path = main(cfg)
    assert path.parent.parent == run / "evaluations" and path.name == "step-000003.json"
    first = path.read_text(), path.with_suffix(".jsonl").read_text()
    others = [
        replace(cfg, seed=7),
        replace(cfg, max_new_tokens=20),
        replace(cfg, top_p=0.5),
        replace(cfg, num_problems=2),
    ]
    assert len({path, *(main(other) for other in others)}) == 5
    assert (path.read_text(), path.with_suffix(".jsonl").read_text()) == first
    assert main(cfg) == path and (path.read_text(), path.with_suffix(".jsonl").read_text()) == first
    assert (run / "evals" / "step-000003.json").read_text() == "the run's own"


def test_a_model_that_is_no_checkpoint_is_scored_as_step_0(
    cfg: EvalConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    save_scripted_model(tmp_path / "models" / "mine", ANSWERS)
    path = main(replace(cfg, model="models/mine"))
    assert path.parent.parent == Path("runs/evaluations/models-mine") and path.name == "step-000000.json"
    assert sorted(file.name for file in main(replace(cfg, out=tmp_path / "here")).parent.iterdir()) == [
        "step-000003.json",
        "step-000003.jsonl",
    ]


def test_greedy_sampling_of_several_completions_is_warned_of_once(cfg: EvalConfig, capsys: pytest.CaptureFixture[str]):
    several = json.loads(main(replace(cfg, temperature=0.0)).read_text())
    captured = capsys.readouterr()
    assert captured.err.count("--temperature 0 is greedy") == 1 and "(greedy)" in captured.out
    one = json.loads(main(replace(cfg, temperature=0.0, num_samples=1)).read_text())
    captured = capsys.readouterr()
    assert "greedy, so" not in captured.err and "cons@1" in captured.out
    assert one["results"]["sums"]["pass@1"] == several["results"]["sums"]["pass@1"]


def test_what_is_wrong_is_said_before_the_weights_load(cfg: EvalConfig, tmp_path: Path):
    broken = tmp_path / "broken"
    save_scripted_model(broken, ANSWERS)
    (broken / "model.safetensors").write_bytes(b"not weights")
    cfg = replace(cfg, model=str(broken))
    with pytest.raises(FileNotFoundError, match="missing.jsonl: no such file"):
        main(replace(cfg, tasks=("missing.jsonl",)))
    with pytest.raises(ValueError, match="7 heldout problems asked for, it has 6"):
        main(replace(cfg, num_problems=7))
    with pytest.raises(ValueError, match="no chat template"):
        main(replace(cfg, template="chat"))
    with pytest.raises(ValueError, match="no template 'r2'"):
        main(replace(cfg, template="r2"))
    with pytest.raises(
        ValueError, match=r"with --max-new-tokens 250 .* the model's context of 256 tokens; lower --max"
    ):
        main(replace(cfg, max_new_tokens=250))
    assert not (tmp_path / "run" / "evaluations").exists()


def test_one_that_is_cut_off_goes_on(cfg: EvalConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluation, "BATCH", 2 * K + 1)
    whole, cut = main(replace(cfg, out=Path(cfg.model) / "whole")), replace(cfg, out=Path(cfg.model) / "cut")
    assert not list(whole.parent.glob(".parts-*"))
    real, asked = evaluation.sample_groups, []

    def counted(sampler, tokenizer, problems, *rest, **more):  # noqa: ANN001, ANN002, ANN003, ANN202
        asked.append([problem.messages[0].content for problem in problems])
        if len(asked) in (2, 4):
            raise KeyboardInterrupt
        return real(sampler, tokenizer, problems, *rest, **more)

    monkeypatch.setattr(evaluation, "sample_groups", counted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            main(cut)
    path = main(cut)
    assert [len(part) for part in asked] == [2] * 5 and asked[1] == asked[2] and asked[3] == asked[4]
    assert len({name for part in asked for name in part}) == 6
    assert path.with_suffix(".jsonl").read_text() == whole.with_suffix(".jsonl").read_text()
    assert path.read_text() == whole.read_text() and not list(path.parent.glob(".parts-*"))


def test_what_another_model_left_is_not_taken_for_this_ones(cfg: EvalConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluation, "BATCH", K)
    real, asked = evaluation.sample_groups, []

    def counted(sampler, tokenizer, problems, *rest, **more):  # noqa: ANN001, ANN002, ANN003, ANN202
        asked.append(len(problems))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(sampler, tokenizer, problems, *rest, **more)

    monkeypatch.setattr(evaluation, "sample_groups", counted)
    with pytest.raises(KeyboardInterrupt):
        main(cfg)
    weights = next(Path(cfg.model).glob("checkpoints/*/model.safetensors"))
    weights.touch()
    path = main(cfg)
    assert asked == [1] * 3 + [1] * 6 and not list(path.parent.glob(".parts-*"))
