"""A checkpoint as ONNX step graphs: pure functions of the rows, the past and the weights.

A decoder is one graph, or, with `cuts`, a chain of segments whose last one is the head alone; an
encoder is a graph of its own. All graphs read one data file, so a table that is embedding and head,
or read by encoder and decoder, is stored once, and once in memory where rows are looked up in it.
Nothing is batched; n rows are one step, D the width, G key/value heads of d, V the vocabulary.

Inputs: `ids` [n] and `learned` [c, D] (rows that ids V, V + 1, ... stand for; c >= 1), or `hidden`
[n, D] where a segment does not begin with the embedding; `positions` [n]; one mask per distinct
window, `mask` or `mask.w512` [n, capacity + n], added to the scores (0 seen, -3e38 not; columns
are the past's slots, then this step's rows); `past.{l}.key` and `past.{l}.value` [G, capacity, d];
`head_rows` [m], the rows that get logits. With an encoder `cross.{l}.key` and `cross.{l}.value`
[G, s, d], and, where there is a position bias table, `buckets` [n, capacity + n], the row of it
that each pair reads (`edgedec.distance`).

Outputs: `new.{l}.key` and `new.{l}.value` [G, n, d], ready to be written into the past;
`hidden.{j}` [n, D], what goes into layer j (j = L: what the last layer gave), for the layers that
were asked for and for the one at which a segment without the head ends: the `hidden` of the next
segment; `logits` [m, V].

It knows nothing about sessions: who writes the past and makes the masks is the runtime's affair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from edgedec.architecture import Architecture, Attention
from edgedec.errors import MissingExtraError, UnsupportedError, UsageError
from edgedec.export._data import DataFile, Progress
from edgedec.export._decoder import Decoder, Plan
from edgedec.export._encoder import Encoder
from edgedec.export.checkpoint import WeightSource
from edgedec.manifest import Format, OnnxForm, Segment
from edgedec.runtimes._source import most_rows

DATA = "decoder.onnx.data"
ENCODER = "encoder.onnx"
MAX_CONTEXT = 1 << 21
"""Rotary tables have a row per position; this many make about a gigabyte."""


@dataclass(frozen=True, slots=True)
class OnnxOptions:
    """`cuts`: layers at which a segment ends; `hidden`: layers whose input can be shown."""

    cuts: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()


def segments(architecture: Architecture, cuts: Sequence[int] = ()) -> tuple[Segment, ...]:
    """The segments in the order in which a step runs them.

    Raises:
        UsageError: a cut is not between two layers, or the cuts do not rise.
    """
    last = architecture.layers
    if not cuts:
        return (Segment(file="decoder.onnx", first=0, last=last, embed=True, head=True),)
    edges = [0, *cuts, last]
    if any(a >= b for a, b in pairwise(edges)):
        raise UsageError(f"cuts {list(cuts)} must rise and lie between 1 and {last - 1}")
    ranges = [*pairwise(edges), (last, last)]
    return tuple(
        Segment(
            file=f"decoder.{i}.onnx",
            first=first,
            last=end,
            embed=i == 0,
            head=i == len(ranges) - 1,
        )
        for i, (first, end) in enumerate(ranges)
    )


def write(
    folder: Path,
    architecture: Architecture,
    source: WeightSource,
    formats: Mapping[str, Format],
    options: OnnxOptions = OnnxOptions(),
    progress: Progress | None = None,
) -> OnnxForm:
    """Write the graphs and their data file into `folder`.

    `formats` maps tensor names or roles to formats (what is missing is fp32). A few million
    numbers are in memory at a time. `progress` is told done and all bytes (of fp32) and the
    tensor.

    Raises:
        UnsupportedError: the architecture has parts that step graphs do not carry.
        UsageError: cuts or hidden layers that do not exist, a block that does not divide a row.
        CheckpointError: a weight is missing or not finite.
        WriteError: the folder cannot be written.
    """
    try:
        import onnx  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError("export to ONNX", "onnx", "export") from None
    check(architecture)
    check_options(architecture, options)
    chain = segments(architecture, options.cuts)
    data = DataFile(source)
    plan = Plan(architecture, formats, frozenset(options.hidden), data, DATA)
    encoder = architecture.encoder
    if encoder is not None:
        Encoder(plan).build(encoder).save(folder / ENCODER)
    for segment in chain:
        Decoder(plan, segment).build().save(folder / segment.file)
    data.write(folder / DATA, progress)
    return OnnxForm(
        segments=chain,
        hidden=tuple(sorted(options.hidden)),
        encoder=None if encoder is None else ENCODER,
    )


def check_options(architecture: Architecture, options: OnnxOptions) -> None:
    """Refuse layers that the model does not have.

    Raises:
        UsageError: names them.
    """
    segments(architecture, options.cuts)
    wrong = [layer for layer in options.hidden if not 0 <= layer <= architecture.layers]
    if wrong:
        raise UsageError(
            f"hidden layers {wrong} do not exist; there are 0 to {architecture.layers}"
        )


def check(architecture: Architecture) -> None:
    """Refuse what step graphs do not carry.

    Raises:
        UnsupportedError: names the part.
    """
    context, rows = architecture.limits.context, most_rows(architecture)
    if context > MAX_CONTEXT:
        raise UnsupportedError(
            f"a context of {context} tokens is more than the ONNX form holds positions for: give "
            f"--context {MAX_CONTEXT} or less"
        )
    if rows > MAX_CONTEXT:
        raise UnsupportedError(
            f"a source of {rows} rows is more than the {MAX_CONTEXT} positions of the ONNX form"
        )
    stacks = (architecture.decoder, architecture.encoder)
    layers = [layer for stack in stacks if stack is not None for layer in stack.layers]
    if any(_is_capped(layer.self_attention) for layer in layers):
        raise UnsupportedError(
            f"the ONNX form cannot carry a soft cap on biased scores ({architecture.family})"
        )


def _is_capped(attention: Attention) -> bool:
    return attention.bias_table is not None and attention.softcap is not None
