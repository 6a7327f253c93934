"""Line and bar charts as inline SVG: pure functions from numbers to markup, coloured by the page's CSS classes.

A chart is about as wide as a phone's screen, so its text keeps its size; the page puts several beside each other.
Hovering over a marker shows its numbers (SVG `title`, no script).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from markupsafe import Markup

Unit = Literal["number", "percent"]
Point = tuple[float, float]

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 34
MAX_POINTS = 300


@dataclass(frozen=True)
class Series:
    """One line of a chart. `colour` is 1 to 6, the page's palette."""

    name: str
    points: Sequence[Point]
    colour: int = 1
    band: Sequence[tuple[float, float, float]] = ()
    """(x, low, high)"""
    style: Literal["line", "marked", "faint", "dashed"] = "line"
    """marked: with a dot at every point. faint: thin, behind others, and not in the legend."""


@dataclass(frozen=True)
class Bar:
    """One bar. `name` breaks into lines at spaces."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    """Low and high end; None when it is not known."""
    colour: int = 1


@dataclass(frozen=True)
class Chart:
    """A drawn chart with its caption; the page shows title, unit and legend as text above the SVG."""

    title: str
    unit: str
    svg: Markup
    legend: tuple[tuple[int, str, str], ...]
    """(colour, style, name)"""


@dataclass(frozen=True)
class _Frame:
    """Maps data to the drawing's coordinates."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    width: int
    height: int

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return self.height - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (self.height - TOP - BOTTOM)

    def path(self, points: Sequence[Point]) -> str:
        return "M" + " L".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values (1, 2, 2.5 or 5 x 10^n apart) that cover low..high from inside, about `count` of them."""
    if high <= low:
        return [low]
    step = _spacing(low, high, count)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _spacing(low: float, high: float, count: int) -> float:
    rough = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(rough))
    return next(scale * m for m in (1, 2, 2.5, 5, 10) if scale * m >= rough * 0.999)


def tick_label(value: float, unit: Unit = "number") -> str:
    """A short label: 40%, 0.02, 5e-5, 1,500, 12k, 3M."""
    if unit == "percent":
        return f"{value * 100:.6g}%"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.6g}{letter}"
    if value and abs(value) < 1e-3:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:,.6g}"


def thin(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """At most `most` points: means over equal stretches, so that a run of many steps stays a small file."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(fmean(x for x, _ in part), fmean(y for _, y in part)) for part in parts]


def smooth(points: Sequence[Point], window: int) -> list[Point]:
    """Centred moving average over `window` points (fewer at the ends)."""
    half = window // 2
    values = [y for _, y in points]
    return [(x, fmean(values[max(0, i - half) : i + half + 1])) for i, (x, _) in enumerate(points)]


def line_chart(
    title: str,
    unit: str,
    series: Sequence[Series],
    *,
    scale: Unit = "number",
    y_min: float | None = None,
    y_max: float | None = None,
    height: int = HEIGHT,
) -> Chart | None:
    """Lines over steps, the y axis from 0 (or the lowest value when that is negative) unless `y_min` says otherwise.

    None when there is no point.
    """
    series = [s for s in series if s.points]
    if not series:
        return None
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points] + [y for s in series for _, low, high in s.band for y in (low, high)]
    frame = _frame(min(xs), max(xs), min(ys), max(ys), y_max, WIDTH, height)
    if y_min is not None:
        frame = replace(frame, y_low=y_min)
    parts = [_axes(frame, scale, "step")]
    for s in series:
        if s.band:
            edge = [(x, high) for x, _, high in s.band] + [(x, low) for x, low, _ in reversed(s.band)]
            parts.append(f'<path class="band f{s.colour}" d="{frame.path(edge)}Z"/>')
    for s in sorted(series, key=lambda s: s.style != "faint"):
        points = list(s.points) if s.style == "marked" else thin(s.points)
        parts.append(f'<path class="line {s.style} s{s.colour}" d="{frame.path(points)}"/>')
        if s.style == "marked" or len(points) == 1:
            parts += [_dot(frame, s, x, y, scale) for x, y in s.points]
    legend = tuple((s.colour, s.style, s.name) for s in series if s.style != "faint")
    return Chart(title, unit, _svg(parts, f"{title} ({unit}) over steps", height), legend)


