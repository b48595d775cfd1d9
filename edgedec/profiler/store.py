"""Profiles as files in the user's cache: strict JSON, one file for each key.

What is read may be damaged, half written or made up by someone: everything has bounds, and what
does not hold is told and never raised, since a profile can be made anew. What cannot be written
only costs the time of measuring again.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgedec.architecture import Count, Spec
from edgedec.bundle import cache_folder
from edgedec.costs import Costs
from edgedec.errors import UsageError
from edgedec.manifest import Line
from edgedec.profiler.device import Fingerprint
from edgedec.replacing import replacing

FOLDER = "profiles"
MAX_BYTES = 256 << 10
MAX_FILES = 64
"""Older ones go: each new version of a runtime would leave its own behind."""

Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=1e15)]
Rows = Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=256)]
Pasts = Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=64)]
Times = Annotated[tuple[Seconds, ...], msgspec.Meta(min_length=1, max_length=256)]
Tables = Annotated[tuple[Times, ...], msgspec.Meta(min_length=1, max_length=64)]
Spread = Annotated[dict[Count, tuple[Seconds, Seconds]], msgspec.Meta(max_length=256)]
DraftCosts = Annotated[dict[Line, Annotated[float, msgspec.Meta(ge=0, le=3.6e6)]],
                       msgspec.Meta(max_length=64)]  # fmt: skip


class Key(Spec, frozen=True):
    """What a profile holds for: if any of it differs, another profile is needed.

    `bundle` is the bundle's hash; `threads` 0 where a runtime does not tell how many it uses.
    """

    fingerprint: Fingerprint
    runtime: Line
    version: Line
    device: Line
    bundle: Line
    threads: Count
    kv_type: Line

    @property
    def name(self) -> str:
        """The name of the file."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32] + ".json"


class Profile(Spec, frozen=True):
    """What was measured for a key.

    `rows`, `pasts`, `layers`, `head` and `depth` are those of `Costs`, in seconds. `spread` has the
    10th and 90th percentile of a step's time by number of rows, at `spread_past` tokens of past.
    `rounds` counted, `rejected` did not. `bandwidth` is bytes read per second and `weight_bytes`
    what a step reads. `source` is how many rows an
    encoder had read. `host` is what a plain turn takes outside of its step, in seconds, `draft_ms`
    what a strategy takes in a turn, in milliseconds; both only where effort was full. `made` is the
    day, `seconds` what measuring took.
    """

    schema: Literal[1]
    key: Key
    effort: Literal["quick", "full"]
    made: Line
    rows: Rows
    pasts: Pasts
    layers: Tables
    head: Times
    depth: Count
    spread: Spread
    spread_past: Count
    rounds: Count
    rejected: Count
    seconds: Seconds
    weight_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    bandwidth: Rate | None = None
    draft_ms: DraftCosts = msgspec.field(default_factory=dict)
    host: Seconds = 0.0
    source: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0

    @property
    def costs(self) -> Costs:
        """The table that the planner reads.

        Raises:
            UsageError: its parts do not fit together.
        """
        return Costs(self.rows, self.pasts, self.layers, self.head, self.host, self.depth)

    @property
    def roofline(self) -> float | None:
        """Seconds that reading the weights once takes; None where bandwidth was not measured."""
        return self.weight_bytes / self.bandwidth if self.bandwidth else None


def read(key: Key) -> tuple[Profile | None, str | None]:
    """The stored profile of a key; or None, and what is wrong with the file if there is one."""
    path = _path(key)
    try:
        # A pipe would wait for ever, and whoever can write here can put one.
        if not path.is_file():
            return None, None
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        return None, f"it cannot be read ({error.strerror})"
    if len(text) > MAX_BYTES:
        return None, f"it is larger than {MAX_BYTES >> 10} KiB"
    try:
        found = msgspec.json.decode(text, type=Profile)
        _ = found.costs
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, UsageError) as error:
        return None, str(error)
    if found.key != key:
        return None, "it belongs to another device, version or bundle"
    return found, None


def write(profile: Profile) -> bool:
    """Store a profile, whole or not at all, and say whether that could be done."""
    path = _path(profile.key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n")
    except OSError:
        return False
    _drop_oldest(path.parent)
    return True


def _path(key: Key) -> Path:
    return cache_folder() / FOLDER / key.name


def _drop_oldest(folder: Path) -> None:
    with suppress(OSError):  # another process may tidy up as well
        files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for path in files[:-MAX_FILES]:
            path.unlink(missing_ok=True)
