"""The paper's presets: every published number typed a second time, complete configs, and the page that lists them."""

import ast
import json
import re
from dataclasses import fields, is_dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from r1kit import presets
from r1kit.algo.schedule import learning_rate
from r1kit.config import from_dict, to_dict

PAGE = Path(__file__).parents[1] / "docs" / "paper-presets.md"
TABLES: dict[str, dict[str, tuple[str, Any]]] = {
    "rl": presets.RL,
    "pretrain": presets.PRETRAIN,
    "reject": presets.REJECT,
    "sft": presets.SFT,
    "preferences": presets.PREFERENCES,
    "reward-model": presets.REWARD_MODEL,
    "distill": presets.DISTILL,
}
EVERY = [(command, name) for command, table in TABLES.items() for name in table]
OURS = presets.MODEL_RL | presets.MODEL_SFT | presets.MODEL_REJECT  # tests/test_presets_models.py
OURS |= presets.R1_RL | presets.R1_SFT | presets.R1_REJECT | presets.R1_REWARD_MODEL  # tests/test_presets_r1.py
PAPER = [
    (command, name)
    for command, name in EVERY
    if not name.startswith(("demo", "tiny")) and command not in ("pretrain", "distill") and name not in OURS
]

# As r1_facts.md has them, section 1.2 unless said otherwise.
GRPO_RUN = {
    "algo.kl_coef": 0.001,
    "algo.reference_every": 400,
    "group_size": 16,
    "problems_per_step": 32,
    "minibatches": 16,
    "inner_epochs": 1,
    "max_new_tokens": 32768,
}
R1_SFT = {  # section 3.4
    "model": "deepseek-ai/DeepSeek-V3-Base",
    "optim.lr": 0.00005,
    "optim.schedule": "cosine",
    "optim.final_lr_fraction": 0.1,
    "epochs": 2,
    "batch_size": 128,
    "max_tokens": 32768,
}
REWARD_MODEL = {  # section 3.6
    "batch_size": 256,
    "optim.lr": 0.000006,
    "epochs": 1,
    "max_tokens": 8192,
}
STUDENT = {  # section 5
    "optim.schedule": "cosine",
    "optim.final_lr_fraction": 0.1,
    "epochs": 2,
    "batch_size": 64,
    "max_tokens": 32768,
}
STUDENTS = {  # section 5
    "distill-qwen-1.5b": ("Qwen/Qwen2.5-Math-1.5B", 0.0001),
    "distill-qwen-7b": ("Qwen/Qwen2.5-Math-7B", 0.00008),
    "distill-qwen-14b": ("Qwen/Qwen2.5-14B", 0.00007),
    "distill-qwen-32b": ("Qwen/Qwen2.5-32B", 0.00006),
    "distill-llama-8b": ("meta-llama/Llama-3.1-8B", 0.00005),
    "distill-llama-70b": ("meta-llama/Llama-3.3-70B-Instruct", 0.00002),
}
PUBLISHED: dict[tuple[str, str], dict[str, Any]] = {
    ("rl", "r1-zero"): GRPO_RUN
    | {
        "model": "deepseek-ai/DeepSeek-V3-Base",
        "template": "r1-zero",  # section 2.1
        "optim.lr": 0.000003,
        "temperature": 1.0,
        "steps": 10400,
        "raised_cap": 65536,
        "reward.accuracy_weight": 1.0,  # section 2.2: equal
        "reward.format_weight": 1.0,
        "reward.language_weight": 0.0,
        "reward.preference_weight": 0.0,
    },
    ("rl", "r1-zero-qwen-32b"): GRPO_RUN
    | {"model": "Qwen/Qwen2.5-32B", "optim.lr": 0.000002, "temperature": 1.0, "raise_cap_at": 0},
    ("rl", "r1-dev2"): GRPO_RUN
    | {
        "optim.lr": 0.000003,
        "temperature": 1.0,
        "algo.clip_low": 10.0,
        "algo.clip_high": 10.0,
        "raise_cap_at": 0,
        "reward.language_weight": 1.0,  # section 3.2: directly summed
        "reward.preference_weight": 0.0,
    },
    ("rl", "r1"): GRPO_RUN
    | {
        "optim.lr": 0.000003,
        "temperature": 0.7,
        "algo.clip_low": 10.0,
        "algo.clip_high": 10.0,
        "raise_cap_at": 0,
        "reward.accuracy_weight": 1.0,  # section 3.5: sums without weights
        "reward.format_weight": 1.0,
        "reward.language_weight": 1.0,
        "reward.preference_weight": 1.0,
    },
    ("reject", "cold-start"): {  # section 3.1
        "temperature": 1.0,
        "rewrite": "endpoint",
        "rewriter.model": "deepseek-ai/DeepSeek-V3",
    },
    ("reject", "rejection-sampling"): {  # section 3.3, 2.3
        "num_problems": 26000 + 17000 + 22000 + 15000,
        "judge.model": "deepseek-ai/DeepSeek-V3",
        "readable.code_blocks": False,
        "general_share": 177812 / 804745,
    },
    ("sft", "r1-dev1"): R1_SFT,
    ("sft", "r1-dev3"): R1_SFT,
    ("preferences", "r1"): {  # section 3.6
        "num_prompts": 106000,
        "queries": 4,
        "min_margin": 1.0,
        "judge.model": "deepseek-ai/DeepSeek-V3",
    },
    ("reward-model", "r1-helpful"): REWARD_MODEL | {"kind": "helpful"},
    ("reward-model", "r1-safety"): REWARD_MODEL | {"kind": "safety"},
    **{("sft", name): STUDENT | {"model": base, "optim.lr": lr} for name, (base, lr) in STUDENTS.items()},
}


