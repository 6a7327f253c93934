"""The stage of rejection sampling: its data, its card, a run that is cut off, and endpoints."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r1kit.config import EndpointConfig, ReadableConfig, RejectConfig
from r1kit.sampling.http import Reply
from r1kit.sampling.totals import Totals
from r1kit.stages import reject
from r1kit.tasks import countdown, load_problems
from r1kit.types import Completion, Message, Metrics, Prompt, SamplingParams
from scripted import ANSWERS, save_scripted_model
from tiny import tiny_tokenizer

SERVER = EndpointConfig(url="http://localhost:1/v1", model="judge")


# the stage


class Searcher:
    """A sampler that knows countdown: of every four completions of a problem one is mixed, two are right in their own
    ways, one is wrong. It can be made to break off."""

    calls = 0
    breaks_at = 0

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def load_weights(self, source: object, version: int) -> Metrics:
        del source, version
        return {}

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        n: int,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Completion]]:
        del params, on_progress
        Searcher.calls += 1
        if Searcher.calls == Searcher.breaks_at:
            raise KeyboardInterrupt
        return [[self.complete(prompt, index) for index in range(n)] for prompt in prompts]

    def complete(self, prompt: Prompt, index: int) -> Completion:
        question = self.tokenizer.decode(prompt.tokens)
        chinese = "算出" in question
        found = [int(number) for number in re.findall("[0-9]+", question)]
        numbers, target = (found[:3], found[3]) if chinese else (found[1:], found[0])
        ways = countdown.tries((numbers[0], numbers[1], numbers[2]))
        first, second = next(way for way in ways if way[1][3] == target)
        failed = random.Random(f"{prompt.seed}/{index}").choice(ways)
        no, yes = ("不对", "对了") if chinese else (" no", " yes")
        lines = [f"{failed[0][0]}{failed[0][1]}{failed[0][2]}={failed[0][3]}", f"{failed[1][0]}+1=98{no}"]
        if index % 4 == 0:
            no = " no" if chinese else "不对"
            lines = [f"{left}{operator}{right}={value}{no}" for left, operator, right, value in failed]
        lines += [f"{a}{operator}{b}={value}" for a, operator, b, value in (first, second)]
        answer = "1" if index % 4 == 3 else countdown.expression(first, second)
        text = " <think>" + "\n".join(lines[2 * (index % 4 == 2) :]) + f"{yes}</think><answer>{answer}</answer>"
        tokens = tuple(self.tokenizer(text)["input_ids"])
        return Completion(tokens, (0.0,) * len(tokens), text, "stop")


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RejectConfig]:
    save_scripted_model(tmp_path / "model", ANSWERS)
    monkeypatch.setattr(reject, "open_sampler", lambda cfg, tokenizer, *_, **__: nullcontext(Searcher(tokenizer)))
    monkeypatch.setattr(reject, "BATCH", 20)  # 5 problems
    Searcher.calls = Searcher.breaks_at = 0
    yield RejectConfig(
        run=tmp_path / "run", model=str(tmp_path / "model"), tasks=("countdown",), num_problems=18, num_samples=4,
        rewrite="rules", general_data=("general",), general_share=0.25, max_new_tokens=64, device="cpu", dtype="fp32",
    )  # fmt: skip


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def outputs(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in ("sft.jsonl", "counts.json", "README.md")}


def test_every_problem_gives_its_first_readable_completion_rewritten(cfg: RejectConfig):
    path = reject.main(cfg)
    rows = rows_of(path)
    assert path == cfg.run / "sft.jsonl"
    sampled = [row for row in rows if row["domain"] == "countdown"]
    problems = {f"countdown/{p.id}/1": p for p in load_problems("countdown", "train", 0).first(18)}
    assert {row["id"] for row in sampled} == set(problems), "completion 0 is mixed, 2 is shorter than 1"
    assert len(rows) == 24 and Counter(row["domain"] for row in rows) == {"countdown": 18, "general": 6}
    assert [row["domain"] for row in rows] != sorted(row["domain"] for row in rows), "they are mixed"
    assert all(row["messages"][-1]["content"].startswith(" <think>") for row in rows)
    for row in sampled:
        question, text = (turn["content"] for turn in row["messages"])
        assert question == problems[row["id"]].messages[0].content
        thought, summary = r" <think>\D+\n[^ ]+\n.+( yes|对了)</think>", r"( So .* makes \d+\.|所以.*得\d+。)"
        assert re.fullmatch(rf"{thought}<answer>.*</answer>{summary}", text, re.DOTALL)
        assert row["language"] == ("zh" if "算出" in question else "en")
        assert row["tokens"] == len(tiny_tokenizer()(text)["input_ids"])  # type: ignore[arg-type]


def test_the_counts_and_the_card_say_what_the_data_is(cfg: RejectConfig):
    cfg = replace(cfg, keep_per_problem=2)
    rows = rows_of(reject.main(cfg))
    counts = json.loads((cfg.run / "counts.json").read_text())
    sampled = [row["tokens"] for row in rows if row["domain"] == "countdown"]
    assert counts["tasks"] == {"countdown": {"problems": 18, "sampled": 72, "right": 54, "readable": 36, "kept": 36}}
    assert counts["dropped"] == {"unreadable, language mix": 18, "wrong": 18}
    assert counts["rows"] == len(rows) == 48
    assert counts["general"] == {"wanted": 12, "joined": 12}
    assert sum(counts["languages"].values()) == 48
    assert list(counts["domains"]) == ["countdown", "general", "total"]
    mean = sum(sampled) / len(sampled)
    assert counts["domains"]["countdown"] == {"samples": 36, "rounds": 1.0, "tokens": pytest.approx(mean)}
    card = (cfg.run / "README.md").read_text()
    assert f"| countdown | 36 | 1.0 | {mean:,.1f} |" in card
    assert re.search(r"\| total \| 48 \| 1\.0 \| [0-9.]+ \|", card)
    assert "| unreadable, language mix | 18 |" in card and "| countdown | 18 | 72 | 54 | 36 | 36 |" in card
    assert "25.0% of the whole" in card and "`keep_per_problem` | `2`" in card and "language: [" in card
    assert str(cfg.run) not in card, "equal data has an equal card wherever it lies"


def test_a_run_that_was_cut_off_goes_on_and_ends_in_the_same_bytes(cfg: RejectConfig):
    reject.main(cfg)
    assert Searcher.calls == 4
    cut = replace(cfg, run=cfg.run.with_name("cut"))
    for batch in (1, 3, 2):  # in the first batch, then in the third, then, going on with that, in the fourth
        Searcher.calls, Searcher.breaks_at = 0, batch
        with pytest.raises(KeyboardInterrupt):
            reject.main(cut)
        assert not (cut.run / "sft.jsonl").exists()
    Searcher.calls = Searcher.breaks_at = 0
    reject.main(cut)
    assert Searcher.calls == 1, "only the last batch was left"
    assert outputs(cut.run) == outputs(cfg.run)
    metrics = [[row["step"] for row in rows_of(run / "metrics.jsonl")] for run in (cut.run, cfg.run)]
    assert metrics == [[1, 2, 3, 4]] * 2


def test_a_batch_that_was_logged_and_not_written_is_logged_once(cfg: RejectConfig, monkeypatch: pytest.MonkeyPatch):
    written = reject.write_json_atomic
    with monkeypatch.context() as patched:

        def write(path: Path, data: Any) -> None:
            if path.name == "batch-000001.json":
                raise KeyboardInterrupt
            written(path, data)

        patched.setattr(reject, "write_json_atomic", write)
        with pytest.raises(KeyboardInterrupt):
            reject.main(cfg)
    assert [row["step"] for row in rows_of(cfg.run / "metrics.jsonl")] == [1, 2]
    reject.main(cfg)
    assert [row["step"] for row in rows_of(cfg.run / "metrics.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("template", "lead"), [("short", " "), ("r1-zero", " "), ("short-prefilled", ""), ("chat", "")]
)
def test_general_rows_begin_as_the_templates_completions_do(template: str, lead: str):
    assert reject.leading_space(template) == lead


def test_cut_off_while_the_data_is_put_together_it_samples_nothing_again(
    cfg: RejectConfig, monkeypatch: pytest.MonkeyPatch
):
    reject.main(replace(cfg, run=cfg.run.with_name("straight")))
    with monkeypatch.context() as patched:

        def interrupt(*_: object, **__: object) -> str:
            raise KeyboardInterrupt

        patched.setattr(reject, "data_card", interrupt)
        with pytest.raises(KeyboardInterrupt):
            reject.main(cfg)
    assert not (cfg.run / "sft.jsonl").exists()
    monkeypatch.setattr(reject, "open_sampler", None)
    reject.main(cfg)
    assert outputs(cfg.run) == outputs(cfg.run.with_name("straight"))


def test_a_finished_run_returns_at_once_and_knows_its_settings(cfg: RejectConfig, monkeypatch: pytest.MonkeyPatch):
    path = reject.main(cfg)
    before = outputs(cfg.run)
    for name in ("open_sampler", "load_tokenizer", "load_problems"):
        monkeypatch.setattr(reject, name, None)
    assert reject.main(cfg) == path
    assert outputs(cfg.run) == before
    with pytest.raises(ValueError, match="keep_per_problem: 1 in the folder, 2 now"):
        reject.main(replace(cfg, keep_per_problem=2))


def test_the_seed_changes_problems_and_order(cfg: RejectConfig):
    other = replace(cfg, run=cfg.run.with_name("other"), seed=1)
    first, second = rows_of(reject.main(cfg)), rows_of(reject.main(other))
    assert {row["id"] for row in first} != {row["id"] for row in second}


def test_a_problem_that_two_tasks_share_is_data_once(cfg: RejectConfig, tmp_path: Path):
    files = []
    for name in ("one", "two"):
        files.append(str(tmp_path / f"{name}.jsonl"))
        gold = {"numbers": [8, 3, 1], "target": 23}
        problems = [{"prompt": "Make 23 from 8, 3, 1.", "answer": gold, "scorer": "countdown", "split": "train"}]
        Path(files[-1]).write_text("".join(json.dumps(row) + "\n" for row in problems))
    cfg = replace(cfg, tasks=tuple(files), num_problems=1, general_data=(), general_share=0, rewrite="none")
    (row,) = rows_of(reject.main(cfg))
    counts = json.loads((cfg.run / "counts.json").read_text())
    assert row["domain"] == "one"
    assert [counts["tasks"][name]["kept"] for name in ("one", "two")] == [1, 0]
    assert counts["dropped"]["repeats another completion"] == 1
    assert counts["general"] == {"wanted": 0, "joined": 0}


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        (
            {"readable": ReadableConfig(max_tokens=3)},
            ("72 completions", "54 are right", "0 also readable", "--readable"),
        ),
        ({"num_samples": 1}, ("18 completions", "18 are right", "18 unreadable, language mix")),
    ],
)
def test_nothing_left_is_an_error_with_the_numbers(
    cfg: RejectConfig, changes: dict[str, Any], messages: tuple[str, ...]
):
    with pytest.raises(ValueError) as caught:
        reject.main(replace(cfg, **changes))
    assert all(message in str(caught.value) for message in messages), caught.value
    assert not (cfg.run / "sft.jsonl").exists()


def test_nothing_right_is_another_error(cfg: RejectConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(countdown, "expression", lambda first, second: "1+1")
    with pytest.raises(ValueError, match="0 are right.*--num-samples"):
        reject.main(cfg)


def test_what_is_wrong_with_the_settings_is_found_before_the_folder_is_made(cfg: RejectConfig, tmp_path: Path):
    for changes in (
        {"general_data": (str(tmp_path / "none.jsonl"),)},
        {"tasks": ("cuontdown",)},
        {"model": str(tmp_path / "nowhere")},
        {"template": "no-such"},
        {"max_new_tokens": 250},  # of a context of 256
    ):
        with pytest.raises((ValueError, FileNotFoundError)):
            reject.main(replace(cfg, **changes))
        assert not cfg.run.exists()


def test_a_real_sampler_makes_the_same_data_again(cfg: RejectConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The scripted model answers 23 or 24 after a thought of ones."""
    from r1kit.sampling.choose import open_sampler

    monkeypatch.setattr(reject, "open_sampler", open_sampler)
    file = tmp_path / "sums.jsonl"
    problems = [{"prompt": f"Problem {i}", "answer": "23", "scorer": "number", "split": "train"} for i in range(12)]
    file.write_text("".join(json.dumps(row) + "\n" for row in problems))
    cfg = replace(cfg, tasks=(str(file),), num_problems=12, rewrite="none", general_data=(), general_share=0, rows=16)
    rows = rows_of(reject.main(cfg))
    assert 6 < len(rows) <= 12
    assert all(re.fullmatch("<think>1+</think><answer>23</answer>", row["messages"][1]["content"]) for row in rows)
    again = replace(cfg, run=cfg.run.with_name("again"))
    reject.main(again)
    assert outputs(again.run) == outputs(cfg.run)


