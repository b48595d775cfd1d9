"""Measure `fix`: python .../evaluate.py --data D --model FOLDER --out FILE.

Writes the JSON that the model card quotes. Everything is measured on held-out text, decoded
greedily: a model folder in bf16 with torch (half an hour on one core), a bundle as it runs (a
minute or two).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from tokenizers import Tokenizer

import edgedec
from edgedec.errors import InputError
from edgedec.models.reference.fix.damage import careless, damage, untouched
from edgedec.models.reference.fix.passages import Stream, make_stream
from edgedec.models.reference.fix.score import Score, align
from edgedec.models.reference.stories.data import HELD_OUT_BOOKS, Texts, load_texts
from edgedec.training.torch_mu import TorchMu, load_official

BATCH_TOKENS = 6144
LIMITS = (30, 60, 120, 180, 290)  # tokens of a passage, one after the other
LOST = 6
SPARE = 24  # tokens that an output may be longer than its source
SAMPLES = (
    "teh cat sat on teh mat",
    "i dont no what too do about it",
    "She recieved a letter form her her brother and and opened at once",
    "Yesterday we went to to the park. it was a beautifull day and the children was playing "
    "happily untill it begun to rain",
)


@torch.no_grad()
def restore(model: TorchMu, sources: list[list[int]]) -> list[list[int]]:
    """Greedy decoding of sources (ids with their end), side by side.

    Each pass checks the rest of the source as a guess; what the model would have written itself
    is kept, so the result is that of one token at a time.
    """
    lengths = torch.tensor([len(source) for source in sources])
    width = int(lengths.max())
    padded = torch.tensor([source + [0] * (width - len(source)) for source in sources])
    memory, seen = model.encode(padded, lengths)
    done: list[list[int]] = [[] for _ in sources]
    guesses = [source[:-1] for source in sources]
    ahead = [0] * len(sources)  # how much further the source is than what is written
    going = list(range(len(sources)))
    while going:
        width = max(len(guesses[row]) for row in going) + 1
        tokens = torch.tensor(
            [[0, *guesses[r]] + [0] * (width - 1 - len(guesses[r])) for r in going]
        )
        choices = model.decode(tokens, memory[going], seen[going]).argmax(-1).tolist()
        for row, chosen in zip(list(going), choices, strict=True):
            done[row] = _accept(done[row], guesses[row], chosen)
            if done[row][-1] == 0 or len(done[row]) > len(sources[row]) + SPARE:
                going.remove(row)
            else:
                ahead[row] = _ahead(done[row], sources[row][:-1], ahead[row])
                guesses[row] = done[row] + sources[row][len(done[row]) + ahead[row] : -1]
    return [row[:-1] if row[-1] == 0 else row for row in done]


def _accept(done: list[int], guess: list[int], chosen: list[int]) -> list[int]:
    """What the model agrees with, and its own next choice."""
    place = len(done)
    while place < len(guess) and chosen[place] == guess[place]:
        place += 1
    return [*guess[:place], chosen[place]]


def _ahead(done: list[int], source: list[int], before: int) -> int:
    """Where the source goes on: after the place that looks most like the end of `done`."""
    expected = len(done) + before
    best, found = (0, 0), before
    for place in range(max(0, expected - 8), min(len(source), expected + 8)):
        same = 0
        while same < min(4, place + 1, len(done)) and source[place - same] == done[-1 - same]:
            same += 1
        rank = (same, -abs(place + 1 - expected))
        if same and rank > best:
            best, found = rank, place + 1 - len(done)
    return found


def restore_texts(model: TorchMu, tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    """Restore texts of any number, those of like length side by side."""
    sources = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    order = sorted(range(len(texts)), key=lambda index: len(sources[index]))
    restored = [""] * len(texts)
    while order:
        rows = max(1, BATCH_TOKENS // len(sources[order[-1]]))
        part, order = order[-rows:], order[:-rows]
        with torch.autocast("cpu", torch.bfloat16):
            outputs = restore(model, [sources[index] for index in part])
        for index, ids in zip(part, outputs, strict=True):
            restored[index] = tokenizer.decode(ids)
    return restored


def held_out_streams(texts: Texts, data: Path, tokenizer: Tokenizer) -> dict[str, Stream]:
    """Clean sentences of the held-out stories, books and Wikipedia articles."""
    articles = detokenise((data / "text/wiki.test.raw").read_text(encoding="utf-8"))
    groups = {
        "tinystories": texts.held_out["tinystories"],
        "books": [text for book in HELD_OUT_BOOKS for text in texts.held_out[book]],
        "wiki": [articles],
    }
    return {name: make_stream(documents, tokenizer) for name, documents in groups.items()}


def detokenise(raw: str) -> str:
    """Running text from WikiText's words between spaces."""
    text = re.sub(r" @(.)@ ", r"\1", raw)
    text = re.sub(r'" (.*?) "', r'"\1"', text)
    text = re.sub(r" ([,.;:!?)%]|'s\b|n't\b|'(?=\s))", r"\1", text)
    return re.sub(r"([(]) ", r"\1", text).replace(" \n", "\n").replace("\n ", "\n")