def config_of(key: tuple[str, str]) -> Any:
    command, name = key
    return TABLES[command][name][1]


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"optim.lr": 3e-6, ...} of a config."""
    found: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        found |= flat(value, f"{prefix}{field.name}.") if is_dataclass(value) else {prefix + field.name: value}
    return found


@pytest.mark.parametrize("key", PAPER, ids=" ".join)
def test_the_preset_has_the_published_numbers(key):
    values = flat(config_of(key))
    wanted = PUBLISHED[key]
    assert {field: values[field] for field in wanted} == wanted


@pytest.mark.parametrize("key", EVERY, ids=" ".join)
def test_every_preset_survives_json(key):
    config = config_of(key)
    assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("command", TABLES)
def test_presets_are_described_and_write_apart(command):
    assert {"demo", "tiny"} <= TABLES[command].keys()
    assert all(description for description, _ in TABLES[command].values())
    runs = [config.run for _, config in TABLES[command].values()]
    assert len(set(runs)) == len(runs)


def test_no_two_stages_of_the_paper_share_a_folder():
    runs = [config_of(key).run for key in PAPER] + [config.run for _, config in presets.DISTILL.values()]
    assert len(set(runs)) == len(runs)


def test_names_are_the_papers():
    names = {command: {name for paper_command, name in PAPER if paper_command == command} for command in TABLES}
    assert names["rl"] == {"r1-zero", "r1-zero-qwen-32b", "r1-dev2", "r1"}
    assert names["sft"] == {"r1-dev1", "r1-dev3"} | STUDENTS.keys()
    assert names["reject"] == {"cold-start", "rejection-sampling"}
    assert names["preferences"] == {"r1"}
    assert names["reward-model"] == {"r1-helpful", "r1-safety"}
    assert presets.DISTILL.keys() - {"demo", "tiny"} == STUDENTS.keys()


@pytest.mark.parametrize("name", ["r1-zero", "r1-zero-qwen-32b", "r1-dev2", "r1"])
def test_a_rollout_is_8192_outputs_in_16_batches_of_512(name):
    config = config_of(("rl", name))
    assert config.problems_per_step * config.group_size == 512
    assert 512 * config.minibatches == 8192
    assert config.steps_per_rollout == 16


def test_steps_that_are_no_multiple_of_a_rollout_are_the_nearest_that_are():
    zero, qwen, r1 = (config_of(("rl", name)) for name in ("r1-zero", "r1-zero-qwen-32b", "r1"))
    assert zero.steps == 10400 == 16 * 650
    assert zero.raise_cap_at % 16 == 0 and abs(zero.raise_cap_at - 8200) <= 8
    assert abs(qwen.steps - 10000) <= 8
    assert r1.steps == min(range(0, 3200, 16), key=lambda steps: abs(steps - 1700))


def test_general_prompts_and_their_reward_take_part_in_the_last_400_steps():
    r1, dev2 = config_of(("rl", "r1")), config_of(("rl", "r1-dev2"))
    assert r1.steps - r1.general_from == 400
    assert r1.general_tasks and 0 < r1.general_share < 1
    assert not dev2.general_tasks


def test_epsilon_10_clips_only_from_above():
    algo = config_of(("rl", "r1-dev2")).algo
    assert (1 - algo.clip_low, 1 + algo.clip_high) == (-9, 11)


def test_the_800k_add_up():
    rows = {"Math": 395285, "Code": 211129, "STEM": 10124, "Logic": 10395, "General": 177812}  # section 3.3
    config = config_of(("reject", "rejection-sampling"))
    assert sum(rows.values()) == 804745
    assert config.general_share == rows["General"] / sum(rows.values())
    reasoning = sum(rows.values()) - rows["General"]
    assert 0 <= config.num_problems * config.keep_per_problem - reasoning < config.num_problems
    assert config.keep_per_problem <= config.num_samples


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("r1-dev1", 5e-5, 5e-6), ("r1-dev3", 5e-5, 5e-6)]  # section 3.4
    + [(name, lr, lr / 10) for name, (_, lr) in STUDENTS.items()],  # section 5
)
def test_fine_tuning_falls_to_a_tenth_of_its_rate(name, first, last):
    optim = config_of(("sft", name)).optim
    assert learning_rate(optim, 0, 1000) == pytest.approx(first)
    assert learning_rate(optim, 999, 1000) == pytest.approx(last)
    assert learning_rate(optim, 250, 1000) > first - (first - last) / 4  # above the straight line: a cosine


def test_each_stage_reads_what_the_one_before_wrote():
    def run(command: str, name: str) -> str:
        return str(config_of((command, name)).run)

    def config(command: str, name: str) -> Any:
        return config_of((command, name))

    assert config("reject", "cold-start").model == run("rl", "r1-zero")
    assert config("sft", "r1-dev1").data == (run("reject", "cold-start"),)
    assert config("rl", "r1-dev2").model == run("sft", "r1-dev1")
    assert config("reject", "rejection-sampling").model == run("rl", "r1-dev2")
    assert config("sft", "r1-dev3").data == (run("reject", "rejection-sampling"),)
    assert config("preferences", "r1").model == run("sft", "r1-dev3")
    for name in ("r1-helpful", "r1-safety"):
        assert config("reward-model", name).data == (run("preferences", "r1"),)
    r1 = config("rl", "r1")
    assert r1.model == run("sft", "r1-dev3")
    assert r1.reward.helpful_model == run("reward-model", "r1-helpful")
    assert r1.reward.safety_model == run("reward-model", "r1-safety")
    assert all(config("sft", name).data == config("sft", "r1-dev3").data for name in STUDENTS)


def test_a_model_is_sampled_with_the_template_it_was_trained_with():
    assert config_of(("reject", "cold-start")).template == config_of(("rl", "r1-zero")).template
    trained = config_of(("sft", "r1-dev1")).template
    assert {config_of(key).template for key in [("rl", "r1-dev2"), ("reject", "rejection-sampling")]} == {trained}
    trained = config_of(("sft", "r1-dev3")).template
    after = [("rl", "r1"), ("preferences", "r1"), ("reward-model", "r1-helpful"), ("reward-model", "r1-safety")]
    assert {config_of(key).template for key in after} == {trained}


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_of_deepseek_r1_is_trained_as_on_the_800k(name):
    config = config_of(("distill", name))
    student, on_the_800k = flat(config.sft), flat(config_of(("sft", name)))
    assert (config.method, config.teacher, student["data"]) == ("sft", "deepseek-ai/DeepSeek-R1", ())
    assert {field for field in student if student[field] != on_the_800k[field]} == {"run", "data"}
    assert config.samples.model == config.teacher


Documented = dict[str, tuple[Any, str]]
"""Field -> value, source."""


def rows_of(key: tuple[str, str]) -> Documented:
    """What the page says about a preset, in all sections whose heading names it (`distill-*` names six)."""
    found: Documented = {}
    for section in re.split(r"^#+ ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        named = [match.groups() for match in re.finditer(r"`r1kit (\S+) (\S+)`", heading)]
        if not any(command == key[0] and fnmatch(key[1], pattern) for command, pattern in named):
            continue
        for line in re.findall(r"^\| .*$", body, re.MULTILINE):
            cells = line.strip("| ").split(" | ")
            for field, value in re.findall(r"`([\w.]+)=([^`]+)`", line):
                assert field not in found, f"{key}: {field} is listed twice"
                found[field] = (ast.literal_eval(value), cells[-1])
    return found


@pytest.mark.parametrize("key", PAPER, ids=" ".join)
def test_the_page_says_what_the_preset_has(key):
    values = flat(config_of(key))
    documented = rows_of(key)
    assert len(documented) >= 4
    for field, (value, source) in documented.items():
        near = pytest.approx(value, rel=2e-3) if isinstance(value, float) else value
        assert values[field] == near, field
        assert re.search(r"\bV[12]\b|\bours\b", source), f"{field} has no source: {source!r}"


# Said in words on the page, or where things are: not numbers of the paper.
PLUMBING = {
    "run", "model", "data", "tasks", "template", "kind", "general_tasks", "general_data", "reward.helpful_model",
    "reward.safety_model", "reward.format",
}  # fmt: skip


@pytest.mark.parametrize("key", PAPER, ids=" ".join)
def test_the_page_leaves_nothing_out(key):
    config = config_of(key)
    values, defaults = flat(config), flat(type(config)())
    differing = {field for field in values if values[field] != defaults[field] and not field.startswith("eval.")}
    published = {field for field, value in PUBLISHED[key].items() if value != 0}  # 0: a part that is switched off
    listed = rows_of(key).keys()
    if key[1] in STUDENTS:
        listed |= {"optim.lr"}  # in the students' own table
    assert (differing | published) - PLUMBING <= listed


def test_the_page_lists_the_students():
    rows = re.findall(r"^\| `(distill-[\w.-]+)` \| (\S+) \| (\S+) \|$", PAGE.read_text(), re.MULTILINE)
    assert {name: (base, float(lr)) for name, base, lr in rows} == STUDENTS


def test_commands_on_the_page_are_presets():
    for command, name in re.findall(r"`r1kit ([\w-]+) ([\w.*-]+)`", PAGE.read_text()):
        assert [preset for preset in TABLES[command] if fnmatch(preset, name)], f"r1kit {command} {name}"
