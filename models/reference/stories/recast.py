"""A story whose characters have other names, so that few stories are not learned by heart."""

from __future__ import annotations

import random
import re

from edgedec.models.reference.stories.tasks import NAMES

_FIRST_GIRL = NAMES.index("Lily")
_SIDES = (NAMES[:_FIRST_GIRL], NAMES[_FIRST_GIRL:])
_NAME = re.compile(r"\b(" + "|".join(NAMES) + r")\b")


def recast(story: str, rng: random.Random) -> str:
    """Give every character with a common first name another one; "he" and "she" stay right."""
    found = sorted(set(_NAME.findall(story)))
    other: dict[str, str] = {}
    for side in _SIDES:
        named = [name for name in found if name in side]
        other |= zip(named, rng.sample(side, len(named)), strict=True)
    return _NAME.sub(lambda match: other[match[0]], story)
