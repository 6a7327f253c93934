"""Runs untrusted code behind kernel isolation, without root: see docs/code-rewards.md."""

from __future__ import annotations

from r1kit.sandbox.limits import Limits, Ran, Status
from r1kit.sandbox.sandbox import Running, Sandbox, SandboxUnavailable

__all__ = ["Limits", "Ran", "Running", "Sandbox", "SandboxUnavailable", "Status"]
