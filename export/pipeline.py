"""From a source to a bundle: read, plan, write, verify, and only then show it.

Knows the order of things; how each is done stands in the files it calls.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from msgspec.structs import replace

import edgedec
from edgedec.bundle import BundleWriter, open_bundle, write_bundle
from edgedec.errors import UsageError
from edgedec.export import quantise, to_native, to_onnx, tokenizer_files
from edgedec.export.source import Source, SourceOptions, open_source
from edgedec.manifest import Format, Forms, Manifest, Provenance, Quality
from edgedec.weights import shapes

if TYPE_CHECKING:
    from edgedec.architecture import Architecture

Kind = Literal["fp32", "fp16", "int8", "int4"]
FormName = Literal["onnx", "native"]
FORMS: tuple[FormName, ...] = get_args(FormName)
Progress = Callable[[str, float], None]
"""Told the stage ("write", "verify") and how much of it is done, 0 to 1."""

SMALL = 50_000_000
"""Models with fewer parameters than this are stored in 8 bit unless said otherwise."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to make of a model.

    `forms` None: onnx, and native too where every matrix is int4 or int8 and can be cut into
    blocks. `kind` None: int8 below 50 million parameters, else int4. `keep` overrides the format of
    a role (q, k, v, o, gate, up, down, embed, head), as in {"head": "int8"} or {"down": "int8/32"}.
    `cuts` are layers at which a step may stop or begin, `hidden` layers whose input can be seen.
    `text` is what to verify on (None: our own held-out text).
    """

    forms: tuple[FormName, ...] | None = None
    kind: Kind | None = None
    block: int = 64
    keep: Mapping[str, str] = field(default_factory=dict)
    cuts: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    name: str | None = None
    source: SourceOptions = field(default_factory=SourceOptions)
    verify: bool = True
    text: Path | None = None
    device: str = "cpu"
    force: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What was made. Sizes are in bytes; `quality` is None if it was not measured."""

    target: Path
    manifest: Manifest
    parameters: int
    source_size: int
    bundle_size: int
    seconds: float

    @property
    def quality(self) -> Quality | None:
        """The damage done, against the checkpoint in fp32."""
        return self.manifest.quality


def export_model(
    source: str,
    target: Path,
    options: ExportOptions | None = None,
    progress: Progress = lambda stage, share: None,
) -> Report:
    """Write the bundle of `source` into the folder `target`, or leave everything as it was.

    Raises:
        CheckpointError: the source is missing or damaged.
        UnsupportedError: its family, a field or a tensor format is none of ours, or the result
            does not compute what the source does.
        UsageError: options that do not fit the model.
        WriteError: the target exists already, is read-only, or the disk is full.
        MissingExtraError: the packages of the extra `export` are not installed.
    """
    options = options or ExportOptions()
    begin = time.perf_counter()
    with write_bundle(target, options.force) as writer:
        model = open_source(source, options.source)
        manifest = _write(writer, model, options, progress)
        if options.verify:
            quality = _verify(writer, model, options, progress)
            manifest = writer.finish(replace(manifest, quality=quality))
    return Report(
        target,
        manifest,
        parameters(model.architecture),
        model.size,
        sum(file.size for file in manifest.files.values()),
        time.perf_counter() - begin,
    )


def parameters(architecture: Architecture) -> int:
    """The number of weights; a tied table counts once."""
    return sum(math.prod(shape) for shape in shapes(architecture).values())


def chosen_formats(architecture: Architecture, options: ExportOptions) -> dict[str, Format]:
    """The format of every matrix, by role and, where a role has several, by name.

    Raises:
        UsageError: a role, kind or block that does not exist.
    """
    kind = options.kind or _default_kind(architecture)
    keep = {what: _format(form, options.block) for what, form in options.keep.items()}
    # Only the native form can fill up a row; in the ONNX form such a matrix is fp16.
    pad = set(options.forms or ()) == {"native"}
    return quantise.plan(architecture, kind, options.block, keep, pad)


def chosen_forms(
    architecture: Architecture, formats: Mapping[str, Format], options: ExportOptions
) -> tuple[FormName, ...]:
    """The forms that will be written.

    Raises:
        UsageError: a form that does not exist, or none.
    """
    if options.forms is None:
        return FORMS if to_native.carries(architecture, formats) else ("onnx",)
    unknown = [form for form in options.forms if form not in FORMS]
    if unknown or not options.forms:
        wrong = f"no form {unknown[0]!r}" if unknown else "no form given"
        raise UsageError(f"{wrong}; there are {', '.join(FORMS)}")
    return tuple(form for form in FORMS if form in options.forms)


