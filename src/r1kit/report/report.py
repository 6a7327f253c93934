"""One self-contained HTML file that shows whether a run or a whole pipeline worked, and summary.json for machines.

    r1kit report runs/demo

Everything is computed from the files: claims and intervals from evaluations, training curves from metrics.jsonl. The
page loads nothing from a network and has no script.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from r1kit.report import pipeline_page, run_page
from r1kit.report.pipeline_claims import pipeline_claims
from r1kit.report.read import find_run, read_run
from r1kit.report.read_pipeline import is_pipeline, read_pipeline
from r1kit.run import write_json_atomic, write_text_atomic


def main(run: Path, out: Path | None = None) -> Path:
    """Write the report of a run or pipeline folder to `out` (default: report.html in it), and summary.json in it.

    Raises FileNotFoundError for a folder that is not a run, ValueError for a damaged file.
    """
    title = run.resolve().name
    if is_pipeline(run):
        pipeline = read_pipeline(run)
        found = pipeline_claims(pipeline)
        page = render("pipeline.html", pipeline_page.context(pipeline, found, title))
        numbers = pipeline_page.summary(pipeline, found)
    else:
        record = read_run(find_run(run))
        found = run_page.run_claims(record)
        page = render("run.html", run_page.context(record, found, title))
        numbers = run_page.summary(record, found)
    out = out or run / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(out, page)
    write_json_atomic(run / "summary.json", numbers)
    return out


def render(template: str, context: dict[str, Any]) -> str:
    """The page's HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(context)
