"""The model card of a pretrained base: the command that remakes it, what it is for, and the shipped models' cards."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import tyro

from fake_run import make_fake_pretrain, write_json
from r1kit import presets
from r1kit.config import PretrainConfig, to_dict
from r1kit.report.card import pretrain_card


def card_of(cfg: PretrainConfig, run: Path) -> str:
    make_fake_pretrain(run, steps=60)
    write_json(run / "config.json", {**to_dict(replace(cfg, run=run)), "stage": "pretrain", "r1kit": "0.1.0"})
    return pretrain_card(run, {"text": 0.75, "noise": 0.25}, 1_230_000)


def command_in(card: str) -> str:
    [command] = re.findall("^    (r1kit .*)$", card, re.MULTILINE)
    return command


@pytest.mark.parametrize("name", presets.PRETRAIN)
def test_the_command_of_a_preset_is_its_name_wherever_it_ran(name: str, tmp_path: Path):
    assert command_in(card_of(presets.PRETRAIN[name][1], tmp_path)) == f"r1kit pretrain {name}"


def test_the_command_has_a_flag_for_every_change(tmp_path: Path):
    preset = presets.PRETRAIN["demo-student"][1]
    changed = replace(preset, seed=3, shape=replace(preset.shape, layers=2), optim=replace(preset.optim, lr=1e-3))
    program, stage, *words = shlex.split(command_in(card_of(changed, tmp_path)))
    assert (program, stage) == ("r1kit", "pretrain")
    assert tyro.extras.overridable_config_cli(presets.PRETRAIN, args=words) == changed


def test_the_students_card_says_what_it_is_for(tmp_path: Path):
    student = card_of(presets.PRETRAIN["demo-student"][1], tmp_path / "student")
    base = card_of(presets.PRETRAIN["demo"][1], tmp_path / "base")
    assert "# r1kit demo student\n" in student and "`demo-student`" in student and "distilled" in student
    assert "# r1kit demo base\n" in base and "R1-Zero" in base and "student" not in base
    for card in (student, base):
        assert "1.23M parameters" in card and "| text | 75% |" in card and "\nNot evaluated.\n" in card


@pytest.mark.parametrize(("model", "name"), [("demo-base", "demo"), ("demo-student", "demo-student")])
def test_a_shipped_models_card_is_that_of_its_preset(model: str, name: str):
    card = (resources.files("r1kit") / "assets" / model / "README.md").read_text(encoding="utf-8")
    cfg = presets.PRETRAIN[name][1]
    assert command_in(card) == f"r1kit pretrain {name}"
    assert f"Seed {cfg.seed}, {cfg.steps:,} steps of about {cfg.tokens_per_step:,} tokens" in card
    assert ("student" in card) == (model == "demo-student")
    shape = cfg.shape
    assert f"{shape.layers} layers, width {shape.hidden}, {shape.heads} heads, {shape.kv_heads} key/value" in card