def stacked_chart(
    title: str, unit: str, layers: Sequence[Series], *, height: int = HEIGHT, most: int = 60
) -> Chart | None:
    """Bars of layers on top of each other; at most `most` bars, each the mean of a stretch. Layers share x values."""
    layers = [Series(s.name, thin(s.points, most), s.colour) for s in layers if s.points]
    if not layers:
        return None
    xs = [x for x, _ in layers[0].points]
    tops = [sum(s.points[i][1] for s in layers) for i in range(len(xs))]
    gap = (xs[-1] - xs[0]) / (len(xs) - 1) if len(xs) > 1 else 1.0
    frame = _frame(xs[0] - gap / 2, xs[-1] + gap / 2, 0.0, max(tops), None, WIDTH, height)
    parts = [_axes(frame, "number", "step")]
    width = max(0.6, (frame.x(gap) - frame.x(0)) * 0.86)
    for i, x in enumerate(xs):
        base = 0.0
        for s in layers:
            value = s.points[i][1]
            top = frame.y(base + value)
            parts.append(
                f'<rect class="f{s.colour}" x="{frame.x(x) - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
                f'height="{frame.y(base) - top:.1f}">'
                f"<title>{Markup.escape(s.name)}, step {x:g}: {value:.3g}</title></rect>"
            )
            base += value
    legend = tuple((s.colour, "bar", s.name) for s in layers)
    return Chart(title, unit, _svg(parts, f"{title} ({unit}) over steps", height), legend)


def bar_chart(
    title: str,
    unit: str,
    bars: Sequence[Bar],
    *,
    scale: Unit = "number",
    y_max: float | None = None,
    height: int = HEIGHT,
) -> Chart | None:
    """Bars side by side, each with its value above it and its 95% interval as a whisker. None without bars."""
    if not bars:
        return None
    lines = max(len(bar.name.split()) for bar in bars)
    highest = max(end for bar in bars for end in (bar.value, *(bar.interval or ())))
    frame = _frame(0.0, float(len(bars)), 0.0, highest, y_max, WIDTH, height)
    parts = [_scale(frame, scale)]
    width = min(46.0, 0.66 * (frame.x(1) - frame.x(0)))
    for i, bar in enumerate(bars):
        x, top, bottom = frame.x(i + 0.5), frame.y(bar.value), frame.y(0)
        shown, above = _number(bar.value, scale), top
        if bar.interval:
            shown += f" ({_number(bar.interval[0], scale)} to {_number(bar.interval[1], scale)})"
        parts.append(
            f'<rect class="f{bar.colour}" x="{x - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{max(0.0, bottom - top):.1f}"><title>{Markup.escape(bar.name)}: {shown}</title></rect>'
        )
        if bar.interval:
            low, high = frame.y(max(0.0, bar.interval[0])), frame.y(min(bar.interval[1], frame.y_high))
            parts.append(f'<path class="whisker" d="M{x:.1f},{low:.1f} V{high:.1f}"/>')
            above = min(top, high)
        value = f'<text class="value" x="{x:.1f}" y="{above - 4:.1f}" text-anchor="middle">'
        parts.append(f"{value}{_number(bar.value, scale)}</text>")
        for line, word in enumerate(bar.name.split()):
            y = height - BOTTOM + 14 + (13 if lines > 1 else 0) * line
            parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{Markup.escape(word)}</text>')
    return Chart(title, unit, _svg(parts, f"{title} ({unit})", height), ())


def _frame(
    x_low: float, x_high: float, y_low: float, y_high: float, y_max: float | None, width: int, height: int
) -> _Frame:
    y_low = min(0.0, y_low)
    if y_max is not None:
        y_high = y_max
    elif y_high <= y_low:
        y_high = y_low + 1.0
    else:  # end the axis on a tick, so that the highest value can be read off
        step = _spacing(y_low, y_high, 5)
        y_low, y_high = math.floor(y_low / step) * step, math.ceil(y_high / step) * step
    if x_high <= x_low:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    return _Frame(x_low, x_high, y_low, y_high, width, height)


def _scale(frame: _Frame, scale: Unit) -> str:
    """The y axis."""
    parts = []
    for value in ticks(frame.y_low, frame.y_high):
        y = frame.y(value)
        kind = "axis" if value == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{frame.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick_label(value, scale)}</text>')
    return "".join(parts)


def _axes(frame: _Frame, scale: Unit, x_label: str) -> str:
    parts = [_scale(frame, scale)]
    bottom = frame.height - BOTTOM
    for value in ticks(frame.x_low, frame.x_high, 6):
        if value != int(value):
            continue
        x = frame.x(value)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{tick_label(value)}</text>')
    middle = (LEFT + frame.width - RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{frame.height - 3}" text-anchor="middle">{x_label}</text>')
    return "".join(parts)


def _number(value: float, scale: Unit) -> str:
    return f"{value:.1%}" if scale == "percent" else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _dot(frame: _Frame, s: Series, x: float, y: float, scale: Unit) -> str:
    shown = f"{y:.1%}" if scale == "percent" else f"{y:.4g}"
    for at, low, high in s.band:
        if at == x:
            shown += f" ({low:.1%} to {high:.1%})" if scale == "percent" else f" ({low:.4g} to {high:.4g})"
    tip = f"{Markup.escape(s.name)}, step {x:g}: {shown}"
    place = f'cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3.2"'
    return f'<circle class="dot f{s.colour}" {place}><title>{tip}</title></circle>'


def _svg(parts: Sequence[str], label: str, height: int) -> Markup:
    opening = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{Markup.escape(label)}">'
    return Markup(opening + "".join(parts) + "</svg>")
