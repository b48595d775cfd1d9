"""Prompts to train drafting for fix on: python .../prompts.py --data D --out FILE.

Damaged and clean passages as the model was trained on, drawn with another seed, one JSON line each,
as `edgedec train --data` reads them. All is made of training texts, and nothing that
`edgedec bench` asks is among it.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from edgedec.models.reference.fix.mixture import Mixture
from edgedec.models.reference.fix.passages import Stream, make_streams
from edgedec.models.reference.fix.recipe import Recipe
from edgedec.models.reference.stories.data import load_texts
from edgedec.models.reference.stories.prompts import Apart, write
from edgedec.prompts import Prompt

TOKENIZER = Path(__file__).with_name("checkpoint") / "tokenizer.json"


def prompts(
    streams: dict[str, Stream],
    tokenizer: Tokenizer,
    count: int,
    seed: int = 0,
    apart: Apart | None = None,
) -> list[Prompt]:
    """Different passages that fit the model, a quarter of them clean.

    Raises:
        ValueError: the texts do not give so many.
    """
    rng = random.Random(f"prompts/{seed}")
    apart = apart or Apart()
    recipe = replace(Recipe(), streams={n: s for n, s in Recipe().streams.items() if n in streams})
    mixture = Mixture(streams, tokenizer, recipe)
    shares = [bucket.share for bucket in recipe.buckets]
    found: dict[Prompt, None] = {}
    for _ in range(40 * count):
        bucket = rng.choices(recipe.buckets, shares)[0]
        clean, damaged = mixture.draw(bucket, rng)
        made = Prompt((damaged.text,))
        if not clean or made in found or not (apart(clean) and apart(damaged.text)):
            continue
        # The end token comes on top, on both sides.
        sides = tokenizer.encode_batch([clean, damaged.text])
        if max(len(side.ids) for side in sides) < bucket.length:
            found[made] = None
            if len(found) == count:
                return list(found)
    raise ValueError(f"these texts give {len(found)} passages, not {count}: give more text")


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with corpus/ and text/")
    parser.add_argument("--out", type=Path, required=True, help="the file of prompts")
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    streams = make_streams(load_texts(arguments.data), tokenizer)
    made = prompts(streams, tokenizer, arguments.count, arguments.seed)
    print(f"{arguments.out}: {write(arguments.out, made)} passages")


if __name__ == "__main__":
    main()
