"""What a model writes when it is let: the texts that drafters learn to foresee.

The quantised model continues prompts through the ordinary API, a third of them greedily. What it
wrote is kept in the cache, line by line, so that nothing is written twice: where enough is kept the
model is not opened, and nothing need be there that runs it. A tenth of the prompts is held out.
Knows nothing about what is trained on it.

Shapes: b texts, T the tokens of the longest.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch

from edgedec import api, drafting
from edgedec.bundle import cache_folder
from edgedec.devices import EngineOptions
from edgedec.errors import InputError, UnsupportedError, WriteError
from edgedec.model import Model
from edgedec.prompts import Prompt, read_prompts
from edgedec.reading import Asked, Reader
from edgedec.training.trainee import Batch, Options

if TYPE_CHECKING:
    from edgedec.bundle import Bundle
    from edgedec.contracts import Ints
    from edgedec.model import Setup

FORM = 1
"""The version of the kept files; another one is written anew."""
HELD_ONE_OF = 10
GREEDY_ONE_OF = 3
CHUNK = 16
"""Texts that are kept together: an interruption loses fewer than so many."""


@dataclass(frozen=True)
class Written:
    """One text: ids, of which the first `prompt` were given to the model; `source` is what its
    encoder read."""

    tokens: Ints
    prompt: int
    source: Ints | None = None
    greedy: bool = False


@dataclass(frozen=True)
class Texts:
    """Texts to learn from and texts held out. `key` stands for all of them."""

    trained: Sequence[Written]
    held: Sequence[Written]
    key: str

    @property
    def tokens(self) -> int:
        """How many tokens the model wrote."""
        return sum(len(each.tokens) - each.prompt for each in (*self.trained, *self.held))


@dataclass(frozen=True)
class Writing:
    """How much a model writes, and how: texts of at most `length` new tokens."""

    tokens: int = 300_000
    length: int = 256
    temperature: float = 0.8
    seed: int = 0


@dataclass(frozen=True)
class Place:
    """Where a model writes: as in `edgedec.load`."""

    options: EngineOptions = field(default_factory=lambda: EngineOptions(""))
    runtime: str | None = None


class _Line(msgspec.Struct, array_like=True):
    """A line of the kept file: the turn, and what came of it."""

    turn: int
    prompt: int
    tokens: list[int]
    source: list[int] | None
    greedy: bool
    held: bool


def gather(
    bundle: Bundle,
    files: Sequence[Path],
    writing: Writing,
    progress: Callable[[float], object] = lambda share: None,
    stop: Callable[[], bool] = lambda: False,
    place: Place | None = None,
) -> Texts:
    """The texts for a bundle and files of prompts: those that are kept, and what is missing.

    `progress` is told the share that is there. Once `stop` says so, what is there is returned.

    Raises:
        InputError: a file is empty or no text, no prompt fits the model, or it writes nothing.
        UnsupportedError: the model hears.
        WriteError: the cache cannot be written.
    """
    if bundle.manifest.architecture.frontend is not None:
        raise UnsupportedError("this model hears: only models of texts can be trained to draft")
    prompts = sorted({prompt for file in files for prompt in read_prompts(file)}, key=_digest)
    key = _key(bundle, prompts, writing)
    kept = _Kept(cache_folder() / "training" / "texts" / f"{key}.jsonl")
    lines = kept.read()
    if _written(lines) < writing.tokens:
        place = place or Place()
        setup = api.assemble(bundle.path, place.options, place.runtime, drafting.choose())
        with Model(setup) as model:
            asked = _asked(setup, prompts)
            kept.flush()  # before time is spent on what could not be kept
            for line in _write(model, asked, writing, len(lines), stop):
                lines.append(line)
                kept.append(line)
                progress(min(1.0, _written(lines) / writing.tokens))
                if _written(lines) >= writing.tokens:
                    break
            kept.flush()
    used = list(_enough(lines, writing.tokens))
    held = [_text(line) for line in used if line.held]
    trained = [_text(line) for line in used if not line.held]
    whole = f"{key}-{len(used)}"
    return Texts(trained, held, whole)


# --- writing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Turn:
    """A prompt with what the model reads of it."""

    prompt: Prompt
    read: Asked
    held: bool


def _asked(setup: Setup, prompts: Sequence[Prompt]) -> list[_Turn]:
    """The prompts that fit the model; at least one of them is held out."""
    reader = Reader(setup.text, setup.bundle.manifest.architecture)
    found, refused = [], ""
    for prompt in prompts:
        try:
            read = reader.chat(_messages(prompt)) if prompt.chat else reader.text(prompt.turns[0])
        except InputError as error:
            refused = str(error)
            continue
        if len(read.prompt) < setup.bundle.manifest.architecture.limits.context:
            found.append(_Turn(prompt, read, int(_digest(prompt)[:8], 16) % HELD_ONE_OF == 0))
        else:
            refused = "it is longer than the context"
    if len(found) < 2:
        why = f" ({refused})" if refused else ""
        raise InputError(
            f"{len(found)} of {len(prompts)} prompts can be given to this model{why}: at least two "
            "are needed, one of them to measure on; some hundreds are better"
        )
    if all(turn.held for turn in found) or not any(turn.held for turn in found):
        found = [_Turn(turn.prompt, turn.read, at == 0) for at, turn in enumerate(found)]
    return found


def _write(
    model: Model, asked: Sequence[_Turn], writing: Writing, first: int, stop: Callable[[], bool]
) -> Iterator[_Line]:
    """Text after text from turn `first` on, for ever: every prompt, then all once more."""
    architecture = model.bundle.manifest.architecture
    ends = architecture.tokens.eos
    silent = 0
    for turn in range(first, first + (1 << 40)):
        if stop():
            return
        around, place = divmod(turn, len(asked))
        # Greedily there is one text only: each prompt has its turn once.
        greedy = (place + around) % GREEDY_ONE_OF == 0 and around < GREEDY_ONE_OF
        each = asked[place]
        prompt = _messages(each.prompt) if each.prompt.chat else each.prompt.turns[0]
        done = model.generate(
            prompt,
            temperature=0.0 if greedy else writing.temperature,
            seed=writing.seed + turn,
            max_new_tokens=writing.length,
        )
        # The end was foreseen as well, where it is known which it was.
        end = ends if done.finish_reason == "stop" and len(ends) == 1 else ()
        tokens = [*each.read.prompt, *done.tokens, *end]
        source = each.read.source
        read = None if source is None else list(source.tokens)
        silent = 0 if done.tokens else silent + 1
        if silent >= len(asked):
            raise InputError("the model wrote nothing: it ends every one of these texts at once")
        yield _Line(turn, len(each.read.prompt), tokens, read, greedy, each.held)


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt.turns[0]}]


def _digest(prompt: Prompt) -> str:
    """Stands for a prompt and puts all of them in an order without meaning."""
    return hashlib.sha256(msgspec.json.encode((prompt.turns, prompt.chat))).hexdigest()


def _key(bundle: Bundle, prompts: Sequence[Prompt], writing: Writing) -> str:
    how = {name: value for name, value in asdict(writing).items() if name != "tokens"}
    parts = (FORM, bundle.hash, [_digest(prompt) for prompt in prompts], how)
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:24]


# --- what is kept --------------------------------------------------------------------------------


class _Kept:
    """A file of lines that only grows. What a killed process left of a line is passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[_Line] = []

    def read(self) -> list[_Line]:
        """The lines of the turns from 0 on, up to the first that is missing."""
        found: dict[int, _Line] = {}
        with suppress(OSError):
            for text in self._path.read_bytes().splitlines():
                with suppress(msgspec.DecodeError, UnicodeDecodeError):
                    line = msgspec.json.decode(text, type=_Line)
                    # Two processes may have written the same turn: then it is the same text.
                    found.setdefault(line.turn, line)
        return [found[turn] for turn in itertools.takewhile(found.__contains__, itertools.count())]

    def append(self, line: _Line) -> None:
        """Keep a line, soon."""
        self._waiting.append(line)
        if len(self._waiting) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            WriteError: it cannot be written.
        """
        # A line end first: what comes does not join what was cut off.
        data = b"\n" + b"".join(msgspec.json.encode(line) + b"\n" for line in self._waiting)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(data)
        except OSError as error:
            raise WriteError(
                f"{self._path} cannot be written: {error.strerror}; EDGEDEC_CACHE names another "
                "place for what is kept"
            ) from None
        self._waiting = []


def _written(lines: Sequence[_Line]) -> int:
    return sum(len(line.tokens) - line.prompt for line in lines)


def _enough(lines: Sequence[_Line], tokens: int) -> Iterator[_Line]:
    """The first lines that have so many tokens: what else is kept changes nothing."""
    for line in lines:
        if tokens <= 0:
            return
        yield line
        tokens -= len(line.tokens) - line.prompt


def _text(line: _Line) -> Written:
    source = None if line.source is None else np.array(line.source, np.int32)
    return Written(np.array(line.tokens, np.int32), line.prompt, source, line.greedy)


# --- batches -------------------------------------------------------------------------------------


def batch_of(texts: Sequence[Written], length: int, dice: torch.Generator) -> Batch:
    """Texts side by side, each cut to `length` tokens."""
    cut = [text.tokens[:length] for text in texts]
    tokens, lengths = _padded(cut)
    prompts = torch.tensor(
        [min(text.prompt, len(ids)) for text, ids in zip(texts, cut, strict=True)]
    )
    sources = [text.source for text in texts if text.source is not None]
    if not sources:
        return Batch(tokens, lengths, prompts, dice)
    return Batch(tokens, lengths, prompts, dice, *_padded(sources))


class Shuffled:
    """Batches of texts, the same for the same seed: `pretrain.Batches`.

    Texts of about one length come together. Each epoch is another order.
    """

    def __init__(self, texts: Sequence[Written], options: Options, seed: int) -> None:
        usable = [text for text in texts if text.prompt + 1 < min(len(text.tokens), options.length)]
        if not usable:
            raise InputError(
                f"no text to train on: the model wrote nothing within {options.length} tokens "
                "after any prompt"
            )
        self._texts, self._options, self._seed = usable, options, seed
        self._epochs: dict[int, list[list[int]]] = {}

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        many = -(-len(self._texts) // self._options.batch)
        epoch, place = divmod(step, many)
        if epoch not in self._epochs:
            self._epochs = {epoch: self._order(epoch)}
        chosen = [self._texts[at] for at in self._epochs[epoch][place]]
        return batch_of(chosen, self._options.length, dice_of(self._seed, step))

    def _order(self, epoch: int) -> list[list[int]]:
        random = np.random.default_rng((self._seed, epoch))
        mixed = random.permutation(len(self._texts))
        size = self._options.batch
        groups: list[list[int]] = []
        for first in range(0, len(mixed), 16 * size):
            near = sorted(mixed[first : first + 16 * size].tolist(), key=self._size)
            groups += [near[at : at + size] for at in range(0, len(near), size)]
        return [groups[at] for at in random.permutation(len(groups))]

    def _size(self, at: int) -> int:
        text = self._texts[at]
        return len(text.tokens) if text.source is None else len(text.source)


def held_batches(texts: Texts, options: Options, most: int = 48) -> Iterator[Batch]:
    """Batches of held-out texts, the same every time."""
    usable = [t for t in texts.held if t.prompt + 1 < min(len(t.tokens), options.length)][:most]
    near = sorted(usable, key=lambda text: len(text.tokens))
    for at in range(0, len(near), options.batch):
        yield batch_of(near[at : at + options.batch], options.length, dice_of(1, at))


def dice_of(seed: int, step: int) -> torch.Generator:
    """The dice of one step."""
    mixed = np.random.SeedSequence((seed, step)).generate_state(1, np.uint32)[0]
    return seeded(int(mixed))


def seeded(seed: int) -> torch.Generator:
    """Dice for torch's default device: the same seed throws otherwise on another kind of device."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def _padded(rows: Sequence[Ints]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = [len(row) for row in rows]
    padded = np.zeros((len(rows), max(lengths)), np.int64)
    for at, row in enumerate(rows):
        padded[at, : len(row)] = row
    return torch.as_tensor(padded), torch.tensor(lengths)
