"""Knights and Knaves (arXiv 2410.23123; Logic-RL, 2502.14768): who is a knight, who a knave? All must be right."""

from __future__ import annotations

import re
from typing import Any

from r1kit.types import Verdict

CLAIM = re.compile(
    r"\b([^\W\d_]+)\b\W{0,3}(?:\s+is|\s*[:=])\s*(?:an?\s+|the\s+)?\W{0,3}(knight|knave)\b", re.IGNORECASE
)


def judge(answer: str, gold: dict[str, str]) -> tuple[Verdict, str, str]:
    """Verdict, reason, and the roles that were named in gold's order. `gold`: {"Zoey": "knight", "Owen": "knave"}.

    Every name must be given its role and no other: who calls somebody both is wrong.
    """
    claimed: dict[str, set[str]] = {}
    for name, role in CLAIM.findall(answer):
        claimed.setdefault(name.casefold(), set()).add(role.casefold())
    named = {name: " and ".join(sorted(claimed.get(name.casefold(), {"nothing"}))) for name in gold}
    extracted = ", ".join(f"{name}: {role}" for name, role in named.items())
    wrong = [name for name, role in gold.items() if named[name] != role.casefold()]
    if not wrong:
        return "right", f"all {len(gold)} roles are right", extracted
    first = wrong[0]
    reason = f"{len(wrong)} of {len(gold)} roles are wrong; {first} is a {gold[first]}, answered {named[first]}"
    return "wrong", reason, extracted


def knights_fault(gold: Any) -> str:
    """What keeps the scorer from using `gold`, as "is ..., give ..."; empty when nothing does."""
    if isinstance(gold, dict) and gold and all(role in ("knight", "knave") for role in gold.values()):
        return ""
    return f'is {str(gold)[:80]!r}; give {{"Zoey": "knight", "Owen": "knave"}}'
