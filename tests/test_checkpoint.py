"""A checkpoint is there whole or not at all; a damaged one is named and the one before it is used."""

import os
import signal
import sys
from pathlib import Path

import pytest

from r1kit.training.checkpoint import checkpoint_steps, find_model, latest_checkpoint, load_checkpoint, save_checkpoint


def save(run: Path, step: int, keep: int = 2) -> Path:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights of step %d" % step * 1000)
        (folder / "extra").mkdir()
        (folder / "extra" / "optimizer.pt").write_bytes(b"moments %d" % step)

    return save_checkpoint(run, step, write, {"step": step, "seen": [1, 2]}, keep)


def test_latest_is_the_newest_with_its_state(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    save(tmp_path, 20)
    folder = save(tmp_path, 100)
    found = latest_checkpoint(tmp_path)
    assert found is not None and (found.step, found.folder) == (100, folder)
    assert found.state == {"step": 100, "seen": [1, 2]}
    assert folder.name == "step-000100"


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=2)
    assert checkpoint_steps(tmp_path) == [3, 4]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000003", "step-000004"]
    with pytest.raises(ValueError, match="keep is 0"):
        save(tmp_path, 5, keep=0)


def truncate(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 100)


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[777] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def flip_a_state_byte(folder: Path) -> None:
    (folder / "state.json").write_text((folder / "state.json").read_text().replace("1", "7"))


def remove_a_file(folder: Path) -> None:
    (folder / "extra" / "optimizer.pt").unlink()


def remove_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def tear_the_manifest(folder: Path) -> None:
    os.truncate(folder / "manifest.json", 50)


def empty_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "model.safetensors is not what was saved: 100 bytes"),
        (flip_a_byte, "model.safetensors is not what was saved"),
        (flip_a_state_byte, "state.json is not what was saved"),
        (remove_a_file, "extra/optimizer.pt is missing"),
        (remove_the_manifest, "manifest.json is missing"),
        (tear_the_manifest, "manifest.json is not JSON"),
        (empty_the_manifest, "manifest.json has no step and files"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, capsys, damage, reason):
    save(tmp_path, 20)
    damaged = save(tmp_path, 40)
    damage(damaged)
    found = latest_checkpoint(tmp_path)
    assert found is not None and found.step == 20
    warning = capsys.readouterr().err
    assert str(damaged) in warning and reason in warning
    # The run goes on from 20 and comes to 40 again.
    save(tmp_path, 30)
    save(tmp_path, 40)
    found = latest_checkpoint(tmp_path)
    assert found is not None and found.step == 40
    assert checkpoint_steps(tmp_path) == [30, 40]


def test_a_damaged_later_checkpoint_does_not_push_out_good_ones(tmp_path):
    save(tmp_path, 20)
    truncate(save(tmp_path, 40))
    save(tmp_path, 30)
    assert checkpoint_steps(tmp_path) == [20, 30]


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path):
    truncate(save(tmp_path, 20))
    truncate(save(tmp_path, 40))
    with pytest.raises(ValueError, match="every checkpoint of .* is damaged"):
        latest_checkpoint(tmp_path)


def killed_at_file_operation(number: int, run: Path) -> bool:
    """Save step 40 in a child that is killed at its n-th file operation; False if it came to the end."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, _: tuple[object, ...]) -> None:
            nonlocal seen
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        save(run, 40, keep=1)
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


def test_killed_at_any_moment_leaves_the_old_or_the_new_checkpoint(tmp_path, capsys):
    number, outcomes = 1, set()
    while True:
        run = tmp_path / str(number)
        save(run, 20, keep=1)
        killed = killed_at_file_operation(number, run)
        found = latest_checkpoint(run)
        assert found is not None, f"killed at file operation {number}: no checkpoint left"
        assert not capsys.readouterr().err, f"killed at file operation {number}: a part is visible"
        outcomes.add(found.step)
        save(run, 60, keep=1)  # clears what was left behind
        assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-000060"]
        if not killed:
            break
        number += 1
    assert number > 10 and outcomes == {20, 40}


def test_an_error_while_writing_leaves_the_checkpoint_before(tmp_path):
    save(tmp_path, 20)

    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, 40, write, {}, keep=1)
    found = latest_checkpoint(tmp_path)
    assert found is not None and found.step == 20
    assert checkpoint_steps(tmp_path) == [20]


def test_find_model_knows_model_run_and_pipeline_folders(tmp_path):
    checkpoint = save(tmp_path / "demo" / "zero", 20)
    (tmp_path / "demo" / "zero" / "config.json").write_text("{}")  # the run's, not a model's
    assert find_model(tmp_path / "demo") == checkpoint
    assert find_model(str(tmp_path / "demo" / "zero")) == checkpoint
    assert find_model(checkpoint) == checkpoint
    plain = tmp_path / "base"
    plain.mkdir()
    (plain / "config.json").write_text("{}")
    (plain / "model-00001-of-00002.safetensors").write_bytes(b"")
    assert find_model(plain) == plain


def test_find_model_says_why_there_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        find_model(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no model"):
        find_model(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="has no checkpoint yet"):
        find_model(tmp_path)
    folder = save(tmp_path, 20)
    truncate(folder)
    with pytest.raises(ValueError, match="damaged: model.safetensors"):
        find_model(folder)


def test_a_model_is_read_without_the_learners_file_and_a_run_does_not_go_on_without_it(tmp_path):
    """It is many times as large as the model: reading it to chat would take minutes, and it may be deleted."""

    def write(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "learner.pt").write_bytes(b"moments")

    folder = save_checkpoint(tmp_path, 20, write, {}, keep=1)
    (folder / "learner.pt").write_bytes(b"other")
    assert find_model(tmp_path) == find_model(folder) == folder
    (folder / "learner.pt").unlink()
    assert find_model(tmp_path) == find_model(folder) == folder
    with pytest.raises(ValueError, match="learner.pt is missing"):
        latest_checkpoint(tmp_path)


def test_reading_leaves_a_writer_alone(tmp_path):
    """`r1kit chat RUN` while the run trains: a look for a model must not touch the checkpoint that is being written."""
    good = save(tmp_path, 20)
    writing = tmp_path / "checkpoints" / ".writing-000040"
    writing.mkdir()
    assert find_model(tmp_path) == good
    assert load_checkpoint(good).step == 20
    assert writing.exists()
