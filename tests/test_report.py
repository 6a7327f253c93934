"""The report of a made-up run: its numbers, its safety, and what it does when pieces are missing."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import tyro

from fake_run import completion, make_fake_pretrain, make_fake_run, problem, write_evaluation, write_json, write_jsonl
from r1kit import presets
from r1kit.config import AlgoConfig, OptimConfig, to_dict
from r1kit.report import figures, report
from r1kit.report.charts import Series, line_chart, smooth, stacked_chart, thin, tick_label, ticks
from r1kit.report.command import command
from r1kit.report.read import read_run


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with a finished run, and its report."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    make_fake_run(folder / "zero", problems=100, samples=16)
    report.main(folder)
    return folder


def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def section(html: str, id: str) -> str:
    found = re.search(f'<section id="{id}">.*?</section>', html, re.DOTALL)
    return found[0] if found else ""


class _Tags(HTMLParser):
    """Every opening tag, to see that all are closed and that none loads anything."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_numbers_come_from_the_completions(demo: Path):
    rows = [json.loads(line) for line in (demo / "zero/evals/step-000100.jsonl").read_text().splitlines()]
    shares = [sum(c["verdict"] == "right" for c in row["completions"]) / 16 for row in rows]
    expected = sum(shares) / len(shares)
    claims = {claim["id"]: claim for claim in summary(demo)["claims"]}
    assert claims["zero"]["measured"] == pytest.approx(expected)
    assert f"to {expected:.1%} (95% CI" in page(demo)
    assert summary(demo)["evals"][-1]["pass@1"] == pytest.approx(expected)
    tokens = [sum(c["tokens"] for c in row["completions"]) / 16 for row in rows]
    assert summary(demo)["evals"][-1]["length"] == pytest.approx(sum(tokens) / len(tokens))


def test_summary_has_every_claim_in_the_agreed_form(demo: Path):
    claims = summary(demo)["claims"]
    assert [claim["id"] for claim in claims] == ["base", "zero", "stays", "length", "reflection", "cons"]
    for claim in claims:
        assert {"id", "statement", "paper", "measured", "low", "high", "holds", "conclusive"} <= claim.keys()
        assert claim["low"] <= claim["measured"] <= claim["high"]
        assert isinstance(claim["holds"], bool)
    assert [row["step"] for row in summary(demo)["evals"]] == [0, 20, 40, 60, 80, 100]
    run = summary(demo)["run"]
    assert (run["model"], run["seed"], run["algorithm"], run["finished"], run["r1kit"]) == (
        "demo-base",
        0,
        "GRPO",
        True,
        "0.1.0",
    )


def test_page_shows_verdicts_paper_and_sampling_policy(demo: Path):
    html = page(demo)
    assert section(html, "claims").count('<span class="chip yes">holds</span>') == sum(
        c["holds"] for c in summary(demo)["claims"]
    )
    for number in ("15.6% → 71.0%", "77.9%", "86.7%", "9,500 tokens", "5 to 7 times"):
        assert number in section(html, "paper")
    assert "16 samples per problem, temperature 1.0, top-p 1.0, no top-k, at most 512 new tokens" in section(
        html, "evaluations"
    )
    assert "<pre>r1kit rl demo --run" in section(html, "config")
    assert "9 min" in html and "2 CPU cores" in html


def test_curves_are_the_papers_figures(demo: Path):
    run = read_run(demo / "zero")
    titles = [chart.title for chart in figures.accuracy(run)]
    assert titles == ["Accuracy, all tasks", "Accuracy, countdown", "Accuracy, remainder"]
    assert [name for _, _, name in figures.accuracy(run)[2].legend] == ["cons@16", "pass@1"]
    assert "cons@16" not in [name for _, _, name in figures.accuracy(run)[1].legend]  # many right answers: no vote
    assert [chart.title for chart in figures.behaviour(run)] == ["Response length", "Reflection words", "Truncated"]
    for title in ("Reward", "KL to the reference", "Entropy", "Clipped", "Time per step", "Throughput"):
        assert f"<b>{title}</b>" in page(demo)


def test_phases_add_up_to_the_whole_time(demo: Path):
    run = read_run(demo / "zero")
    phases = {name: seconds for name, _, seconds in figures.seconds_by_phase(run)}
    assert sum(phases.values()) == pytest.approx(summary(demo)["run"]["seconds"])
    assert phases["evaluate"] == pytest.approx(6 * 9 + 20 * (0 + 0.2 + 0.4 + 0.6 + 0.8 + 1))


def test_page_is_self_contained(demo: Path):
    tags = _Tags()
    tags.feed(page(demo))
    assert tags.open == []  # every tag is closed, in order
    names = {tag for tag, _ in tags.seen}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base"}
    loading = {name for _, attrs in tags.seen for name in attrs} & {
        "src",
        "srcset",
        "action",
        "background",
        "xlink:href",
    }
    assert not loading
    assert not re.search(r"@import|url\(", page(demo))


