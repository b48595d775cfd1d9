"""Write `golden.json`: the hash of each model's logits over the script of `played.py`.

    python -m tests.native.write_golden

Run it by hand after a change that is meant to change results, and say so where it is described.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from edgedec.runtimes.native.engine import KV_TYPES

from . import variants
from .played import play

GOLDEN = Path(__file__).with_name("golden.json")


def main() -> None:
    """All variants and families, with both types of keys and values."""
    hashes: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in variants.names():
            model = variants.write(Path(folder), name)
            hashes[name] = {kind: f"{play(model.open(1, kind)).hash:016x}" for kind in KV_TYPES}
    GOLDEN.write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    main()
