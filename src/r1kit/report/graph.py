"""The recipe as a drawing: stages as boxes in the order in which they depend on each other, arrows from inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from r1kit.report.read_pipeline import Stage

BOX_W, BOX_H, GAP_X, GAP_Y, TOP, LEFT = 88, 44, 22, 22, 40, 4


def graph(stages: Sequence[Stage], remarks: Mapping[str, str], weights: Mapping[str, str]) -> Markup | None:
    """SVG of the stages that make something; evaluations are left out. None when there is nothing to draw.

    `remarks`: stage -> a word under its name. `weights`: stage -> the stage whose weights it starts from.
    """
    drawn = [stage for stage in stages if stage.kind != "evaluate"]
    if not drawn:
        return None
    columns = depths(drawn)
    rows: dict[int, list[Stage]] = {}
    for stage in drawn:
        rows.setdefault(columns[stage.name], []).append(stage)
    tallest = max(len(column) for column in rows.values())
    at: dict[str, tuple[float, float]] = {}
    for column, members in rows.items():
        start = TOP + (tallest - len(members)) * (BOX_H + GAP_Y) / 2
        for i, stage in enumerate(members):
            at[stage.name] = LEFT + column * (BOX_W + GAP_X), start + i * (BOX_H + GAP_Y)
    width = 2 * LEFT + len(rows) * (BOX_W + GAP_X) - GAP_X
    height = TOP + tallest * (BOX_H + GAP_Y)
    parts = [_arrow(at[source], at[name]) for source, name in arrows(drawn, weights)]
    parts += [_box(stage, *at[stage.name], remarks.get(stage.name, "")) for stage in drawn]
    opening = f'<svg class="recipe" viewBox="0 0 {width} {height}" role="img" aria-label="the stages of the recipe">'
    return Markup(opening + "".join(parts) + "</svg>")


def depths(stages: Sequence[Stage]) -> dict[str, int]:
    """Stage -> its column: one more than the last of its inputs, 0 without inputs. Inputs come earlier in the plan."""
    found: dict[str, int] = {}
    for stage in stages:
        found[stage.name] = 1 + max((found[name] for name in stage.inputs if name in found), default=-1)
    return found


def arrows(stages: Sequence[Stage], weights: Mapping[str, str]) -> list[tuple[str, str]]:
    """(input, stage) for every input that no other implies, and for the one whose weights the stage starts from."""
    by_name = {stage.name: stage for stage in stages}

    def behind(name: str) -> set[str]:
        inputs = [source for source in by_name[name].inputs if source in by_name]
        return set(inputs).union(*(behind(source) for source in inputs))

    found = []
    for stage in stages:
        inputs = [source for source in stage.inputs if source in by_name]
        implied = set().union(*(behind(source) for source in inputs)) if inputs else set()
        found += [
            (source, stage.name) for source in inputs if source not in implied or weights.get(stage.name) == source
        ]
    return found


def _arrow(source: tuple[float, float], target: tuple[float, float]) -> str:
    """A curve; over or under the boxes between when it skips a column."""
    x0, y0 = source[0] + BOX_W, source[1] + BOX_H / 2
    x1, y1 = target[0], target[1] + BOX_H / 2
    if x1 - x0 <= GAP_X + 1:
        middle = (x0 + x1) / 2
        return f'<path class="edge" d="M{x0},{y0:.1f} C{middle},{y0:.1f} {middle},{y1:.1f} {x1},{y1:.1f}"/>' + _head(
            x1, y1, -6, 0
        )
    below = target[1] > source[1]
    x0, x1 = source[0] + BOX_W / 2, target[0] + BOX_W / 2
    y0, y1 = (source[1] + BOX_H, target[1] + BOX_H) if below else (source[1], target[1])
    bend = max(y0, y1) + 34 if below else min(y0, y1) - 34
    curve = f'<path class="edge" d="M{x0},{y0:.1f} C{x0},{bend:.1f} {x1},{bend:.1f} {x1},{y1:.1f}"/>'
    return curve + _head(x1, y1, 0, 6 if below else -6)


def _head(x: float, y: float, dx: int, dy: int) -> str:
    """The arrow's point at (x, y), coming from the direction (dx, dy)."""
    side_x, side_y = dy / 2, dx / 2
    back_x, back_y = x + dx, y + dy
    return (
        f'<path class="head" d="M{x},{y:.1f} L{back_x + side_x},{back_y + side_y:.1f} '
        f'L{back_x - side_x},{back_y - side_y:.1f} Z"/>'
    )


def _box(stage: Stage, x: float, y: float, remark: str) -> str:
    escape = Markup.escape
    words = _lines(stage.name)
    texts = [*((word, "name") for word in words), *([(remark, "remark")] if remark else [])]
    first = y + BOX_H / 2 + 4 - 6.5 * (len(texts) - 1)
    lines = "".join(
        f'<text class="{kind}" x="{x + BOX_W / 2}" y="{first + 13 * i:.1f}" text-anchor="middle">{escape(text)}</text>'
        for i, (text, kind) in enumerate(texts)
    )
    state = stage.state if stage.state in ("done", "running", "waiting") else "waiting"
    tip = f"<title>{escape(stage.name)}: {escape(stage.kind)}, {escape(stage.state)}</title>"
    return f'<g class="{state}">{tip}<rect x="{x}" y="{y:.1f}" width="{BOX_W}" height="{BOX_H}" rx="7"/>{lines}</g>'


def _lines(name: str) -> list[str]:
    """The name in one line, or in two that break at a hyphen."""
    if len(name) <= 13 or "-" not in name:
        return [name]
    cuts = [i for i, letter in enumerate(name) if letter == "-"]
    cut = min(cuts, key=lambda i: abs(i - len(name) / 2))
    return [name[: cut + 1], name[cut + 1 :]]
