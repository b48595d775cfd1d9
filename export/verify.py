"""What a bundle computes against what the checkpoint computes, on held-out text.

The reference is `reference.py` in float32; the bundle is run by the preferred runtime that reads a
form of it, as users run it. Knows nothing about how bundles are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedec import devices
from edgedec.contracts import Rows
from edgedec.devices import EngineOptions
from edgedec.errors import DeviceError, InputError, UnsupportedError
from edgedec.export.reference import forward
from edgedec.manifest import Forms, Quality

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from edgedec.architecture import Architecture
    from edgedec.bundle import Bundle
    from edgedec.contracts import Engine, Floats
    from edgedec.devices import RuntimeModule
    from edgedec.export.checkpoint import WeightSource

HELD_OUT = "heldout.txt"
TOKENS = 256
ROWS = 32
"""Rows that the bundle runs at a time."""

TOLERANCE = {"fp32": 1e-2, "fp16": 1e-1}
"""The largest error of a logit, relative to the largest logit, that an export may have."""


FRAMES = 16_000
"""Of noise, for a model that hears: at most, and as many as it takes if it takes one number."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Token ids to compare on, and the name of the text they come from.

    `source` is what an encoder reads meanwhile: ids [s], or features [frames, F].
    """

    ids: NDArray[np.int32]
    name: str
    source: NDArray[np.int32] | Floats | None = None


def held_out(tokenizer: Tokenizer, context: int, text: Path | None = None) -> HeldOut:
    """The first tokens of a text file, or of our own.

    Raises:
        InputError: the file cannot be read or has no token.
    """
    ids = tokenizer.encode(_content(text)).ids[: min(TOKENS, context)]
    if not ids:
        raise InputError(f"{text or HELD_OUT} holds no token to compare on: give another --text")
    return HeldOut(np.array(ids, dtype=np.int32), text.name if text else HELD_OUT)


def held_out_pair(
    architecture: Architecture, writes: Tokenizer, reads: Tokenizer, text: Path | None = None
) -> HeldOut:
    """The same for an encoder-decoder model: it reads the text, or noise, and writes the text.

    Raises:
        InputError: as in `held_out`.
    """
    content, limits = _content(text), architecture.limits
    ids = [architecture.tokens.decoder_start or 0]
    ids += writes.encode(content, add_special_tokens=False).ids
    sample = HeldOut(
        np.array(ids[: min(TOKENS, limits.context)], dtype=np.int32),
        text.name if text else HELD_OUT,
    )
    spec = architecture.frontend
    if spec is not None:
        noise = np.random.default_rng(0).standard_normal((spec.length or FRAMES, spec.features))
        return replace(sample, source=(0.1 * noise).astype(np.float32))
    source = reads.encode(content).ids
    most = min(TOKENS, limits.source or TOKENS)
    if not source:
        raise InputError(f"{text or HELD_OUT} holds no token to compare on: give another --text")
    # With its end, which tokenizers add and models expect.
    cut = source if len(source) <= most else [*source[: most - 1], source[-1]]
    return replace(sample, source=np.array(cut, dtype=np.int32))


def _content(text: Path | None) -> str:
    try:
        if text is None:
            return resources.files("edgedec.export").joinpath(HELD_OUT).read_text("utf-8")
        return text.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{text} cannot be read as text: {error}") from None


def measure(
    bundle: Bundle,
    weights: WeightSource,
    sample: HeldOut,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda share: None,
) -> Quality:
    """Compare every logit of the sample, in every form that can be run on `device`.

    The result is that of the form which users will get.

    Raises:
        DeviceError: no such device, or it cannot be used.
        UnsupportedError: NaN or Inf, or an error that rounding cannot explain.
    """
    progress(0.0)
    # First and alone in memory: the reference takes a layer of weights, the runtime all of them.
    expected = forward(bundle.manifest.architecture, weights, sample.ids, source=sample.source)
    progress(0.5)
    found = [
        compare(expected, _rows(runtime.open(bundle, EngineOptions(device)), sample), sample.name)
        for runtime in _runtimes(bundle, device)
    ]
    for quality in found:
        _check(bundle, quality, float(np.abs(expected).max()))
    progress(1.0)
    return found[0]


def _runtimes(bundle: Bundle, device: str) -> Iterator[RuntimeModule]:
    """The runtime that users will get, then those of the other forms that can be run here."""
    forms = bundle.manifest.forms
    _, chosen = devices.choose(forms, device, None)
    yield chosen
    for name in forms.__struct_fields__:
        if name != chosen.FORM and getattr(forms, name) is not None:
            with suppress(DeviceError):
                yield devices.choose(Forms(**{name: getattr(forms, name)}), device, None)[1]


def _rows(engine: Engine, sample: HeldOut) -> Iterator[Floats]:
    try:
        yield from _logits(engine, sample)
    finally:
        engine.close()


def compare(expected: Floats, found: Iterator[Floats], text: str) -> Quality:
    """The differences of logits: `expected` [n, V], `found` row by row [V]."""
    errors, divergences, same = [], [], []
    for reference, row in zip(expected, found, strict=True):
        errors.append(float(np.abs(reference - row).max()))
        divergences.append(_kl(reference, row))
        same.append(bool(reference.argmax() == row.argmax()))
    return Quality(
        max_error=max(errors),
        kl=float(np.mean(divergences)),
        top1=float(np.mean(same)),
        tokens=len(errors),
        text=text,
    )


def _logits(engine: Engine, sample: HeldOut) -> Iterator[Floats]:
    session, ids = engine.session(), sample.ids
    if sample.source is not None:
        session.encode(sample.source)
    most = min(ROWS, engine.capabilities.max_rows)
    for first in range(0, len(ids), most):
        tokens = ids[first : first + most]
        result = session.step(Rows(tokens, np.arange(-1, len(tokens) - 1, dtype=np.int32)))
        for row in range(len(tokens)):
            yield result.logits(row)
        session.keep([len(tokens) - 1])


def _kl(expected: Floats, found: Floats) -> float:
    """KL(expected || found) in nats."""
    p, q = (_log_softmax(row.astype(np.float64)) for row in (expected, found))
    return float(np.sum(np.exp(p) * (p - q)))


def _log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = x - x.max()
    total: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return total


def _check(bundle: Bundle, quality: Quality, largest: float) -> None:
    if not np.isfinite([quality.max_error, quality.kl]).all():
        raise UnsupportedError(
            "the exported model gives NaN or Inf on held-out text: it is not kept; try --kind fp32"
        )
    kinds = {form.kind for form in bundle.manifest.quantisation.values()}
    allowed = max((TOLERANCE.get(kind, np.inf) for kind in kinds), default=TOLERANCE["fp32"])
    if quality.max_error > allowed * largest:
        raise UnsupportedError(
            f"the exported model is off by {quality.max_error:.3g} at logits up to {largest:.3g}: "
            "it is not kept; this is a fault of edgedec, please report it with the model's name"
        )
