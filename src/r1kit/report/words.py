"""Numbers as the page prints them."""

from __future__ import annotations

from r1kit.report.claims import Claim
from r1kit.report.estimates import Z95, Estimate


def duration(seconds: float) -> str:
    """41 s, 9 min 12 s or 3 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def on_cores(cores: int | None) -> str:
    """ " on 2 CPU cores", or nothing when it is not known."""
    return f" on {cores} CPU core{'s' if cores > 1 else ''}" if cores else ""


def count(number: float) -> str:
    """1,234 or 5.62 M."""
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number:,.0f}"


def percent(value: float) -> str:
    """A share, cut off at 0% and 100%: an interval's end may lie outside."""
    return f"{min(1.0, max(0.0, value)):.1%}"


def with_width(estimate: Estimate | None, form: str = ".1%") -> str:
    """87.1% ± 2.6%: half of the 95% interval; a dash for what was not measured."""
    if estimate is None:
        return "–"
    width = f" ± {format(Z95 * estimate.se, form)}" if estimate.n > 1 else ""
    return f"{format(estimate.value, form)}{width}"


def with_width_below(estimate: Estimate | None, form: str = ".1%") -> tuple[str, str]:
    """The value, and half of its 95% interval to print under it; a dash for what was not measured."""
    value, _, width = with_width(estimate, form).partition(" ")
    return value, width


def measured(claim: Claim) -> tuple[str, str]:
    """(number, interval) in the claim's unit."""
    if claim.measured is None:
        return "–", "–"

    def number(value: float) -> str:
        match claim.unit:
            case "share":
                return percent(value)
            case "points":
                return f"{value * 100:+.1f} points"
            case "ratio":
                return f"{value:.2f}×"
            case "words":
                return f"{value:+.2f} words"

    if claim.low is None or claim.high is None:
        return number(claim.measured), "none, one problem"
    low, high = number(claim.low).split()[0], number(claim.high).split()[0]  # the unit stands beside the number
    return number(claim.measured).replace("-", "−"), f"{low} to {high}".replace("-", "−")
