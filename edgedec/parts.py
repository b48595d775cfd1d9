"""What a trained strategy keeps in a bundle: its part, as drafters use it and as its file says it.

`strategies/<name>.safetensors` is laid out as `edgedec.mapped` says. Its metadata say what it
holds (`Contents`), each field as JSON; matrices and layers are packed as in the bundle's native
form. The file is not trusted: whatever does not fit the bundle is refused before it is used. It
knows no runtime and no strategy.

Shapes: n rows, D = width of the model, V = its ids, V' = ids that the part can draft.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

import msgspec
import numpy as np

from edgedec import mapped
from edgedec.architecture import Architecture, Count, Size, Spec
from edgedec.errors import StateError, UnsupportedError
from edgedec.manifest import Format, Line
from edgedec.mapped import Mapped, Tensor

if TYPE_CHECKING:
    from edgedec.bundle import Bundle
    from edgedec.contracts import Floats, Host, Ints, Session

MARK = "part 1"
HEAD, NORM, IDS = "head", "norm", "ids"
STEP = 16
"""Inputs of a matrix come in so many."""

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*$", max_length=100)]


class Part(Protocol):
    """The trained part of a strategy, opened.

    A part may have a head over V' ids: the matrix `head` [V', D] behind the vector `norm` [D] (the
    whole weight; kind and eps as in the model's final norm), or that of its own layers. Without
    one, `likely` is the model's own head.
    """

    @property
    def about(self) -> Mapping[str, Any]:
        """What it was trained with, and what it needs to be asked with."""

    @property
    def ids(self) -> Ints:
        """The ids of the model that it can draft, rising [V']."""

    def vectors(self, name: str) -> Floats:
        """A tensor of it, as it was trained.

        Raises:
            StateError: it has none of that name.
        """

    def embed(self, ids: Ints) -> Floats:
        """The model's embeddings of ids as they enter layer 0, scaled, without positions [n, D].

        Raises:
            UsageError: an id outside of 0..V.
        """

    def linear(self, name: str, x: Floats) -> Floats:
        """Rows x [n, K] times a matrix [N, K] of the part: [n, N].

        The vector `<name>.bias`, if there is one, is added.

        Raises:
            StateError: it has no matrix of that name.
            UsageError: rows of another width.
        """

    def likely(self, x: Floats, k: int) -> tuple[Ints, Floats]:
        """The k likeliest tokens after hidden states x [n, D]: ids of the model, logits [n, k].

        The largest first, of equal ones the smaller id.

        Raises:
            UsageError: rows of another width, or k outside of 1..V'.
        """

    def session(self) -> Session:
        """Its own layers with keys and values of their own, as long as the model's context.

        Rows enter as `Rows.hidden` [n, D] at layer 0 (`Rows.tokens` are only counted). What its
        results call tokens are places in `ids`.

        Raises:
            UnsupportedError: it has no layers.
        """


class Trained:
    """What strategies with a part have in common: `auto` may take them, and the whole model has the
    last word on what they guess. Where it takes one, those that it `replaces` are left out."""

    __slots__ = ()

    automatic: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    replaces: ClassVar[tuple[str, ...]] = ()

    @property
    def lossy(self) -> bool:
        """The text is plain decoding's."""
        return False


def wanted(host: Host, strategy: str) -> Part:
    """The part of a strategy that cannot do without one.

    Raises:
        UnsupportedError: the bundle has none, or nothing here can run it.
        StateError: it is damaged, or was made for another bundle.
    """
    found = host.part(strategy)
    if found is None:
        raise UnsupportedError(
            f"this bundle holds no trained part for {strategy}: make one with `edgedec train "
            f"{strategy} -m BUNDLE --data FILES`"
        )
    return found


def foreseen(host: Host, strategy: str) -> list[float]:
    """How often each guess of a part was right in training where those before it were; [] where it
    does not say.

    Raises:
        StateError: what it says are no shares.
    """
    found = wanted(host, strategy).about.get("acceptance", [])
    try:
        return msgspec.convert(found, list[Annotated[float, msgspec.Meta(ge=0, le=1)]])
    except msgspec.ValidationError as error:
        raise StateError(
            f"the acceptance of the part of {strategy}: {error}: train it again"
        ) from None


def number(host: Host, strategy: str, name: str, low: int, high: int) -> int:
    """A whole number that the part of a strategy was trained with (`Part.about`).

    Raises:
        StateError: the part does not say it, or says one outside of `low` to `high`.
        Others as in `wanted`.
    """
    found = wanted(host, strategy).about.get(name)
    if isinstance(found, bool) or not isinstance(found, int) or not low <= found <= high:
        raise StateError(
            f"the part of {strategy} says that its {name} is {found!r}; it must be a whole number "
            f"from {low} to {high}: train it again"
        )
    return found


class Contents(Spec, frozen=True):
    """What a part's file says it holds.

    `bundle` is the hash of the model it was trained for. `ids`: how many ids it can draft, 0: all.
    `vectors` and `matrices` give shapes by name; `format` is that of every matrix. `architecture`
    is a decoder of its own layers: its embedding [V', D] is only their tied head.
    """

    strategy: Line
    bundle: Line
    about: dict[str, Any]
    format: Format
    ids: Count = 0
    vectors: dict[Name, Annotated[tuple[Size, ...], msgspec.Meta(min_length=1, max_length=3)]] = (
        msgspec.field(default_factory=dict)
    )
    matrices: dict[Name, tuple[Size, Size]] = msgspec.field(default_factory=dict)
    architecture: Architecture | None = None


def encode(contents: Contents) -> dict[str, str]:
    """As the metadata of a file."""
    fields = {name: getattr(contents, name) for name in contents.__struct_fields__}
    return {"edgedec": MARK, **{k: msgspec.json.encode(v).decode() for k, v in fields.items()}}


def decode(metadata: Mapping[str, str], path: Path) -> Contents:
    """The reverse of `encode`.

    Raises:
        StateError: the metadata are none of a part, or of one that this edgedec does not read.
    """
    if metadata.get("edgedec") != MARK:
        found = str(metadata.get("edgedec"))[:40]
        raise StateError(
            f"{path} is {found!r}, not a {MARK!r} that a strategy was trained to: train it again"
        )
    try:
        return Contents(
            **{
                field.name: msgspec.json.decode(metadata[field.name], type=field.type)
                for field in msgspec.structs.fields(Contents)
            }
        )
    except KeyError as error:
        raise StateError(f"{path} does not say its {error}: train it again") from None
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise StateError(f"{path}: what it says of itself cannot be read: {error}") from None


def problems(contents: Contents, model: Architecture) -> Iterator[tuple[str, bool]]:
    """What makes a part that does not fit a model, and whether it is so."""
    width, own = model.embed.dim, contents.architecture
    count = contents.ids or model.vocab
    yield f"{contents.ids} ids of {model.vocab}", count > model.vocab
    for name, (outputs, inputs) in contents.matrices.items():
        yield f"{name} is [{outputs}, {inputs}]: its inputs are no {STEP}s", inputs % STEP != 0
        biased = contents.vectors.get(f"{name}.bias", (outputs,))
        yield f"{name}.bias is {list(biased)}, not [{outputs}]", biased != (outputs,)
    head = contents.matrices.get(HEAD, (count, width))
    yield f"{HEAD} is {list(head)}, not {[count, width]}", head != (count, width)
    for name in (NORM, f"{NORM}.bias"):
        shape = contents.vectors.get(name, (width,))
        yield f"{name} is {list(shape)}, not [{width}]", shape != (width,)
    if own is not None:
        yield "layers that read a source", own.encoder is not None
        yield "layers with a head that is not tied", not own.head.tied
        table = (own.embed.vocab, own.embed.dim)
        yield f"a head of layers over {table}, not {(count, width)}", table != (count, width)
        yield "rows that are scaled as they enter", own.embed.scale != 1
        longest, mine = model.limits.context, own.limits.context
        yield f"a context of {mine}, the model's is {longest}", mine != longest
        yield "two heads", HEAD in contents.matrices


def contents(path: Path) -> Contents:
    """What the file of a part says it holds.

    Raises:
        StateError: it says nothing of the kind.
    """
    return decode(mapped.read_metadata(path, mapped.PART), path)


def opened(
    path: Path, bundle: Bundle, tensors: Callable[[Contents], Mapping[str, Tensor]]
) -> tuple[Contents, Mapped]:
    """Map a part's file and check all of it against its bundle.

    `tensors` says which a file with such contents has.

    Raises:
        StateError: it is damaged, holds numbers that are none, or was made for another bundle.
    """
    found: list[Contents] = []

    def expected(metadata: Mapping[str, str]) -> Mapping[str, Tensor]:
        contents = decode(metadata, path)
        _check(contents, path, bundle)
        found.append(contents)
        try:
            return tensors(contents)
        except UnsupportedError as error:
            raise StateError(f"{path}: {error}: train it again") from None

    file = mapped.open_mapped(path, expected, mapped.PART)
    _check_values(path, file, found[0].ids, bundle.manifest.architecture.vocab)
    return found[0], file


def _check(contents: Contents, path: Path, bundle: Bundle) -> None:
    name, owner = path.stem, bundle.path.name
    again = f"train it again with `edgedec train {name} -m {owner} --data FILES`"
    if contents.bundle != bundle.hash:
        raise StateError(
            f"{path} was made for another bundle than {owner}: {again}, or take the bundle that it "
            "came with"
        )
    if contents.strategy != name:
        raise StateError(
            f"{path} is a part of {contents.strategy[:40]!r}, not of {name!r}: {again}"
        )
    model = bundle.manifest.architecture
    wrong = next((what for what, is_so in problems(contents, model) if is_so), None)
    if wrong is not None:
        raise StateError(f"{path} does not fit {owner}: {wrong}: {again}")


def _check_values(path: Path, file: Mapped, count: int, vocab: int) -> None:
    for name, place in file.tensors.items():
        if place.dtype.startswith("F") and not np.isfinite(file.array(name)).all():
            raise StateError(f"{path}: {name} holds numbers that are not finite: train it again")
    if not count:
        return
    ids = file.array(IDS)[:count]
    if ids[0] < 0 or ids[-1] >= vocab or (np.diff(ids) <= 0).any():
        raise StateError(f"{path}: {IDS} do not rise from 0 to {vocab - 1}: train it again")
