"""The report of a made-up pipeline: its numbers, its pictures, and what it does while stages are missing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fake_pipeline import MODELS, STAGES, make_fake_pipeline, write_evals
from fake_run import POLICY, completion, make_fake_run, problem, write_json, write_jsonl
from r1kit.report import report
from r1kit.report.charts import Bar, bar_chart
from r1kit.report.claims import claims
from r1kit.report.graph import arrows, depths, graph
from r1kit.report.paper import CLAIMS
from r1kit.report.read import GENERAL, read_run
from r1kit.report.read_pipeline import Stage, read_pipeline

SAMPLES = 4


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pipeline and its report."""
    folder = make_fake_pipeline(tmp_path_factory.mktemp("runs") / "demo", problems=40, samples=SAMPLES)
    report.main(folder)
    return folder


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that has come to Dev2, and its report."""
    folder = make_fake_pipeline(tmp_path_factory.mktemp("runs") / "half", until="dev2", problems=20)
    report.main(folder)
    return folder


def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def section(html: str, id: str) -> str:
    found = re.search(f'<section id="{id}">.*?</section>', html, re.DOTALL)
    return found[0] if found else ""


def verdicts(folder: Path) -> dict[str, str]:
    return {claim["id"]: claim["verdict"] for claim in summary(folder)["claims"]}


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
    def share(name: str) -> float:
        rows = [json.loads(line) for line in (demo / f"eval-{name}/step-000040.jsonl").read_text().splitlines()]
        shares = [sum(c["verdict"] == "right" for c in row["completions"]) / SAMPLES for row in rows]
        return sum(shares) / len(shares)

    found = {claim["id"]: claim for claim in summary(demo)["claims"]}
    assert found["C1"]["measured"] == pytest.approx(share("zero"))
    assert found["C8"]["measured"] == pytest.approx(share("student-distilled") - share("student-rl"))
    for name in MODELS:
        assert summary(demo)["checkpoints"][name]["all"]["pass@1"] == pytest.approx(share(name))
    assert f"R1 solves {share('r1'):.1%} (95% CI" in page(demo)
    assert f"R1-Zero {share('zero'):.1%}, the base {share('base'):.1%}" in page(demo)


def test_summary_has_every_claim_in_the_agreed_form(demo: Path):
    found = summary(demo)["claims"]
    assert [claim["id"] for claim in found] == [id for id in CLAIMS if id.startswith("C")]
    fields = {"id", "statement", "paper", "unit", "measured", "low", "high", "holds", "conclusive", "verdict", "tried"}
    for claim in found:
        assert fields <= claim.keys()
        assert claim["low"] <= claim["measured"] <= claim["high"]
        assert claim["verdict"] == ("holds" if claim["holds"] else "does not hold")
        assert claim["paper"] == CLAIMS[claim["id"]]
    about = summary(demo)["pipeline"]
    assert (about["recipe"], about["seed"], about["finished"], about["cpu_cores"]) == ("demo", 0, True, 2)
    assert about["seconds"] == pytest.approx(sum(seconds for *_, seconds in STAGES) + 10 * 9 + 3 * 6)


def test_claims_do_not_depend_on_how_long_it_took(demo: Path, tmp_path: Path):
    again = make_fake_pipeline(tmp_path / "demo", problems=40, samples=SAMPLES)
    plan = json.loads((again / "pipeline.json").read_text())
    for stage in plan["stages"]:
        stage["seconds"] = 1.0
    write_json(again / "pipeline.json", plan)
    report.main(again)
    assert summary(again)["claims"] == summary(demo)["claims"]


def test_page_has_the_table_of_claims(demo: Path):
    html = section(page(demo), "claims")
    found = summary(demo)["claims"]
    assert html.count('<span class="chip yes">holds</span>') == sum(claim["holds"] for claim in found)
    for claim in found:
        assert f"<b>{claim['id']}</b>" in html
    assert "86.7% against 71.0%" in html and "46.6 → 71.7" in html


def test_checkpoints_stand_beside_the_papers(demo: Path):
    table = section(page(demo), "checkpoints")
    rows = {re.search(r"<b>(.*?)</b>", row)[1]: row for row in re.findall(r"<tr><td>.*?</tr>", table, re.DOTALL)}  # type: ignore[index]
    assert list(rows)[:4] == ["Base", "R1-Zero", "R1-Dev1", "R1-Dev2"]
    assert re.findall(r'<td class="n paper">(.*?)</td>', rows["R1-Dev2"]) == ["74.0", "72.0", "55.8", "73.2"]
    assert re.findall(r'<td class="n paper">(.*?)</td>', rows["Student, RL"]) == ["47.0", "–", "–", "–"]
    ours = summary(demo)["checkpoints"]["dev2"]["all"]
    for name in ("pass@1", "consistency", "readable"):
        assert f"{ours[name]:.1%}<small>± {1.959964 * ours[f'{name}_se']:.1%}</small>" in rows["R1-Dev2"]
    general = summary(demo)["checkpoints"]["r1"]["general"]["quality"]
    assert f"{general:.1%}<small>" in rows["R1"] and rows["R1-Dev1"].count("–") == 1


def test_pictures(demo: Path):
    html = page(demo)
    for title in ("Accuracy", "Readable", "General prompts", "Language consistency"):
        assert f"<b>{title}</b>" in section(html, "checkpoints")
    assert "<b>Accuracy, remainder</b>" in section(html, "curves")
    assert "with language reward" in section(html, "language") and "without" in section(html, "language")
    for title in ("Preference reward", "True quality"):
        assert f"<b>{title}</b>" in section(html, "hacking")
    assert "<title>distilled: " in section(html, "distillation") and "<title>RL: " in section(html, "distillation")


def test_data_of_the_stages(demo: Path):
    data = section(page(demo), "data")
    assert data.count("804,745") == 1
    assert re.search(r"<td>general</td><td class=\"n\">304</td><td class=\"n\">23%</td>", data)
    assert re.search(r"<td>cold-start</td>(<td class=\"n\">[\d,]+</td>){5}<td>mixed languages 800; wrong 546;", data)
    assert "1,412" in data and "87.0% ± 3.9%" in data


def test_the_same_problem_side_by_side(demo: Path):
    samples = section(page(demo), "samples")
    pairs = samples.split('<div class="pair">')[1:]
    names = [re.findall(r'<div class="meta"><b>(.*?)</b>', pair) for pair in pairs]
    assert names[0] == ["Base", "R1-Zero", "R1-Dev1", "R1-Dev2", "R1-Dev3", "R1"]
    assert ["R1-Zero", "R1-Dev3", "R1"] in names and ["hacking, step 0", "hacking, step 40"] in names
    assert ["Student, base", "Student, RL", "Student, distilled"] in names
    assert "in Chinese, wrong before, right after" in samples
    worse = next(pair for pair, who in zip(pairs, names, strict=True) if who[0].startswith("hacking"))
    before, after = (int(q) for q in re.findall(r'<span class="chip undecided">quality (\d+)%', worse))
    assert before > after and "expected:" not in worse


def test_page_is_self_contained(demo: Path):
    tags = _Tags()
    tags.feed(page(demo))
    assert tags.open == []
    assert not {tag for tag, _ in tags.seen} & {"script", "link", "img", "iframe", "object", "embed", "base"}
    loading = {name for _, attributes in tags.seen for name in attributes}
    assert not loading & {"src", "srcset", "action", "background", "xlink:href"}
    assert not re.search(r"@import|url\(", page(demo))
    assert "/tmp/" not in section(page(demo), "recipe")


def test_an_unfinished_pipeline_shows_what_there_is(half: Path):
    html, found = page(half), verdicts(half)
    assert "The pipeline has not finished: 10 of 28 stages done; running: dev2-no-language." in html
    assert {id for id, verdict in found.items() if verdict == "not measured yet"} == {
        "C5c", "C5d", "C7a", "C7b", "C7c", "C8", "C9",
    }  # fmt: skip
    assert found["C1"] != "not measured yet" and "claims hold so far" in html
    assert section(html, "checkpoints").count("not measured yet") == 5
    assert "<b>Accuracy, all tasks</b>" in section(html, "curves")
    assert not section(html, "hacking") and not section(html, "distillation")
    assert 'class="running"' in section(html, "recipe") and 'class="waiting"' in section(html, "recipe")
    tags = _Tags()
    tags.feed(html)
    assert tags.open == []


def test_nothing_has_begun(tmp_path: Path):
    stages = [{"name": "zero", "kind": "rl", "inputs": [], "state": "running", "seconds": None}]
    write_json(tmp_path / "pipeline.json", {"recipe": "mine.py", "seed": 3, "stages": stages, "finished": False})
    report.main(tmp_path)
    assert "No checkpoint is evaluated yet" in page(tmp_path)
    assert set(verdicts(tmp_path).values()) == {"not measured yet"}
    assert f"r1kit run mine.py --run {tmp_path} --seed 3" in page(tmp_path)


def test_an_evaluation_of_a_stage_that_is_not_done_does_not_count(half: Path):
    write_evals(half / "eval-r1", 5, [problem("remainder:0", [completion("right")])], POLICY)
    assert "r1" not in read_pipeline(half).evaluations


def test_an_evaluation_of_a_stage_that_the_recipe_no_longer_has_does_not_count(half: Path):
    write_evals(half / "eval-mine", 5, [problem("remainder:0", [completion("right")])], POLICY)
    assert "mine" not in read_pipeline(half).evaluations
    plan = json.loads((half / "pipeline.json").read_text())
    plan["stages"].append({"name": "eval-mine", "kind": "evaluate", "inputs": [], "state": "done", "seconds": 1.0})
    write_json(half / "pipeline.json", plan)
    report.main(half)
    assert "<td><b>mine</b></td>" in section(page(half), "checkpoints")


def test_the_last_of_several_evaluations_counts(tmp_path: Path):
    write_json(tmp_path / "pipeline.json", {"stages": [], "finished": False})
    for step, verdict in ((3, "wrong"), (20, "right")):
        write_evals(tmp_path / "eval-zero", step, [problem("remainder:0", [completion(verdict)])], POLICY)
    assert read_pipeline(tmp_path).evaluations["zero"].step == 20


def test_files_of_an_older_r1kit(tmp_path: Path):
    folder = make_fake_pipeline(tmp_path / "old", problems=10, measured=False)
    report.main(folder)
    found = verdicts(folder)
    assert {id for id, verdict in found.items() if verdict == "not measured"} == {"C5a", "C5b", "C5d", "C6a", "C7b"}
    assert "consistency" not in summary(folder)["checkpoints"]["zero"]["all"]


def test_general_prompts_are_not_part_of_the_accuracy(tmp_path: Path):
    run = make_fake_run(tmp_path, eval_every=0)
    ruled = [problem(f"remainder:{i}", [completion("right" if i < 3 else "wrong")]) for i in range(4)]
    kind = [problem(f"general:{i}", [{**completion("wrong"), "quality": 0.2}], task="general") for i in range(4)]
    for step in (0, 100):
        write_evals(run / "evals", step, ruled + kind, {**POLICY, "num_samples": 1})
    record = read_run(run)
    report.main(run)
    rows = summary(run)["evals"]
    assert rows[-1]["pass@1"] == 0.75 and rows[-1]["num_problems"] == 4
    assert rows[-1]["tasks"]["general"]["quality"] == pytest.approx(0.2)
    assert [p.id for p in record.evaluations[0].of(GENERAL)] == [f"general:{i}" for i in range(4)]
    assert claims(record.evaluations)[0].measured == 0  # 0.75 both times
    only = write_only_general(tmp_path / "only")
    assert len(only.evaluations[0].of("all")) == 4


def write_only_general(folder: Path):
    """A run whose evaluation has nothing but general prompts, known by their scorer."""
    write_json(folder / "config.json", {"stage": "rl"})
    rows = [{**problem(f"g{i}", [completion("undecided")], task="mine"), "scorer": "helpful"} for i in range(4)]
    write_evals(folder / "evals", 0, rows, POLICY)
    record = read_run(folder)
    assert all(p.general for p in record.evaluations[0].problems)
    return record


def test_completions_and_stage_names_are_escaped(tmp_path: Path):
    evil = "<script>alert(1)</script>"
    folder = make_fake_pipeline(tmp_path / "x", until="zero", problems=5)
    plan = json.loads((folder / "pipeline.json").read_text())
    plan["stages"].append({"name": "<b>bold", "kind": "<i>", "inputs": ["<u>"], "state": "done", "seconds": 1})
    write_json(folder / "pipeline.json", plan)
    for name, verdict in (("base", "wrong"), ("zero", "right")):
        for old in (folder / f"eval-{name}").iterdir():
            old.unlink()
        write_evals(folder / f"eval-{name}", 1, [problem("p", [completion(verdict, text=evil)])], POLICY)
    report.main(folder)
    for raw in ("<script", "<b>bold", "<i>", "<u>"):
        assert raw not in page(folder)
    assert "&lt;script&gt;" in section(page(folder), "samples")


def test_each_stage_has_a_report_of_its_own(demo: Path, tmp_path: Path):
    for name, kind, *_ in STAGES:
        out = tmp_path / f"{name}.html"
        report.main(demo / name, out)
        found = json.loads((demo / name / "summary.json").read_text())
        assert found["run"]["stage"] == kind
        tags = _Tags()
        tags.feed(out.read_text())
        assert tags.open == []
    assert "The loss went from 1.18 to 0.60" in (tmp_path / "dev1.html").read_text()


@pytest.mark.parametrize("reward", [{"language_weight": 1.0}, {"format": "r1"}])
def test_only_r1_zero_is_held_to_r1_zeros_claims(reward: dict[str, object], tmp_path: Path):
    run = make_fake_run(tmp_path, steps=20, problems=5)
    config = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", {**config, "reward": {**config["reward"], **reward}})
    report.main(run)
    assert summary(run)["claims"] == [] and not section(page(run), "claims") and not section(page(run), "paper")


def test_stage_data_counts_in_its_headline(tmp_path: Path):
    write_json(tmp_path / "config.json", {"stage": "reject"})
    report.main(tmp_path)
    assert "No sft.jsonl yet." in page(tmp_path)
    write_jsonl(tmp_path / "sft.jsonl", [{"id": "a"}, {"id": "b"}])
    report.main(tmp_path)
    assert "2 rows of sft.jsonl made." in page(tmp_path)


def test_a_damaged_plan_is_an_error(tmp_path: Path):
    (tmp_path / "pipeline.json").write_text("{oops")
    with pytest.raises(ValueError, match=r"pipeline\.json is not JSON"):
        report.main(tmp_path)


def stage(name: str, *inputs: str, kind: str = "rl", state: str = "done") -> Stage:
    return Stage(name, kind, inputs, state, 1.0)


def test_a_stage_stands_right_of_all_its_inputs():
    stages = [stage("a"), stage("b", "a"), stage("c", "a", "b", "demo-base"), stage("d")]
    assert depths(stages) == {"a": 0, "b": 1, "c": 2, "d": 0}
    assert arrows(stages, {}) == [("a", "b"), ("b", "c")]  # a -> c goes without saying
    assert arrows(stages, {"c": "a"}) == [("a", "b"), ("a", "c"), ("b", "c")]  # unless c starts from a's weights


def test_drawing_has_a_box_for_each_stage_but_evaluations():
    drawn = graph(
        [stage("a"), stage("b", "a", state="waiting"), stage("eval-a", "a", kind="evaluate")], {"a": "90%"}, {}
    )
    assert drawn is not None
    assert drawn.count("<rect") == 2 and drawn.count('class="edge"') == 1 and ">90%<" in drawn
    assert graph([stage("eval-a", kind="evaluate")], {}, {}) is None


def test_bars_are_as_high_as_their_numbers():
    bars = [Bar("one", 0.25, (0.2, 0.3)), Bar("two words", 1.0, (0.9, 1.2)), Bar("alone", 0.5)]
    chart = bar_chart("t", "u", bars, scale="percent", y_max=1.0)
    assert chart is not None
    heights = [float(height) for height in re.findall(r'<rect[^>]* height="([\d.]+)"', chart.svg)]
    assert heights[0] * 4 == pytest.approx(heights[1], abs=0.3)
    whisker = re.findall(r'class="whisker" d="M[\d.]+,([\d.]+) V([\d.]+)"', chart.svg)
    assert float(whisker[0][0]) - float(whisker[0][1]) == pytest.approx(0.1 * heights[1], abs=0.2)
    assert "two words: 100.0% (90.0% to 120.0%)" in chart.svg and ">words<" in chart.svg
    assert len(whisker) == 2 and "alone: 50.0%<" in chart.svg
    assert bar_chart("t", "u", []) is None
