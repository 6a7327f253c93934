"""The command line: quick help, presets, flags, and errors that say what to do."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from r1kit import presets, recipes
from r1kit.cli import Call, main, parse
from r1kit.config import ChatConfig, EvaluateConfig, PretrainConfig, RLConfig

SRC = str(Path(__file__).parents[1] / "src")


@pytest.mark.parametrize(
    "command", ["--help", "rl --help", "rl demo --help", "evaluate --help", "presets", "--version"]
)
def test_help_loads_nothing_heavy(command):
    code = (
        "import sys\nfrom r1kit.cli import main\n"
        f"try:\n    status = main({command.split()!r})\nexcept SystemExit as exit:\n    status = exit.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'sympy', 'reasoning_gym'} & sys.modules.keys()\n"
        "assert not heavy, heavy\nassert not status, status"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": SRC}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "r1kit" in done.stdout


def call(*args: str) -> Call:
    found = parse(list(args))
    assert found is not None
    return found


def test_a_preset_and_its_flags_become_a_config():
    found = call("rl", "tiny", "--optim.lr", "0.5", "--tasks", "a", "b", "--run", "x", "--eval.num-problems", "3")
    (config,) = found.arguments
    assert isinstance(config, RLConfig)
    assert (config.optim.lr, config.tasks, config.run, config.eval.num_problems) == (0.5, ("a", "b"), Path("x"), 3)
    assert config.steps == presets.rl_tiny().steps
    assert (found.module, found.run) == ("r1kit.stages.rl", Path("x"))


def test_algo_by_name_then_by_number():
    (config,) = call("rl", "tiny", "--algo", "dapo", "--algo.clip-high", "0.3").arguments
    assert (config.algo.aggregation, config.algo.clip_low, config.algo.clip_high) == ("token", 0.2, 0.3)
    (config,) = call("rl", "tiny", "--algo.kl-coef", "0.5", "--algo=gspo").arguments
    assert (config.algo.ratio, config.algo.kl_coef) == ("sequence", 0.5)


def test_every_command_reaches_its_stage():
    pretrain = call("pretrain", "tiny", "--steps", "7")
    assert pretrain.module == "r1kit.stages.pretrain"
    assert isinstance(pretrain.arguments[0], PretrainConfig) and pretrain.arguments[0].steps == 7
    evaluate = call("evaluate", "runs/zero", "--num-samples", "4")
    assert evaluate == Call("r1kit.stages.evaluate", (EvaluateConfig(model="runs/zero", num_samples=4),))
    assert call("chat", "m").arguments == (ChatConfig(model="m"),)
    pipeline = call("run", "demo", "--seed", "3")
    assert pipeline == Call("r1kit.pipeline", ("demo", Path("runs/demo"), 3, "", "", "", False, 1))
    mine = call("run", "my/recipe.py", "--start", "dev1", "--until", "r1", "--plan")
    assert mine.arguments == ("my/recipe.py", Path("runs/recipe"), None, "dev1", "r1", "", True, 1)
    for command, module in (("sft", "sft"), ("reject", "reject"), ("preferences", "preferences"),
                            ("reward-model", "reward_model"), ("distill", "distill")):  # fmt: skip
        tiny = call(command, "tiny", "--run", "x")
        assert (tiny.module, tiny.arguments[0].run) == (f"r1kit.stages.{module}", Path("x"))
    report = call("report", "runs/zero", "--out", "x.html")
    assert report == Call("r1kit.report.report", (Path("runs/zero"), Path("x.html")), heavy=False)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("rl nonsense", "r1kit rl has no preset 'nonsense'"),
        ("rl", "r1kit rl needs a preset's name first"),
        ("rl --steps 3", "r1kit rl needs a preset's name first"),
        ("pretrain nonsense", "remakes the shipped base model"),
        ("run nonsense", "The whole of R1 on two CPU cores"),
        ("nonsense", "r1kit has no command 'nonsense'"),
        ("evaluate", "r1kit evaluate needs the model"),
        ("report --out x", "r1kit report needs a run folder"),
        ("rl tiny --algo nonsense", "give one of grpo, dr-grpo, dapo, gspo"),
        ("rl tiny --algo", "give one of grpo"),
    ],
)
def test_a_mistake_is_named_with_the_choices(capsys, command, message):
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert message in err and not out and "Traceback" not in err


@pytest.mark.parametrize(("flag", "value"), [("--steps", "0"), ("--steps", "many"), ("--stepps", "3")])
def test_a_wrong_flag_ends_with_status_2(capsys, flag, value):
    with pytest.raises(SystemExit) as error:
        main(["rl", "tiny", flag, value])
    assert error.value.code == 2
    assert flag in capsys.readouterr().err


def test_presets_lists_all(capsys):
    assert main(["presets"]) == 0
    listed = capsys.readouterr().out
    tables = {
        "rl": presets.RL, "sft": presets.SFT, "reject": presets.REJECT, "preferences": presets.PREFERENCES,
        "reward-model": presets.REWARD_MODEL, "distill": presets.DISTILL, "pretrain": presets.PRETRAIN,
        "run": recipes.names(),
    }  # fmt: skip
    for command, table in tables.items():
        assert all(f"r1kit {command} {name} " in listed for name in table)
    assert all(name in listed for name in presets.ALGOS)


def stage(monkeypatch: pytest.MonkeyPatch, action) -> None:
    """Put a stage in the place of r1kit.stages.rl that does `action()`."""
    module = ModuleType("r1kit.stages.rl")
    module.__dict__["main"] = lambda config: action()
    monkeypatch.setitem(sys.modules, "r1kit.stages.rl", module)


def fail(error: BaseException):
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize("error", [ValueError("no"), FileNotFoundError("no"), ModuleNotFoundError("no")])
def test_a_users_error_has_no_traceback_unless_asked_for(monkeypatch, capsys, error):
    monkeypatch.delenv("R1KIT_DEBUG", raising=False)
    stage(monkeypatch, fail(error))
    assert main(["rl", "tiny"]) == 2
    assert capsys.readouterr().err == "error: no\n(R1KIT_DEBUG=1 shows where)\n"
    monkeypatch.setenv("R1KIT_DEBUG", "1")
    with pytest.raises(type(error)):
        main(["rl", "tiny"])


def test_our_own_bug_keeps_its_traceback(monkeypatch):
    stage(monkeypatch, fail(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError):
        main(["rl", "tiny"])


def test_an_interruption_names_the_last_checkpoint(monkeypatch, capsys, tmp_path):
    stage(monkeypatch, fail(KeyboardInterrupt()))
    assert main(["rl", "tiny", "--run", str(tmp_path)]) == 130
    assert f"stopped before the first checkpoint of {tmp_path}" in capsys.readouterr().err
    (tmp_path / "checkpoints" / "step-000020").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-000040").mkdir()
    (tmp_path / "checkpoints" / ".writing-000060").mkdir()
    assert main(["rl", "tiny", "--run", str(tmp_path)]) == 130
    assert f"the last checkpoint is {tmp_path / 'checkpoints' / 'step-000040'}" in capsys.readouterr().err


def test_sigterm_ends_like_ctrl_c(monkeypatch, capsys, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    stage(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["rl", "tiny", "--run", str(tmp_path)]) == 143
    assert "stopped before the first checkpoint" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