def test_report_does_not_import_torch():
    code = "import sys, r1kit.report.report; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_completions_are_escaped(tmp_path: Path):
    evil = '<script>alert("x")</script> but <b>no</b> & wait</think><img src=x onerror=y>'
    run = make_fake_run(tmp_path, eval_every=0)
    wrong, right = completion(text=evil), completion("right", text=evil)
    wrong["reason"] = right["reason"] = "<i>why</i>"
    question = problem("<u>task</u>", [wrong], task="<em>t</em>")
    write_evaluation(run, 0, [question])
    write_evaluation(run, 100, [{**question, "completions": [right]}])
    report.main(run)
    html = page(run)
    for raw in ("<script", "<b>no", "<img", "<i>why", "<u>task", "<em>t"):
        assert raw not in html
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in section(html, "samples")
    assert '<mark class="word">but</mark>' in html and '<mark class="tag">&lt;/think&gt;</mark>' in html
    tags = _Tags()
    tags.feed(html)
    assert tags.open == []


def test_before_and_after_picks_the_median_length(tmp_path: Path):
    run = make_fake_run(tmp_path, eval_every=0)
    lengths = {"a": 30, "b": 10, "c": 20, "d": 99, "e": 50}
    verdicts = {
        "a": ("wrong", "right"),
        "b": ("wrong", "right"),
        "c": ("wrong", "right"),
        "d": ("right", "right"),
        "e": ("right", "wrong"),
    }
    for step, side in ((0, 0), (100, 1)):
        rows = [problem(id, [completion(verdicts[id][side], tokens=lengths[id], text=f"said {id}")]) for id in lengths]
        write_evaluation(run, step, rows)
    report.main(run)
    shown = re.findall(r'<pre class="prompt">User: (\w)\?', page(run))
    assert shown == ["c", "e"]  # learnt: 10, 20, 30 tokens; not right after: only e
    assert "the median length of 3 such problems" in page(run)


def test_chinese_problem_is_shown(demo: Path):
    samples = section(page(demo), "samples")
    assert samples.count("in Chinese, wrong before, right after") == 2  # one per task
    assert samples.count("still not right after") == 2


def test_unfinished_run_says_so(tmp_path: Path):
    run = make_fake_run(tmp_path, done=50, problems=100)
    report.main(run)
    assert "The run has not finished: step 50 of 100, last evaluation at step 40." in page(run)
    claims = {claim["id"]: claim for claim in summary(run)["claims"]}
    assert claims["base"]["holds"] and not claims["zero"]["holds"]
    assert "not yet" in section(page(run), "claims")
    assert [row["step"] for row in summary(run)["evals"]] == [0, 20, 40]


def test_run_killed_in_its_last_evaluation_has_not_finished(tmp_path: Path):
    run = make_fake_run(tmp_path, problems=100)
    assert read_run(run).finished
    for path in (run / "evals").glob("step-000100.*"):
        path.unlink()
    report.main(run)
    assert "step 100 of 100, last evaluation at step 80" in page(run)
    assert not {claim["id"]: claim for claim in summary(run)["claims"]}["zero"]["holds"]


def test_run_without_evaluations_still_has_its_curves(tmp_path: Path):
    report.main(make_fake_run(tmp_path, eval_every=0))
    assert "no evaluation yet" in page(tmp_path)
    assert "<b>Reward</b>" in page(tmp_path) and "<b>Response length</b>" in page(tmp_path)
    assert not section(page(tmp_path), "claims")
    assert summary(tmp_path)["claims"] == [] and summary(tmp_path)["evals"] == []


def test_run_that_has_only_its_base_evaluation(tmp_path: Path):
    report.main(make_fake_run(tmp_path, done=0, problems=10))
    assert "there is no later evaluation yet" in page(tmp_path)
    assert "metrics.jsonl has no training step yet" in page(tmp_path)


def test_task_without_votes_has_no_cons(tmp_path: Path):
    run = make_fake_run(tmp_path, eval_every=0)
    for step in (0, 100):
        write_evaluation(run, step, [problem(f"p{i}", [completion("right")]) for i in range(3)], voting=())
    report.main(run)
    assert "cons" not in {claim["id"] for claim in summary(run)["claims"]}
    assert not [key for key in summary(run)["evals"][0] if key.startswith("cons@")]


def test_pretrain_run_is_its_loss_curve(tmp_path: Path):
    report.main(make_fake_pretrain(tmp_path))
    html = page(tmp_path)
    assert re.search(r"The loss went from 4\.\d+ to 0\.\d+ nats per token in 400 steps", html)
    assert "<b>Loss</b>" in html and "<b>Reward</b>" not in html
    assert not section(html, "claims") and not section(html, "paper")
    assert summary(tmp_path)["run"]["tokens"] == 400 * 16384


