"""Facts about the held-out loss: what it is the mean of, who is held out, when it is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from r1kit.algo.packing import pack
from r1kit.config import OptimConfig, SFTConfig
from r1kit.model.hf import save_model
from r1kit.stages import sft
from r1kit.training.conversations import encode, prepare, read_conversations
from tiny import make_learner, tiny_model, tiny_tokenizer

TIMINGS = ("time", "seconds/", "tokens_per_second")


def write(path: Path, rows: list[tuple[str, str]]) -> str:
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in rows))
    return str(path)


def rows(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(TIMINGS)} for row in lines]


def heldout(run: Path) -> dict[int, float]:
    return {int(row["step"]): row["heldout/nll"] for row in rows(run) if "heldout/nll" in row}


@pytest.fixture
def cfg(tmp_path: Path) -> SFTConfig:
    """Two conversations of each prompt; 10 steps."""
    save_model(tiny_model(tie=True), tiny_tokenizer(), tmp_path / "model")
    data = write(tmp_path / "data.jsonl", [(f"Make {i // 2}", f" {i % 2}{'23' * (i % 3)}") for i in range(40)])
    return SFTConfig(
        run=tmp_path / "run", model=str(tmp_path / "model"), data=(data,), epochs=1, batch_size=4, max_tokens=60,
        optim=OptimConfig(lr=1e-2), save_every=3, tokens_per_microbatch=64, device="cpu", dtype="fp32",
    )  # fmt: skip


def test_it_is_the_mean_over_the_assistants_tokens(tmp_path: Path):
    learner, tokenizer = make_learner(), tiny_tokenizer()
    file = write(
        tmp_path / "a.jsonl", [("Make 3", " 8"), ("Make 5 from 8 and 3", " <think>8-3=5</think>5"), ("a", "b")]
    )
    data = prepare(read_conversations([file]), tokenizer, "short", 99)
    logprobs = torch.cat([learner.logprobs(pack([one])) for one in encode(list(data.rendered), tokenizer)])
    assert len(logprobs) == data.num_trained
    for budget in (8, 1000):
        found = sft.heldout_nll(learner, data.rendered, tokenizer, budget)
        assert found == pytest.approx(-logprobs.mean().item(), rel=1e-5)


def test_prompts_are_held_out_whole_and_whatever_else_is_there(cfg: SFTConfig, tmp_path: Path):
    cfg = replace(cfg, heldout_share=0.3)
    train, held_out = sft.split(cfg)
    sides = [{one.messages[0].content for one in side} for side in (train, held_out)]
    assert len(train) + len(held_out) == 40 and not sides[0] & sides[1]
    assert 2 <= len(sides[1]) <= 12
    more = write(tmp_path / "more.jsonl", [(f"Make {i}", " x") for i in range(300)])
    train, held_out = sft.split(replace(cfg, data=(*cfg.data, more)))
    again = {one.messages[0].content for one in held_out}
    assert again & {f"Make {i}" for i in range(20)} == sides[1]
    assert 0.2 < len(again) / 300 < 0.4


def test_it_is_measured_before_the_first_step_and_after_the_last(cfg: SFTConfig, capsys: pytest.CaptureFixture[str]):
    other = write(cfg.run.with_name("test.jsonl"), [("Make 3", " 823"), ("Make 4", " 823")])
    cfg = replace(cfg, heldout_data=(other,), heldout_every=4)
    sft.main(cfg)
    found = heldout(cfg.run)
    assert list(found) == [0, 4, 8, 10]
    assert found[10] < found[0]
    assert "held out: 2 conversations" in capsys.readouterr().out
    plain = replace(cfg, run=cfg.run.with_name("plain"), heldout_data=())
    sft.main(plain)
    trained = [row for row in rows(cfg.run) if "loss/nll" in row]
    assert trained == rows(plain.run), "measuring changes nothing"


def test_held_out_conversations_are_not_trained_on(cfg: SFTConfig):
    cfg = replace(cfg, heldout_share=0.3, heldout_every=100)
    train, _ = sft.split(cfg)
    sft.main(cfg)
    trained = [row for row in rows(cfg.run) if "loss/nll" in row]
    assert len(trained) == -(-len(train) // 4) and set(heldout(cfg.run)) == {0, len(trained)}


def test_a_stopped_run_measures_as_an_uninterrupted_one(cfg: SFTConfig):
    cfg = replace(cfg, heldout_share=0.3, heldout_every=3)
    straight = replace(cfg, run=cfg.run.with_name("straight"))
    sft.main(straight)
    for stop in (1, 4):
        sft.main(replace(cfg, stop_after=stop))
    sft.main(cfg)
    assert rows(cfg.run) == rows(straight.run) and len(heldout(cfg.run)) > 2


def test_a_share_that_leaves_a_side_empty_is_refused(cfg: SFTConfig):
    for share, side in ((1e-9, "hold out"), (1 - 1e-9, "train on")):
        with pytest.raises(ValueError, match=f"of the prompts of 40 conversations leaves none to {side}"):
            sft.main(replace(cfg, heldout_share=share))
    with pytest.raises(ValueError, match="--heldout-share is 1.0"):
        replace(cfg, heldout_share=1.0)
    with pytest.raises(ValueError, match="--heldout-every is 0"):
        replace(cfg, heldout_every=0)
    assert not cfg.run.exists()
