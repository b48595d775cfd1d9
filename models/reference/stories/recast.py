"""A story whose characters have other names, so that few stories are not learned by heart."""

from __future__ import annotations

import random

from edgedec.models.reference.stories.tasks import NAME, NAMES

_FIRST_GIRL = NAMES.index("Lily")
_SIDES = (NAMES[:_FIRST_GIRL], NAMES[_FIRST_GIRL:])


def recast(story: str, rng: random.Random) -> str:
    """Give every character with a common first name another one; "he" and "she" stay right."""
    found = sorted(set(NAME.findall(story)))
    other: dict[str, str] = {}
    for side in _SIDES:
        named = [name for name in found if name in side]
        other |= zip(named, rng.sample(side, len(named)), strict=True)
    return NAME.sub(lambda match: other[match[0]], story)