def test_resumed_steps_count_once(tmp_path: Path):
    run = make_fake_run(tmp_path, steps=20, problems=5)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    before = read_run(run)
    repeated = [row for row in rows if row["step"] > 10]
    write_jsonl(run / "metrics.jsonl", rows + repeated)
    assert read_run(run).training == before.training


def test_line_cut_off_by_a_kill_is_noted_and_a_damaged_one_is_an_error(tmp_path: Path):
    run = make_fake_run(tmp_path, steps=20, problems=5)
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(whole + '{"step": 21, "rew')
    assert read_run(run).notes == ("the last line of metrics.jsonl is cut off and left out",)
    (run / "metrics.jsonl").write_text('{"step": 1, "rew\n' + whole)
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 1 is not JSON"):
        read_run(run)


def test_evaluation_without_completions_is_left_out_and_noted(tmp_path: Path):
    run = make_fake_run(tmp_path, steps=20, problems=5)
    (run / "evals/step-000020.jsonl").unlink()
    report.main(run)
    assert "evals/step-000020.jsonl is missing" in page(run)
    assert [row["step"] for row in summary(run)["evals"]] == [0]


def test_folder_that_is_not_a_run(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"has neither config\.json nor zero/config\.json"):
        report.main(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        report.main(tmp_path / "nowhere")
    write_json(tmp_path / "config.json", {})
    (tmp_path / "config.json").write_text("{oops")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        report.main(tmp_path)


def test_report_can_go_elsewhere(tmp_path: Path):
    run = make_fake_run(tmp_path / "run", steps=20, problems=5)
    assert report.main(run, tmp_path / "site/page.html") == tmp_path / "site/page.html"
    assert (tmp_path / "site/page.html").is_file() and (run / "summary.json").is_file()
    assert not (run / "report.html").exists()


def test_command_of_a_preset_is_its_name():
    assert command({"stage": "rl", "r1kit": "0.1.0", **to_dict(presets.rl_demo())}) == "r1kit rl demo"
    assert command({"stage": "pretrain", **to_dict(presets.pretrain_tiny())}) == "r1kit pretrain tiny"


def test_command_makes_the_same_config():
    config = replace(
        presets.rl_demo(),
        run=Path("runs/my run"),
        seed=3,
        tasks=("remainder", "a;b.jsonl"),
        optim=OptimConfig(lr=1e-4, betas=(0.9, 0.99)),
        algo=AlgoConfig(ratio="sequence", mask_truncated=True),
    )
    program, stage, *words = shlex.split(command({"stage": "rl", **to_dict(config)}))
    assert (program, stage) == ("r1kit", "rl")
    assert tyro.extras.overridable_config_cli(presets.RL, args=words) == config


def test_ticks_are_round_and_inside():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(3, 97) == [20, 40, 60, 80]
    assert ticks(-0.013, 0.02) == [-0.01, 0, 0.01, 0.02]
    assert ticks(5, 5) == [5]
    assert [tick_label(v) for v in (0, 0.02, 5e-5, 1500, 12000, 3e6)] == ["0", "0.02", "5e-5", "1,500", "12k", "3M"]
    assert tick_label(0.4, "percent") == "40%"


def test_long_series_are_thinned_to_means():
    assert thin([(i, 2 * i) for i in range(1000)], 10) == [(49.5 + 100 * i, 99 + 200 * i) for i in range(10)]
    assert smooth([(0, 0), (1, 3), (2, 6)], 3) == [(0, 1.5), (1, 3), (2, 4.5)]


def test_line_is_drawn_where_its_numbers_are():
    chart = line_chart(
        "t", "u", [Series("s", [(0, 0.0), (50, 0.5), (100, 1.0)], style="marked")], scale="percent", y_max=1.0
    )
    assert chart is not None
    dots = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', chart.svg)]
    labels = dict(re.findall(r'y="([\d.]+)" text-anchor="end">(\d+%)<', chart.svg))
    heights = {text: float(y) - 3.5 for y, text in labels.items()}
    assert dots[0][1] == pytest.approx(heights["0%"], abs=0.1)
    assert dots[2][1] == pytest.approx(heights["100%"], abs=0.1)
    assert dots[1] == pytest.approx(((dots[0][0] + dots[2][0]) / 2, (dots[0][1] + dots[2][1]) / 2), abs=0.1)
    assert "s, step 50: 50.0%" in chart.svg


def test_charts_of_nothing_one_point_and_infinities(tmp_path: Path):
    assert line_chart("t", "u", [Series("s", [])]) is None
    assert stacked_chart("t", "u", []) is None
    one = line_chart("t", "u", [Series("s", [(1, 0.0)])])
    assert one is not None and "nan" not in one.svg and "<circle" in one.svg
    write_json(tmp_path / "config.json", {"stage": "rl", "steps": 2})
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "entropy": null}\n{"step": 2, "entropy": 0.5}\n')
    assert read_run(tmp_path).series("entropy") == [(2, 0.5)]
    report.main(tmp_path)
