"""Batches of damaged and clean passages. Knows no model.

A batch is decided by the seed and the step alone, so a run resumes with nothing to restore.
"""

from __future__ import annotations

import random
import re

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer

from edgedec.models.reference.fix.damage import Damaged, careless, damage, untouched
from edgedec.models.reference.fix.passages import Stream, fragment
from edgedec.models.reference.fix.recipe import Bucket, Recipe
from edgedec.training.torch_mu import Pairs


class Mixture:
    """Draws damaged and clean passages as the recipe says."""

    def __init__(self, streams: dict[str, Stream], tokenizer: Tokenizer, recipe: Recipe) -> None:
        self._streams, self._tokenizer, self._recipe = streams, tokenizer, recipe

    def batch(self, step: int) -> Pairs:
        """The batch of a step: rows of one bucket, padded to its length."""
        recipe = self._recipe
        rng = random.Random(f"{recipe.seed}/{step}")
        bucket = rng.choices(recipe.buckets, [b.share for b in recipe.buckets])[0]
        rows = recipe.batch_tokens // bucket.length
        blocks = [np.zeros((rows, bucket.length), dtype=np.int64) for _ in range(3)]
        sources, tokens, targets = blocks
        weights = np.zeros((rows, bucket.length), dtype=np.float32)
        lengths = np.zeros(rows, dtype=np.int64)
        places = np.full((rows, bucket.length), -1, dtype=np.int64)
        for row, (clean, damaged, source, target) in enumerate(self._rows(bucket, rows, rng)):
            lengths[row] = len(source.ids) + 1
            sources[row, : len(source.ids)] = source.ids
            targets[row, : len(target.ids)] = target.ids
            tokens[row, 1 : len(target.ids) + 1] = target.ids
            weights[row, : len(target.ids) + 1] = 1.0
            weights[row, : len(target.ids)][touched(clean, damaged, target)] = recipe.weight(step)
            places[row, : len(target.ids)] = origins(clean, damaged, source, target)
            places[row, len(target.ids)] = len(source.ids)
        parts = (tokens, targets, weights, sources, lengths, places)
        return Pairs(*map(torch.from_numpy, parts))

    def _rows(
        self, bucket: Bucket, count: int, rng: random.Random
    ) -> list[tuple[str, Damaged, Encoding, Encoding]]:
        found: list[tuple[str, Damaged, Encoding, Encoding]] = []
        while len(found) < count:
            pairs = [self.draw(bucket, rng) for _ in range(count - len(found))]
            sources = self._tokenizer.encode_batch([damaged.text for _, damaged in pairs])
            targets = self._tokenizer.encode_batch([clean for clean, _ in pairs])
            for (clean, damaged), source, target in zip(pairs, sources, targets, strict=True):
                if clean and max(len(source.ids), len(target.ids)) < bucket.length:
                    found.append((clean, damaged, source, target))
        return found

    def draw(self, bucket: Bucket, rng: random.Random) -> tuple[str, Damaged]:
        """A clean passage and what became of it; the passage may be too long or empty."""
        recipe = self._recipe
        names = list(recipe.streams)
        stream = self._streams[rng.choices(names, [recipe.streams[n] for n in names])[0]]
        text = stream.passage(round(bucket.length * rng.uniform(0.9, 1.0)), rng)
        shortest, second = recipe.buckets[:2]
        if bucket == shortest and text and rng.random() < recipe.fragment_share:
            text = fragment(text, rng)
        if not text or rng.random() < recipe.clean_share:
            return text, untouched(text)
        share = {shortest: recipe.careless_share, second: recipe.careless_share / 2}
        hurried = rng.random() < share.get(bucket, 0.0)
        return text, (careless if hurried else damage)(text, rng)


def touched(clean: str, damaged: Damaged, target: Encoding) -> list[bool]:
    """Which tokens of the clean text belong to a word that an edit hit."""
    spans = [match.span() for match in re.finditer(r"\S+", clean)]
    hit = [spans[edit.index] for edit in damaged.edits]
    return [any(a < end and b > start for a, b in hit) for start, end in target.offsets]


def origins(clean: str, damaged: Damaged, source: Encoding, target: Encoding) -> list[int]:
    """Which token of the source each token of the target comes from; -1 for white space."""
    token_at = [0] * (len(damaged.text) + 1)
    for index, (start, end) in enumerate(source.offsets):
        token_at[start:end] = [index] * (end - start)
    moved = [-1] * len(clean)
    for start, match in zip(damaged.starts, re.finditer(r"\S+", clean), strict=True):
        moved[match.start() : match.end()] = range(start, start + match.end() - match.start())
    found = []
    for start, end in target.offsets:
        place = next((moved[index] for index in range(start, end) if moved[index] >= 0), -1)
        found.append(-1 if place < 0 else token_at[min(place, len(damaged.text) - 1)])
    return found
