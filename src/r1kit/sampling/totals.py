"""Calls, tokens and cost of an endpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from r1kit.config import EndpointConfig


@dataclass(frozen=True)
class Totals:
    """What an endpoint has done since it was made; the tokens are those that were paid."""

    calls: int = 0
    """Answered over the network."""
    cached: int = 0
    """Read from disk, or shared with an equal greedy call."""
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    from_disk: int = 0
    """Those of `cached` that were paid earlier, with their tokens."""
    earlier_prompt_tokens: int = 0
    earlier_completion_tokens: int = 0

    def since(self, earlier: Totals) -> Totals:
        """What was added to `earlier`."""
        before = asdict(earlier)
        return Totals(**{name: value - before[name] for name, value in asdict(self).items()})

    def usage(self, cfg: EndpointConfig) -> dict[str, float]:
        """What the answers took, paid now or by a run that was cut off: the same however often it was. `cost` is there
        when the config has prices."""
        used: dict[str, float] = {
            "calls": self.calls + self.from_disk,
            "failed": self.failed,
            "prompt_tokens": self.prompt_tokens + self.earlier_prompt_tokens,
            "completion_tokens": self.completion_tokens + self.earlier_completion_tokens,
        }
        if not cfg.prompt_price and not cfg.completion_price:
            return used
        prices = used["prompt_tokens"] * cfg.prompt_price, used["completion_tokens"] * cfg.completion_price
        return {**used, "cost": sum(prices) / 1e6}
