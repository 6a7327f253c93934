"""From hidden states to logits: a product with the head, and what some families do to it.

Shapes: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Unembed(NamedTuple):
    """logits = cap tanh(x / cap) of x = scale (h W^T + b); for most models h W^T alone."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        """Logits [N, V], in fp32 from the product on; that is in the hidden states' type."""
        logits_NV = (hidden_ND @ self.weight_VD.to(hidden_ND.dtype).T).float()
        if self.bias_V is not None:
            logits_NV = logits_NV + self.bias_V.float()
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        if self.cap is not None:
            logits_NV = (logits_NV / self.cap).tanh() * self.cap
        return logits_NV

    def slope(self, logits_NV: Tensor) -> Tensor | float | None:
        """d logits / d (h W^T) at these logits, which are kept; None where it is 1 everywhere."""
        if self.cap is not None:
            return (1 - (logits_NV / self.cap).square()) * self.scale
        return None if self.scale == 1.0 else self.scale

    def first(self, rows: int) -> Unembed:
        """That of the first `rows` tokens of the vocabulary."""
        bias_V = None if self.bias_V is None else self.bias_V[:rows]
        return self._replace(weight_VD=self.weight_VD[:rows], bias_V=bias_V)

    def master(self) -> Unembed:
        """The same with fp32 copies, so that a gradient from many chunks adds up in fp32."""
        bias_V = None if self.bias_V is None else self.bias_V.float()
        return self._replace(weight_VD=self.weight_VD.float(), bias_V=bias_V)