# endpoints


class FakeEndpoint:
    """Stands in for Endpoint: `answer` is what every one of them says to a prompt."""

    answer: Callable[[str], Reply] = staticmethod(lambda prompt: Reply(""))
    caches: list[Path] = []

    def __init__(self, cfg: EndpointConfig, cache: Path) -> None:
        assert cfg.url
        self.cfg, self.totals = cfg, Totals()
        FakeEndpoint.caches.append(cache)

    def chat(
        self, conversations: Sequence[Sequence[Message]], on_progress: Callable[[int, int], None] | None = None
    ) -> list[Reply]:
        del on_progress
        calls, tokens = self.totals.calls + len(conversations), self.totals.prompt_tokens + 1000 * len(conversations)
        self.totals = replace(self.totals, calls=calls, prompt_tokens=tokens)
        return [FakeEndpoint.answer(conversation[-1].content) for conversation in conversations]


@pytest.fixture
def judged(cfg: RejectConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RejectConfig:
    """Problems that no rule can judge: the gold of a general prompt is free text."""
    monkeypatch.setattr(reject, "Endpoint", FakeEndpoint)
    monkeypatch.setattr(FakeEndpoint, "caches", [])
    file = tmp_path / "open.jsonl"
    rows = [
        {"prompt": f"Make {p.gold['target']} from {', '.join(map(str, p.gold['numbers']))}.", "answer": f"about {i}",
         "scorer": "helpful", "split": "train"}
        for i, p in enumerate(load_problems("countdown", "train", 0).first(10))
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return replace(
        cfg, tasks=(str(file),), num_problems=10, rewrite="none", general_data=(), general_share=0, judge=SERVER
    )


def test_the_judge_is_given_question_reference_and_response(judged: RejectConfig, monkeypatch: pytest.MonkeyPatch):
    prompts: list[str] = []

    def answer(prompt: str) -> Reply:
        prompts.append(prompt)
        return Reply('{"analysis": "so", "correctness": "%s"}' % ("correct" if "about 3" in prompt else "incorrect"))

    monkeypatch.setattr(FakeEndpoint, "answer", staticmethod(answer))
    judged = replace(judged, judge=replace(SERVER, prompt_price=2.5))
    (row,) = rows_of(reject.main(judged))
    assert FakeEndpoint.caches == [judged.run / "cache" / "judge"]
    used = {"calls": len(prompts), "failed": 0, "prompt_tokens": 1000 * len(prompts), "completion_tokens": 0}
    cost = pytest.approx(2.5e-3 * len(prompts))
    assert json.loads((judged.run / "counts.json").read_text())["calls"] == {"judge": {**used, "cost": cost}}
    row_of_card = f"\n| judge | {len(prompts)} | 0 | {1000 * len(prompts):,} | 0 | {2.5e-3 * len(prompts):,.4g} |\n"
    assert row_of_card in (judged.run / "README.md").read_text()
    logged = [json.loads(line) for line in (judged.run / "metrics.jsonl").read_text().splitlines()]
    assert sum(row["judge/prompt_tokens"] for row in logged) == 1000 * len(prompts)
    question, text = (turn["content"] for turn in row["messages"])
    (seen, *_) = [prompt for prompt in prompts if "about 3" in prompt]
    assert question in seen and "<think>" not in seen and text.partition("</think>")[2] in seen
    assert "judged wrong" in json.loads((judged.run / "counts.json").read_text())["dropped"]


def test_a_judge_that_is_down_stops_the_run_and_loses_nothing(judged: RejectConfig, monkeypatch: pytest.MonkeyPatch):
    answers = iter([Reply('{"correctness": "correct"}')] * 15)
    monkeypatch.setattr(FakeEndpoint, "answer", staticmethod(lambda prompt: next(answers, Reply("", "HTTP 503"))))
    with pytest.raises(ValueError, match="judge at http://localhost:1/v1 answered none of 15 calls.*HTTP 503"):
        reject.main(judged)
    monkeypatch.setattr(FakeEndpoint, "answer", staticmethod(lambda prompt: Reply('{"correctness": "correct"}')))
    assert len(rows_of(reject.main(judged))) == 10
    assert Searcher.calls == 3, "the first batch was kept"


def test_a_few_calls_that_fail_are_counted(judged: RejectConfig, monkeypatch: pytest.MonkeyPatch):
    answers = iter([Reply('{"correctness": "correct"}')] * 29)
    monkeypatch.setattr(FakeEndpoint, "answer", staticmethod(lambda prompt: next(answers, Reply("", "HTTP 503"))))
    reject.main(replace(judged, keep_per_problem=4))
    counts = json.loads((judged.run / "counts.json").read_text())
    assert counts["dropped"]["judged undecided"] == 1
    assert "HTTP 503" in counts["examples"]["judged undecided"]


def test_an_endpoint_rewrites(cfg: RejectConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reject, "Endpoint", FakeEndpoint)
    monkeypatch.setattr(FakeEndpoint, "caches", [])

    def answer(prompt: str) -> Reply:
        if "<notes>" in prompt:
            return Reply("我来算。" if "算出" in prompt else "I work it out.")
        numbers = [int(n) for n in re.findall("[0-9]+", prompt.partition("<question>")[2])]
        given, target = (numbers[:3], numbers[3]) if "算出" in prompt else (numbers[1:4], numbers[0])
        first, second = next(w for w in countdown.tries((given[0], given[1], given[2])) if w[1][3] == target)
        return Reply(f"\\boxed{{{countdown.expression(first, second)}}}" if target % 2 else "\\boxed{0}")

    monkeypatch.setattr(FakeEndpoint, "answer", staticmethod(answer))
    cfg = replace(cfg, rewrite="endpoint", rewriter=SERVER, general_data=(), general_share=0)
    rows = rows_of(reject.main(cfg))
    assert FakeEndpoint.caches == [cfg.run / "cache" / "rewriter"]
    counts = json.loads((cfg.run / "counts.json").read_text())
    assert 0 < len(rows) < 18 and counts["dropped"]["rewritten, wrong"] == 2 * (18 - len(rows))
    pattern = r" <think>\n(我来算。|I work it out\.)\n</think>\n\n\\boxed\{.*\}"
    assert all(re.fullmatch(pattern, row["messages"][1]["content"]) for row in rows)


def test_a_rewriter_that_is_down_stops_the_run(cfg: RejectConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reject, "Endpoint", FakeEndpoint)
    monkeypatch.setattr(FakeEndpoint, "answer", staticmethod(lambda prompt: Reply("", "timed out")))
    monkeypatch.setattr(reject, "ALL_FAILED", 5)
    with pytest.raises(ValueError, match="rewriter at .* answered none of 5 calls.*timed out"):
        reject.main(replace(cfg, rewrite="endpoint", rewriter=SERVER))
