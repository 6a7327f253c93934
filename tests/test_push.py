"""What is put on the hub: the model's files and nothing of the run, with a card that says what the run folders say.

No network: the hub's client is a recorder, and cards of bases are local files.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError

from fake_run import POLICY, completion, make_fake_run, problem, write_evaluation, write_json
from r1kit import hub
from r1kit.cli import main, parse
from r1kit.config import DistillConfig, OnPolicyConfig, PushConfig, RejectConfig, RLConfig, SFTConfig, to_dict
from r1kit.model.hf import save_model
from r1kit.presets import RL
from r1kit.report.model_card import front_matter, lineage
from r1kit.stages import distill, rl, sft
from r1kit.training.checkpoint import save_checkpoint
from tiny import tiny_model, tiny_tokenizer

REPO = "my-org/my-model"


class FakeHub:
    """Stands in for HfApi: keeps what is asked, and the files as they were uploaded."""

    calls: list[tuple[str, dict[str, Any]]] = []
    files: dict[str, bytes] = {}
    refusing: str = ""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self._note("create_repo", repo_id=repo_id, private=private, exist_ok=exist_ok)

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        self._note("upload_folder", repo_id=repo_id, commit_message=commit_message)
        FakeHub.files = {str(f.relative_to(folder_path)): f.read_bytes() for f in folder_path.rglob("*") if f.is_file()}

    def _note(self, name: str, **named: Any) -> None:
        if name == self.refusing:
            raise OSError("403 Forbidden: no write access")
        self.calls.append((name, named))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    FakeHub.calls, FakeHub.files, FakeHub.refusing = [], {}, ""
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    return FakeHub


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The hub has one card, Qwen's; every other model is not to be had."""
    card = tmp_path / "qwen-card.md"
    card.write_text(
        "---\nlicense: apache-2.0\nlicense_link: https://example.org/LICENSE\nlanguage:\n- en\n---\n# Qwen\n"
    )

    def download(repo_id: str, filename: str) -> str:
        assert filename == "README.md"
        if repo_id == "Qwen/Qwen2.5-1.5B":
            return str(card)
        raise FileNotFoundError(f"{repo_id}: offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    yield


def add_checkpoint(run: Path, step: int) -> Path:
    model, tokenizer = tiny_model(tie=True), tiny_tokenizer()

    def write(folder: Path) -> None:
        save_model(model, tokenizer, folder)
        (folder / "learner.pt").write_bytes(b"x" * 1000)
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter_config.json").write_text("{}")

    return save_checkpoint(run, step, write, {"data": "hash"}, 3)


def rl_run(run: Path, **changes: Any) -> Path:
    """An rl run folder of 40 steps with evaluations and a checkpoint, made without training."""
    make_fake_run(run, steps=40, eval_every=20, problems=4, samples=2)
    config = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", {**config, **changes})
    add_checkpoint(run, 40)
    return run


def sft_run(run: Path, **changes: Any) -> Path:
    run.mkdir(parents=True)
    write_json(run / "config.json", {**to_dict(replace(SFTConfig(run=run), **changes)), "stage": "sft"})
    add_checkpoint(run, 10)
    return run


def card_of(path: Path) -> tuple[str, dict[str, Any]]:
    """The card's text, and its front matter as the hub's own client reads it."""
    text = (hub.stage_folder(path, REPO) / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.to_dict() == front_matter(text) == yaml.safe_load(text.split("---\n")[1])
    return text, card.data.to_dict()


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_a_dry_run_writes_the_folder_and_uploads_nothing(
    tmp_path: Path, api: type[FakeHub], capsys: pytest.CaptureFixture[str]
):
    run = rl_run(tmp_path / "zero")
    assert main(["push", str(run), REPO, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    folder = run / "hub"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "README.md"} <= files
    assert "adapter/adapter_config.json" in files
    assert not files & {"learner.pt", "state.json", "manifest.json"}
    assert all(name in shown for name in files) and f"{folder} is what would be uploaded to {REPO}" in shown
    assert api.calls == []
    original = run / "checkpoints" / "step-000040" / "model.safetensors"
    assert (folder / "model.safetensors").samefile(original), "the disk holds the weights once"


def test_a_push_makes_the_repository_and_uploads_the_folder(
    tmp_path: Path, api: type[FakeHub], capsys: pytest.CaptureFixture[str]
):
    run = rl_run(tmp_path / "zero")
    assert main(["push", str(run), REPO]) == 0
    assert capsys.readouterr().out == f"https://huggingface.co/{REPO}\n"
    (create, made), (upload, sent) = api.calls
    assert (create, made) == ("create_repo", {"repo_id": REPO, "private": True, "exist_ok": True})
    assert upload == "upload_folder" and sent["repo_id"] == REPO
    original = run / "checkpoints" / "step-000040" / "model.safetensors"
    assert api.files["model.safetensors"] == original.read_bytes()
    assert b"# my-model" in api.files["README.md"] and "learner.pt" not in api.files
    assert not (run / "hub").exists()
    main(["push", str(run), REPO, "--public"])
    assert api.calls[2][1]["private"] is False


def test_the_card_has_base_licence_data_and_scores(tmp_path: Path):
    run = rl_run(tmp_path / "zero", model="Qwen/Qwen2.5-1.5B", tasks=["gsm8k", "org/set@train"], template="r1-zero")
    card, data = card_of(run)
    assert data["base_model"] == "Qwen/Qwen2.5-1.5B" and data["license"] == "apache-2.0" and data["language"] == ["en"]
    assert data["library_name"] == "transformers" and data["pipeline_tag"] == "text-generation"
    assert data["datasets"] == ["openai/gsm8k", "org/set"] and data["tags"] == ["r1kit", "rl"]
    assert "https://huggingface.co/Qwen/Qwen2.5-1.5B" in section(card, "Base and licence")
    assert "`apache-2.0`, https://example.org/LICENSE" in section(card, "Base and licence")
    assert "[gsm8k](https://huggingface.co/datasets/openai/gsm8k)" in section(card, "Data")
    assert "reinforcement learning with GRPO (40 steps)" in card


def test_scores_are_the_last_evaluations_with_their_intervals(tmp_path: Path):
    run = rl_run(tmp_path / "zero")
    rows = [problem(str(i), [completion("right" if i < 3 else "wrong"), completion("wrong")]) for i in range(4)]
    write_evaluation(run, 40, rows, {**POLICY, "num_samples": 2})
    write_evaluation(run, 60, rows[:1], POLICY)  # of a later step than the checkpoint's
    scores = section(card_of(run)[0], "Scores")
    # Shares 1/2, 1/2, 1/2, 0: mean 0.375, standard error 0.125.
    assert "| remainder | 4 | 37.5% ± 24.5% |" in scores and "2 samples per problem, temperature 1.0" in scores
    assert "95% interval" in scores and scores.count("| remainder |") == 1
    for path in (run / "evals").glob("step-000040.*"):
        path.unlink()
    assert "Of step 20, the last one evaluated" in section(card_of(run)[0], "Scores")
    for path in (run / "evals").iterdir():
        path.unlink()
    assert section(card_of(run)[0], "Scores").strip() == "Not evaluated."


def test_later_evaluations_of_the_same_checkpoint_are_in_the_card(tmp_path: Path):
    run = rl_run(tmp_path / "zero")
    later = run / "evaluations" / "heldout-16x128-t0.6-1a2b3c4d"
    write_evaluation(later.parent, 40, [problem("a", [completion("right")])], {**POLICY, "temperature": 0.6})
    (later.parent / "evals").rename(later)
    scores = section(card_of(run)[0], "Scores")
    assert "temperature 0.6" in scores and "temperature 1.0" in scores
    assert "| remainder | 1 | 100.0% |" in scores  # one problem has no interval


@pytest.mark.parametrize(("samples", "shares"), [(1, "pass@1 | cons@1"), (2, "pass@1 | cons@2 | pass@2")])
def test_a_share_has_one_column(tmp_path: Path, samples: int, shares: str):
    run = rl_run(tmp_path / "zero")
    write_evaluation(run, 40, [problem("a", [completion("right")] * samples)], {**POLICY, "num_samples": samples})
    assert f"| task | problems | {shares} | length, tokens |" in section(card_of(run)[0], "Scores")


def test_an_unknown_licence_is_to_be_filled_in(tmp_path: Path):
    card, data = card_of(rl_run(tmp_path / "zero", model="Org/Gone-1B"))
    assert data["license"] == "unknown" and data["base_model"] == "Org/Gone-1B"
    assert "unknown: fill in" in section(card, "Base and licence")


def test_a_base_on_this_machine_is_no_name_on_the_hub(tmp_path: Path):
    base = tmp_path / "base"
    save_model(tiny_model(tie=True), tiny_tokenizer(), base)
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: mine\n---\n")
    card, data = card_of(rl_run(tmp_path / "zero", model=str(base)))
    assert "base_model" not in data and (data["license"], data["license_name"]) == ("other", "mine")
    _, data = card_of(rl_run(tmp_path / "shipped", model="demo-base"))
    assert "base_model" not in data and data["license"] == "mit"


def test_the_stages_before_are_followed_to_the_base(tmp_path: Path):
    data = tmp_path / "cold-start"
    data.mkdir()
    write_json(data / "config.json", {**to_dict(RejectConfig(run=data, model="demo-base")), "stage": "reject"})
    (data / "README.md").write_text("---\nlanguage: [en]\n---\n# Fine-tuning data\n\n12 rows\n\n## Settings\n")
    dev1 = sft_run(tmp_path / "dev1", model="Qwen/Qwen2.5-1.5B", data=(str(data),))
    dev2 = rl_run(tmp_path / "dev2", model=str(dev1 / "checkpoints" / "step-000010"), reward={"format": "r1"})
    assert [folder.name for folder, _ in lineage(dev2)[0]] == ["dev1", "dev2"]
    card, matter = card_of(dev2)
    assert matter["base_model"] == "Qwen/Qwen2.5-1.5B" and matter["tags"] == ["r1kit", "sft", "rl"]
    assert "`Qwen/Qwen2.5-1.5B`, then supervised fine-tuning, then reinforcement learning with GRPO" in card
    shown = section(card, "Data")
    assert "12 rows" in shown and "\n#### Fine-tuning data\n" in shown and "language: [en]" not in shown
    assert "</think>` ends the thought, and the response follows" in card


def test_the_commands_repeat_the_runs(tmp_path: Path):
    run = rl_run(tmp_path / "zero", track=["wandb"], push_to_hub=REPO)
    lines = section(card_of(run)[0], "Training").split("```sh\n")[1].split("```")[0].splitlines()
    assert len(lines) == 1
    program, *args = shlex.split(lines[0])
    call = parse(args)
    assert program == "r1kit" and call is not None
    saved = json.loads((run / "config.json").read_text())
    expected = {name: saved[name] for name in to_dict(RLConfig())} | {"track": [], "push_to_hub": ""}
    assert to_dict(call.arguments[0]) == expected, "where it is shown and put is not what it is"
    assert '"stage": "rl"' in section(card_of(run)[0], "Training")


@pytest.mark.parametrize("template", ["short", "r1-zero", "r1-zero-prefilled"])
def test_the_snippet_runs_and_has_the_prompt_that_was_trained(template: str, tmp_path: Path, capsys: Any):
    run = rl_run(tmp_path / "zero", template=template, max_new_tokens=3)
    card, _ = card_of(run)
    code = card.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace(REPO, str(run / "hub")), names)
    assert names["output"].shape[1] - names["inputs"]["input_ids"].shape[1] == 3
    assert names["prompt"].rstrip().endswith("<think>") == template.endswith("prefilled")
    assert f"```\n{names['prompt']}\n```" in card
    opens = "The prompt ends with `<think>`" if template.endswith("prefilled") else "The model opens `<think>` itself"
    assert opens in section(card, "Use") and "in `<answer> </answer>`" in section(card, "Use")


def test_a_chat_template_is_used_by_name(tmp_path: Path):
    run = rl_run(tmp_path / "zero", template="chat")
    folder = run / "checkpoints" / "step-000040"
    tokenizer = tiny_tokenizer()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "manifest.json").unlink()
    card = card_of(folder)[0]
    assert "tokenizer.apply_chat_template([" in card and "the tokenizer's own chat template" in card
    assert "<user>What is 12 * 13?<assistant>" in card and tokenizer.chat_template is None


def test_a_model_of_no_run_keeps_its_own_card(tmp_path: Path, api: type[FakeHub]):
    model = tmp_path / "model"
    save_model(tiny_model(tie=True), tiny_tokenizer(), model)
    with pytest.raises(ValueError, match="of no run of r1kit, and has no README.md"):
        hub.stage_folder(model, REPO)
    (model / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    hub.push(model, REPO)
    assert api.files["README.md"] == b"---\nlicense: mit\n---\n# Mine\n" and "model.safetensors" in api.files
    assert (model / "README.md").exists()


def test_a_reward_models_card_has_its_accuracy(tmp_path: Path):
    run = tmp_path / "rm"
    run.mkdir()
    write_json(run / "config.json", {"stage": "reward-model", "kind": "helpful", "model": "demo-base", "data": []})
    folder = add_checkpoint(run, 5)
    about = {"kind": "helpful", "eval/accuracy": 0.8125, "accuracy_interval": [0.75, 0.87], "left_out": {}}
    (folder / "reward_model.json").write_text(json.dumps(about))
    card, data = card_of(folder)
    assert data["pipeline_tag"] == "text-classification"
    assert "| eval/accuracy | 0.8125 |" in card and "| accuracy, 95% interval | 0.75 to 0.87 |" in card


@pytest.mark.parametrize("repo", ["my-model", "a/b/c", "org/", "/x", "org/bad name"])
def test_an_odd_name_is_refused_before_anything_is_read(repo: str, tmp_path: Path, api: type[FakeHub]):
    with pytest.raises(ValueError):
        hub.push(tmp_path / "nowhere", repo)
    assert api.calls == []


def test_what_the_hub_refuses_is_said_with_what_to_do(tmp_path: Path, api: type[FakeHub]):
    run = rl_run(tmp_path / "zero")
    api.refusing = "upload_folder"
    with pytest.raises(ValueError, match=rf"could not be uploaded to {REPO}: 403 .*r1kit push .*zero {REPO}"):
        hub.push(run, REPO)
    api.refusing = "create_repo"
    with pytest.raises(ValueError, match=rf"{REPO} could not be made on the hub: 403 .*hf auth login"):
        hub.push(run, REPO)
    assert issubclass(HfHubHTTPError, hub._refusals())


def test_without_a_model_nothing_is_made(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        hub.stage_folder(tmp_path / "nowhere", REPO)


def test_the_run_of_a_stage_is_pushed_at_its_end(tmp_path: Path, api: type[FakeHub]):
    cfg = replace(RL["tiny"][1], run=tmp_path / "zero", steps=2, eval_every=0, push_to_hub=REPO)
    rl.main(replace(cfg, stop_after=1))
    assert [name for name, _ in api.calls] == ["create_repo"], "a run that is not done is not pushed"
    rl.main(cfg)
    assert [name for name, _ in api.calls][-1] == "upload_folder" and b"GRPO (2 steps)" in api.files["README.md"]


def test_a_login_that_is_missing_is_found_before_training(tmp_path: Path, api: type[FakeHub]):
    api.refusing = "create_repo"
    rows = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]
    rows.write_text(json.dumps({"messages": turns}) + "\n")
    student = SFTConfig(run=tmp_path / "dev1", data=(str(rows),), max_tokens=64, push_to_hub=REPO)
    on_policy = DistillConfig(
        run=tmp_path / "student", method="on-policy", teacher="demo-base", sft=student, on_policy=OnPolicyConfig()
    )
    for call in (lambda: sft.main(student), lambda: distill.main(on_policy)):
        with pytest.raises(ValueError, match="could not be made on the hub"):
            call()
    assert not (tmp_path / "dev1").exists() and not (tmp_path / "student").exists()


def test_the_command_line(capsys: pytest.CaptureFixture[str]):
    call = parse(["push", "runs/zero", REPO, "--public"])
    assert call is not None and call.arguments == (PushConfig(model="runs/zero", repo=REPO, public=True),)
    assert main(["push", "runs/zero"]) == 2
    assert "needs the repository after the model" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        parse(["push", "--help"])
    assert not stop.value.code and "--dry-run" in capsys.readouterr().out
