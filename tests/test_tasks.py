"""Facts about problems: train and held-out never overlap, and a step's problems depend on (seed, step) only."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from r1kit.rewards.accuracy import SCORERS, gold_fault, score_answer
from r1kit.tasks import countdown, is_heldout, load_problems, mix, remainder, summaries, task_names
from r1kit.tasks.reasoning_gym import dataset_names, problem_maker
from r1kit.types import Problem

GENERATED = [*task_names(), "reasoning_gym:chain_sum", "reasoning_gym:leg_counting", "reasoning_gym:basic_arithmetic"]


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def sums(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{n}+1?", "answer": str(n + 1), "scorer": "number"} for n in range(count)]


# The split


@pytest.mark.parametrize("spec", GENERATED)
def test_train_and_heldout_never_overlap_whatever_the_seeds(spec: str):
    train = [p for seed in (0, 1, 7) for p in load_problems(spec, "train", seed).take(0, 150)]
    heldout = [p for seed in (0, 1, 1234) for p in load_problems(spec, "heldout", seed).first(40)]
    assert not {p.id for p in train} & {p.id for p in heldout}
    assert not {p.messages for p in train} & {p.messages for p in heldout}
    assert not any(is_heldout(p.id) for p in train) and all(is_heldout(p.id) for p in heldout)


def test_train_and_heldout_rows_of_a_file_never_overlap(tmp_path: Path):
    spec = write_rows(tmp_path / "sums.jsonl", sums(300))
    train = [p for seed in (0, 5) for p in load_problems(spec, "train", seed).take(0, 300)]
    heldout = [p for seed in (0, 9) for p in load_problems(spec, "heldout", seed).take(0, 300)]
    assert not {p.messages for p in train} & {p.messages for p in heldout}
    assert len({p.id for p in train} | {p.id for p in heldout}) == 300
    assert 15 <= len({p.id for p in heldout}) <= 50


def test_a_user_id_does_not_move_a_prompt_across_the_split(tmp_path: Path):
    """Two files with the same prompts under other ids: still no overlap."""
    plain = write_rows(tmp_path / "a.jsonl", sums(200))
    named = write_rows(tmp_path / "b.jsonl", [{**row, "id": f"mine-{i}"} for i, row in enumerate(sums(200))])
    train = {p.messages for p in load_problems(plain, "train", 0).take(0, 200)}
    heldout = {p.messages for p in load_problems(named, "heldout", 0).take(0, 200)}
    assert heldout and not train & heldout


def test_one_problem_in_ten_is_held_out():
    assert 850 < sum(is_heldout(f"problem {i}") for i in range(10_000)) < 1150


def test_equal_countdown_problems_have_one_id():
    """Language and order of the numbers do not matter: the same problem must be on the same side of the split."""
    english = countdown.problem_for((8, 3, 1), 24, chinese=False)
    chinese = countdown.problem_for((1, 8, 3), 24, chinese=True)
    assert english.messages != chinese.messages
    assert english.id == chinese.id == "countdown:1-3-8:24"
    assert countdown.problem_for((8, 3, 1), 25, chinese=False).id != english.id
    assert remainder.problem_for(5, 7, 23, chinese=True).id == remainder.problem_for(5, 7, 23, chinese=False).id


# The built-in tasks


@pytest.mark.parametrize("spec", task_names())
def test_built_in_problems_are_in_both_languages_and_judged(spec: str):
    problems = load_problems(spec, "train", 0).take(0, 100)
    chinese = sum(any("\u4e00" <= char <= "\u9fff" for char in p.messages[0].content) for p in problems)
    assert 25 < chinese < 75
    for problem in problems:
        assert problem.task == spec and problem.scorer in SCORERS
        assert not gold_fault(problem.scorer, problem.gold)


def test_every_countdown_problem_has_a_solution():
    for problem in load_problems("countdown", "heldout", 0).first(100):
        numbers, target = problem.gold["numbers"], problem.gold["target"]
        found = [countdown.expression(*pair) for pair in countdown.tries(tuple(numbers)) if pair[1][3] == target]
        assert found
        assert all(score_answer("countdown", answer, problem.gold).verdict == "right" for answer in found)


def test_sun_zis_problem():
    """The smallest number with remainder 3 by 5 and 2 by 7 is 23."""
    problem = remainder.problem_for(5, 7, 23, chinese=False)
    assert problem.gold == "23" and problem.id == "remainder:5:3:7:2"
    assert next(n for n in range(35) if n % 5 == 3 and n % 7 == 2) == 23


# Positions


@pytest.mark.parametrize("spec", [*GENERATED, "file"])
def test_problems_are_a_function_of_seed_and_position(spec: str, tmp_path: Path):
    spec = write_rows(tmp_path / "sums.jsonl", sums(60)) if spec == "file" else spec
    problems = load_problems(spec, "train", 3)
    later = problems.take(40, 8)
    assert load_problems(spec, "train", 3).take(40, 8) == later
    assert load_problems(spec, "train", 4).take(40, 8) != later
    assert problems.take(48, 8) != later
    assert len({p.id for p in later}) == 8
    assert problems.first(5) == problems.first(10)[:5]


def test_a_file_is_shuffled_anew_every_epoch(tmp_path: Path):
    rows = [{**row, "split": "train"} for row in sums(20)]
    problems = load_problems(write_rows(tmp_path / "sums.jsonl", rows), "train", 0)
    first, second = problems.take(0, 20), problems.take(20, 20)
    assert {p.id for p in first} == {p.id for p in second} and len({p.id for p in first}) == 20
    assert first != second
    assert problems.take(15, 10) == [*first[15:], *second[:5]]


def test_too_many_distinct_problems_are_refused(tmp_path: Path):
    small = load_problems("reasoning_gym:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1", "heldout", 0)
    with pytest.raises(
        ValueError, match=r"500 heldout problems asked for, only \d+ different ones found; ask for at most"
    ):
        small.first(500)
    rows = [{**row, "split": "heldout"} for row in sums(5)]
    with pytest.raises(ValueError, match="6 heldout problems asked for, it has 5; ask for at most 5"):
        load_problems(write_rows(tmp_path / "five.jsonl", rows), "heldout", 0).first(6)


def test_mix_takes_as_many_of_each_task_and_skips_none(tmp_path: Path):
    files = [write_rows(tmp_path / f"{name}.jsonl", [{**row, "split": "train"} for row in sums(9)]) for name in "abc"]
    sets = [load_problems(file, "train", 0) for file in files]
    steps = [mix(sets, 4 * step, 4) for step in range(6)]
    assert [len(step) for step in steps] == [4] * 6
    assert all(max(c.values()) - min(c.values()) <= 1 for c in (Counter(p.task for p in step) for step in steps))
    for problems, name in zip(sets, "abc", strict=True):
        assert [p for step in steps for p in step if p.task == name] == problems.take(0, 8)
    assert mix(sets, 16, 4) == steps[4]
    with pytest.raises(ValueError, match="named twice"):
        mix([sets[0], sets[0]], 0, 2)


def test_mix_of_one_set_is_the_set():
    problems = load_problems("countdown", "train", 0)
    assert mix([problems], 15, 5) == problems.take(15, 5)


def test_unknown_task_lists_what_exists():
    with pytest.raises(
        ValueError, match=r"no task 'contdown' \(did you mean countdown\?\); give one of countdown, general, remainder"
    ):
        load_problems("contdown", "train", 0)


# reasoning-gym


def test_reasoning_gym_options_reach_the_generator():
    problems = load_problems("reasoning_gym:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1", "train", 0)
    for problem in problems.take(0, 20):
        assert problem.task.startswith("reasoning_gym:chain_sum?")
        assert sum(problem.messages[0].content.count(sign) for sign in "+-") == 1


def test_the_same_question_has_one_id_under_other_options():
    narrow, wide = (problem_maker(f"reasoning_gym:chain_sum?min_terms=2&max_terms={n}") for n in (2, 6))
    ids: dict[str, set[str]] = {}
    for make_problem in (narrow, wide):
        rng = random.Random(0)
        for _ in range(50):
            problem = make_problem(rng)
            ids.setdefault(problem.messages[0].content, set()).add(problem.id)
    assert all(len(found) == 1 for found in ids.values())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("reasoning_gym:chain_sums", "no data set 'chain_sums'; close names are chain_sum"),
        ("reasoning_gym:", "no data set ''"),
        ("reasoning_gym:chain_sum?terms=2", "no option 'terms'; options are .*max_terms"),
        ("reasoning_gym:chain_sum?seed=2", "no option 'seed'"),
        ("reasoning_gym:chain_sum?allow_negation=True", "allow_negation=True is not JSON; write 3, true"),
        ("reasoning_gym:chain_sum?min_terms=5&max_terms=2", "cannot be made with {'min_terms': 5, 'max_terms': 2}"),
        ("reasoning_gym:composite", "cannot be made with its defaults"),
    ],
)
def test_reasoning_gym_errors(spec: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_problems(spec, "train", 0)


# Their scorers accept several answers here, or the reference is one of many: the entry holds none.
WITHOUT_REFERENCE = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
SLOW = {"acre", "arc_agi", "futoshiki", "knight_swap"}  # a tenth of a second a problem, or seconds to load


@pytest.mark.filterwarnings("ignore")
def test_reference_answers_of_all_data_sets_are_right_after_a_trip_through_json():
    """Every registered data set but `composite` (a mixture, which needs others named)."""
    names = set(dataset_names())
    assert len(names) > 100 and names >= WITHOUT_REFERENCE | SLOW | {"composite"}
    judged = 0
    for name in sorted(names - WITHOUT_REFERENCE - SLOW - {"composite"}):
        problem: Problem = problem_maker(f"reasoning_gym:{name}")(random.Random(name))
        gold = json.loads(json.dumps(problem.gold))
        assert not gold_fault("reasoning_gym", gold), name
        judgement = score_answer(problem.scorer, gold["entry"]["answer"], gold)
        assert judgement.verdict == "right", (name, judgement)
        judged += 1
    assert judged > 90


@pytest.mark.filterwarnings("ignore")
def test_tuples_and_number_keys_of_entries_reach_their_scorers():
    arc = problem_maker("reasoning_gym:rearc")(random.Random(0))  # its scorer compares tuples
    assert (
        score_answer("reasoning_gym", arc.gold["entry"]["answer"], json.loads(json.dumps(arc.gold))).verdict == "right"
    )
    graph = problem_maker("reasoning_gym:graph_color")(random.Random(0))  # the solution's keys are numbers
    solution = dict(graph.gold["entry"]["metadata"]["possible_answer"]["__items__"])
    answer = json.dumps({str(vertex): color for vertex, color in solution.items()})
    assert score_answer("reasoning_gym", answer, json.loads(json.dumps(graph.gold))).verdict == "right"


def test_data_sets_that_cannot_be_repeated_say_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.warns(UserWarning, match="set PYTHONHASHSEED=0"):
        problem_maker("reasoning_gym:ransom_note")
    with pytest.warns(UserWarning, match="cannot be repeated"):
        problem_maker("reasoning_gym:list_functions")


# JSONL


def test_a_file_of_problems(tmp_path: Path):
    rows = [
        {"prompt": "1+1?", "answer": "2", "split": "train"},
        {"prompt": "1+2?", "answer": 3, "scorer": "number", "split": "train", "id": "mine", "task": "sums"},
        {
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
            "answer": "x",
            "split": "train",
        },
        {"prompt": "line\u2028separator", "answer": "x", "scorer": "exact", "split": "train"},
    ]
    problems = load_problems(write_rows(tmp_path / "my.jsonl", rows), "train", 0).first(4)
    by_prompt = {p.messages[-1].content: p for p in problems}
    assert by_prompt["1+1?"].scorer == "math" and by_prompt["1+1?"].task == "my"
    assert (by_prompt["1+2?"].id, by_prompt["1+2?"].task, by_prompt["1+2?"].gold) == ("mine", "sums", 3)
    assert [m.role for m in by_prompt["u"].messages] == ["system", "user"]
    assert "line\u2028separator" in by_prompt


GOOD = {"prompt": "1+1?", "answer": "2"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{'prompt': 1}", r"my.jsonl:2: not JSON \(.*column 2\)"),
        ("[1]", r"my.jsonl:2: '\[1\]' is not an object"),
        ({"prompt": "a"}, r"my.jsonl:2: no field 'answer' among \['prompt'\]; give `prompt` and `answer`, or name"),
        ({"ask": "a", "answer": "b"}, "my.jsonl:2: no field 'prompt' among .* --columns.prompt and --columns.answer"),
        ({**GOOD, "scorer": "maths"}, "my.jsonl:2: scorer 'maths' does not exist; scorers are exact, number, math"),
        ({**GOOD, "split": "test"}, 'my.jsonl:2: split is \'test\'; give "train" or "heldout"'),
        ({"prompt": "a", "answer": ""}, "my.jsonl:2: answer is ''; give a text that is not empty"),
        ({"prompt": "a", "answer": "two", "scorer": "number"}, "my.jsonl:2: answer is 'two'; give a number"),
        ({"prompt": "a", "answer": [1, 2], "scorer": "countdown"}, r"my.jsonl:2: answer is \[1, 2\]; give"),
        ({"prompt": " ", "answer": "b"}, "my.jsonl:2: prompt is ' '; give a text or a list of messages"),
        ({"prompt": [{"role": "bot", "content": "a"}], "answer": "b"}, "my.jsonl:2: message .* needs"),
        ({"prompt": [{"role": "assistant", "content": "a"}], "answer": "b"}, "my.jsonl:2: the last message"),
        (
            {"prompt": "other", "answer": "b", "id": "first"},
            "my.jsonl:2: id 'first' is that of another prompt in line 1",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: dict[str, Any] | str, message: str):
    file = tmp_path / "my.jsonl"
    second = row if isinstance(row, str) else json.dumps(row)
    file.write_text(json.dumps({"prompt": "first", "answer": "1", "id": "first"}) + "\n" + second + "\n")
    with pytest.raises(ValueError, match=message):
        load_problems(str(file), "train", 0)


def test_missing_empty_and_foreign_files(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="none.jsonl: no such file"):
        load_problems(str(tmp_path / "none.jsonl"), "train", 0)
    (tmp_path / "empty.jsonl").write_text("\n \n")
    with pytest.raises(ValueError, match="the file is empty"):
        load_problems(str(tmp_path / "empty.jsonl"), "train", 0)
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}')
    with pytest.raises(ValueError, match="byte 12 is not UTF-8"):
        load_problems(str(tmp_path / "latin.jsonl"), "train", 0)


def test_repeated_prompts_are_dropped_and_counted(tmp_path: Path):
    rows = [{**GOOD, "split": "train"}, {**GOOD, "prompt": " 1+1?\n"}, {**GOOD, "answer": "3"}, *sums(3)]
    problems = load_problems(write_rows(tmp_path / "my.jsonl", rows), "train", 0)
    [summary] = summaries([problems])
    assert summary.endswith(
        "my.jsonl: 6 rows read, 3 kept; dropped 2 that repeat a prompt (first: my.jsonl:2); 1 that repeat a prompt "
        "with another answer (first: my.jsonl:3)"
    )
    assert [p.gold for p in problems.take(0, 3) if p.messages[0].content == "1+1?"] == ["2"]


def test_a_split_that_is_empty_or_contradicts_itself_is_refused(tmp_path: Path):
    only_train = write_rows(tmp_path / "train.jsonl", [{**row, "split": "train"} for row in sums(50)])
    with pytest.raises(ValueError, match='none of its 50 problems is in the heldout split; add "split": "heldout"'):
        load_problems(only_train, "heldout", 0)
    both = write_rows(tmp_path / "both.jsonl", [{**GOOD, "split": "train"}, *sums(2), {**GOOD, "split": "heldout"}])
    with pytest.raises(ValueError, match="both.jsonl:4: this prompt is heldout, the same one in line 1 is train"):
        load_problems(both, "train", 0)


def test_explicit_splits_override_the_hash(tmp_path: Path):
    rows = [{**row, "split": "heldout" if i < 10 else "train"} for i, row in enumerate(sums(40))]
    spec = write_rows(tmp_path / "my.jsonl", rows)
    assert {p.gold for p in load_problems(spec, "heldout", 0).first(10)} == {str(n + 1) for n in range(10)}
    assert len(load_problems(spec, "train", 0).first(30)) == 30
