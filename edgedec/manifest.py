"""`manifest.json`: all that is known of a bundle, so that nothing is guessed from a name.

Export writes it last; runtimes and the command line read only it. It knows nothing about how to
run a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from edgedec.architecture import Architecture, Count, Size, Spec
from edgedec.errors import BundleError
from edgedec.weights import role

SCHEMA = 1
FILE = "manifest.json"

Line = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", max_length=4096)]
"""Text that may be shown on a terminal: no control characters."""


class Format(Spec, frozen=True):
    """How a matrix is stored: floats, or integers with one scale per `block` inputs.

    Integers are symmetric: int8 is -127..127, int4 is -8..7 (stored as 0..15, zero point 8).
    """

    kind: Literal["fp32", "fp16", "int8", "int4"]
    block: Size | None = None

    @property
    def bits(self) -> int:
        """Bits per number, without the scales."""
        return {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}[self.kind]

    def __str__(self) -> str:
        return self.kind if self.block is None else f"{self.kind}/{self.block}"


def format_of(formats: Mapping[str, Format], tensor: str) -> Format:
    """The format of a tensor, by its name or, failing that, its role; else fp32."""
    by_role = formats.get(role(tensor) or "", Format(kind="fp32"))
    return formats.get(tensor, by_role)


class Segment(Spec, frozen=True):
    """One ONNX file: layers [first, last), the embedding before and the head after if said."""

    file: Line
    first: Count
    last: Count
    embed: bool = False
    head: bool = False


class OnnxForm(Spec, frozen=True):
    """The segments in the order in which a step runs them; `hidden` are layers it can show.

    `encoder`: the file whose graph turns a source into keys and values of the cross-attention.
    """

    segments: tuple[Segment, ...]
    hidden: tuple[Count, ...] = ()
    encoder: Line | None = None


def mask_name(window: int | None) -> str:
    """The mask input, in a segment's graph, of the layers with this window."""
    return "mask" if window is None else f"mask.w{window}"


class NativeForm(Spec, frozen=True):
    """One file of packed weights for the engine; `layout` is the version of its packing."""

    layout: Size
    file: Line = "native.safetensors"


class Forms(Spec, frozen=True):
    """The forms in which the weights are present."""

    onnx: OnnxForm | None = None
    native: NativeForm | None = None


class File(Spec, frozen=True):
    """One file of the bundle."""

    size: int
    sha256: Line


class Quality(Spec, frozen=True):
    """The damage of quantisation, measured at export against the checkpoint in fp32.

    `max_error`: largest absolute difference of a logit; `kl`: mean KL divergence in nats;
    `top1`: share of positions with the same most likely token; over `tokens` of held-out `text`.
    """

    max_error: float
    kl: float
    top1: float
    tokens: int
    text: Line


class Decoding(Spec, frozen=True):
    """What a model's output must and must not hold, whatever is asked for.

    `forced`: the id of an output position, as in {0: id} for a first token; `forced_last`: the id
    of the last position that the length allows. `suppressed` are never written, `suppressed_first`
    not as the first token.
    """

    forced: dict[Count, Count] = msgspec.field(default_factory=dict)
    forced_last: Count | None = None
    suppressed: tuple[Count, ...] = ()
    suppressed_first: tuple[Count, ...] = ()


class Speech(Spec, frozen=True):
    """What a model of speech writes beside words, and what it is given to begin with.

    Ids by name. `languages` and `tasks` are empty for a model of one language. Timestamps are the
    ids from `first_timestamp` on, `timestamp_seconds` apart; the first one of a window is at most
    `latest_first` steps in. All that is None the model does not have.
    """

    languages: dict[Line, Count] = msgspec.field(default_factory=dict)
    tasks: dict[Line, Count] = msgspec.field(default_factory=dict)
    no_timestamps: Count | None = None
    first_timestamp: Count | None = None
    timestamp_seconds: float = 0.02
    latest_first: Count | None = None
    previous: Count | None = None
    no_speech: Count | None = None


class Provenance(Spec, frozen=True):
    """Where the weights come from and what made the bundle."""

    source: Line
    created: Line
    exporter: Line
    revision: Line | None = None
    licence: Line | None = None
    options: dict[Line, Line] = msgspec.field(default_factory=dict)


class Manifest(Spec, frozen=True):
    """See the fields; `quantisation` is keyed by tensor name or, failing that, by role."""

    name: Line
    architecture: Architecture
    quantisation: dict[Line, Format]
    forms: Forms
    files: dict[Line, File]
    provenance: Provenance
    cuts: tuple[Count, ...] = ()
    strategies: tuple[Line, ...] = ()
    quality: Quality | None = None
    decoding: Decoding = Decoding()
    speech: Speech | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        model, decoding = self.architecture, self.decoding
        ids = [*decoding.forced.values(), *decoding.suppressed, *decoding.suppressed_first]
        ids += [decoding.forced_last or 0, model.tokens.decoder_start or 0]
        if self.speech is not None:
            speech = self.speech
            ids += [*speech.languages.values(), *speech.tasks.values()]
            named = (speech.no_timestamps, speech.first_timestamp, speech.previous)
            ids += [*(each or 0 for each in named), speech.no_speech or 0]
        if max(ids) >= model.vocab:
            raise ValueError(
                f"it names the token {max(ids)}, but the vocabulary has {model.vocab} ids"
            )

    def format_of(self, tensor: str) -> Format:
        """How a tensor is stored; what is not quantised is fp32."""
        return format_of(self.quantisation, tensor)


class _Version(msgspec.Struct):
    schema: int


def encode(manifest: Manifest) -> bytes:
    """The manifest as indented JSON; `schema` is always written."""
    plain = {"schema": manifest.schema, **msgspec.to_builtins(manifest)}
    return msgspec.json.format(msgspec.json.encode(plain), indent=1) + b"\n"


def decode(text: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        BundleError: not JSON, a newer schema, an unknown or missing field, a wrong type.
    """
    try:
        version = msgspec.json.decode(text, type=_Version).schema
        if version > SCHEMA:
            raise BundleError(
                f"{FILE} has schema {version}, this edgedec reads up to {SCHEMA}: update edgedec"
            )
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{FILE} cannot be read: {error}; export the model again") from None