def passages(stream: Stream, count: int, rng: random.Random) -> list[str]:
    """Different passages, of each length in turn."""
    found: dict[str, None] = {}
    for number in range(20 * count):
        text = stream.passage(LIMITS[number % len(LIMITS)], rng)
        if text:
            found[text] = None
        if len(found) == count:
            break
    return list(found)


Restore = Callable[[list[str]], list[str | None]]
"""Texts put right; None for one that is too long to be read."""


def by_weights(folder: Path) -> Restore:
    """What the weights of a model folder make of texts."""
    model = load_official(folder).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda texts: list(restore_texts(model, tokenizer, texts))


def by_bundle(path: Path) -> Restore:
    """What a bundle makes of them."""
    model = edgedec.load(path)

    def restored(text: str) -> str | None:
        with suppress(InputError):
            return model.generate(text, temperature=0.0, max_new_tokens=model.context).text
        return None

    return lambda texts: [restored(text) for text in texts]


def measure(restored_by: Restore, streams: dict[str, Stream], count: int) -> dict[str, object]:
    """All numbers: the same passages damaged and clean, and short lines typed in a hurry.

    `lost` are passages with six word errors or more; `too_long` ones count nowhere.
    """
    results: dict[str, object] = {}
    failures: list[dict[str, str]] = []
    for name, stream in streams.items():
        rng = random.Random(f"held out/{name}")
        clean = passages(stream, count, rng)
        lines = [text for text in clean if len(text.split()) <= 25]
        sets = {
            "damaged": [(text, damage(text, rng)) for text in clean],
            "clean": [(text, untouched(text)) for text in clean],
            "careless": [(text, careless(text, rng)) for text in lines],
        }
        for kind, pairs in sets.items():
            outputs = restored_by([damaged.text for _, damaged in pairs])
            done = [(t, d, o) for (t, d), o in zip(pairs, outputs, strict=True) if o is not None]
            score = Score()
            for text, damaged, output in done:
                score.add(text, damaged, output)
            lost = sum(align(t.split(), o.split()).errors >= LOST for t, _, o in done)
            found = {"lost": lost, "too_long": len(pairs) - len(done)}
            results[f"{name}, {kind}"] = {**score.report(), **found}
            wrong = [(t, d.text, o) for t, d, o in done if o != t]
            failures += [{"clean": t, "source": d, "restored": o} for t, d, o in wrong[:6]]
    samples = restored_by(list(SAMPLES))
    return {
        "results": results,
        "samples": dict(zip(SAMPLES, samples, strict=True)),
        "failures": failures,
    }


def main() -> None:
    """Evaluate one model and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="a folder of package.py, or a "
                        "bundle")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--count", type=int, default=400, help="passages of each source")
    arguments = parser.parse_args()
    started = time.monotonic()
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    streams = held_out_streams(load_texts(arguments.data), arguments.data, tokenizer)
    is_bundle = (arguments.model / "manifest.json").exists()
    found = measure(
        (by_bundle if is_bundle else by_weights)(arguments.model), streams, arguments.count
    )
    text = json.dumps({**found, "seconds": round(time.monotonic() - started)}, indent=1) + "\n"
    arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