def _default_kind(architecture: Architecture) -> Kind:
    return "int8" if parameters(architecture) < SMALL else "int4"


def _format(text: str, block: int) -> Format:
    kind, _, own = text.partition("/")
    if kind in ("int4", "int8") and (not own or own.isdecimal()):
        width = int(own or block)
        if width not in quantise.BLOCKS:
            raise UsageError(f"{text}: blocks are {', '.join(map(str, quantise.BLOCKS))}")
        return Format(kind="int4" if kind == "int4" else "int8", block=width)
    if text in ("fp16", "fp32"):
        return Format(kind="fp16" if text == "fp16" else "fp32")
    raise UsageError(f"{text!r} is no format; there are fp32, fp16, int8 and int4, or int8/64")


def _write(
    writer: BundleWriter, model: Source, options: ExportOptions, progress: Progress
) -> Manifest:
    formats = chosen_formats(model.architecture, options)
    forms = _write_forms(writer.path, model, formats, options, progress)
    texts = {
        tokenizer_files.FILE: model.tokenizer.json,
        tokenizer_files.SOURCE: model.tokenizer.source,
        tokenizer_files.TEMPLATE: model.tokenizer.chat_template,
    }
    for name, text in texts.items():
        if text is not None:
            (writer.path / name).write_text(text, "utf-8")
    return writer.finish(
        Manifest(
            name=options.name or model.origin.model,
            architecture=model.architecture,
            quantisation=formats,
            forms=forms,
            files={},
            provenance=_provenance(model, options, forms),
            cuts=options.cuts,
            decoding=model.decoding,
            speech=model.speech,
        )
    )


def _write_forms(
    folder: Path,
    model: Source,
    formats: Mapping[str, Format],
    options: ExportOptions,
    progress: Progress,
) -> Forms:
    chosen = chosen_forms(model.architecture, formats, options)
    graph = to_onnx.OnnxOptions(options.cuts, options.hidden)
    # For every form: the manifest says where a step may stop, whatever runs it.
    to_onnx.check_options(model.architecture, graph)
    if "native" in chosen:
        to_native.check(model.architecture, formats)  # before minutes go into the other form

    def tell(before: int) -> Callable[[int, int, str], None]:
        return lambda done, total, _: progress(
            "write", (before + done / max(total, 1)) / len(chosen)
        )

    what = folder, model.architecture, model.weights, formats
    return Forms(
        onnx=to_onnx.write(*what, graph, tell(0)) if "onnx" in chosen else None,
        native=to_native.write(*what, tell(len(chosen) - 1)) if "native" in chosen else None,
    )


def _verify(
    writer: BundleWriter, model: Source, options: ExportOptions, progress: Progress
) -> Quality:
    from tokenizers import Tokenizer

    from edgedec.export import verify

    architecture = model.architecture
    tokenizer = Tokenizer.from_str(model.tokenizer.json)
    if architecture.encoder is None:
        sample = verify.held_out(tokenizer, architecture.limits.context, options.text)
    else:
        own = model.tokenizer.source
        reads = tokenizer if own is None else Tokenizer.from_str(own)
        sample = verify.held_out_pair(architecture, tokenizer, reads, options.text)
    bundle = open_bundle(writer.path)

    def tell(share: float) -> None:
        progress("verify", share)

    return verify.measure(bundle, model.weights, sample, options.device, tell)


def _provenance(model: Source, options: ExportOptions, forms: Forms) -> Provenance:
    chosen: dict[str, str] = {
        "form": ", ".join(form for form in FORMS if getattr(forms, form) is not None),
        "kind": options.kind or _default_kind(model.architecture),
        "block": str(options.block),
        "keep": ", ".join(f"{role}={form}" for role, form in options.keep.items()),
        "context": str(options.source.context or ""),
        "ignore": ", ".join(sorted(options.source.ignore)),
    }
    return Provenance(
        source=model.origin.name,
        created=_now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        exporter=f"edgedec {edgedec.__version__}",
        revision=model.origin.revision,
        licence=model.origin.licence,
        options={name: text for name, text in chosen.items() if text},
    )


def _now() -> datetime:
    """The time, or the one that SOURCE_DATE_EPOCH sets for builds that can be repeated."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.fromtimestamp(int(fixed) if fixed.isdecimal() else time.time(), UTC)
