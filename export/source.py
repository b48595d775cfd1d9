"""What can be exported: a Hugging Face folder, a hub id, a llama2.c file.

Every source becomes the same four things: architecture, weights, tokenizer, origin. Knows nothing
about bundles or forms.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace as with_fields

from edgedec.errors import CheckpointError, MissingExtraError
from edgedec.export.tokenizer_files import TokenizerFiles, read_json, tokenizer_files
from edgedec.manifest import Decoding, Speech

if TYPE_CHECKING:
    from edgedec.architecture import Architecture
    from edgedec.export.checkpoint import WeightSource

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.spm", "merges.txt", "README.md"]
"""Nothing that runs when it is opened: no pickled weights, no Python."""
NOT_FROM_HUB = ["*/*", "consolidated*"]
"""The same weights again in other forms."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from; `name` holds no path of this machine."""

    name: str
    revision: str | None = None
    licence: str | None = None

    @property
    def model(self) -> str:
        """The model's own name: the last part, without an ending."""
        return self.name.rpartition("/")[2].removesuffix(".bin")


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to read a source: llama2.c `tokenizer`, `context` limit, config fields to `ignore`."""

    tokenizer: Path | None = None
    context: int | None = None
    ignore: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Source:
    """A model before export; `size` is that of its weight files, in bytes.

    `decoding` and `speech` are what the checkpoint says of its output.
    """

    origin: Origin
    architecture: Architecture
    weights: WeightSource
    tokenizer: TokenizerFiles
    size: int
    decoding: Decoding = field(default_factory=Decoding)
    speech: Speech | None = None


def open_source(source: str, options: SourceOptions | None = None) -> Source:
    """Open whatever `source` names; only headers and the tokenizer are read.

    Raises:
        CheckpointError: there is nothing there, the hub is out of reach, or it is damaged.
        UnsupportedError: a model type, field or tensor format that we do not have.
        MissingExtraError: a package is needed to fetch or convert it.
    """
    options = options or SourceOptions()
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, Origin(path.resolve().name, None, _licence(path)), options)
    if path.is_file():
        return _llama2c(path, options)
    if not HUB_ID.fullmatch(source):
        raise CheckpointError(
            f"{source} does not exist: give a folder with config.json, a llama2.c .bin file or a "
            "hub id such as org/name"
        )
    return _hub(source, options)


def origin_name(source: str) -> str:
    """The name of the model that `source` would give, without opening it."""
    path = Path(source).expanduser()
    return Origin(path.resolve().name if path.exists() else source.partition("@")[0]).model


def _folder(folder: Path, origin: Origin, options: SourceOptions) -> Source:
    from edgedec.export.checkpoint import Checkpoint, Weights
    from edgedec.models import decoding, describe, speech

    config = read_json(folder / "config.json")
    generation = read_json(folder / "generation_config.json", {})
    ignore = options.ignore
    architecture, tensors = describe(
        config, generation=generation, context=options.context, ignore=ignore
    )
    checkpoint = Checkpoint.open(folder)
    tokenizer = tokenizer_files(folder, architecture)
    size = sum(path.stat().st_size for path in {t.path for t in checkpoint.tensors.values()})
    weights = Weights(checkpoint, architecture, tensors)
    return Source(
        origin,
        with_eos(architecture, tokenizer.eos),
        weights,
        tokenizer,
        size,
        decoding(config, architecture, generation=generation, ignore=ignore),
        speech(config, generation),
    )


def with_eos(architecture: Architecture, eos: tuple[int, ...]) -> Architecture:
    """The architecture, ending texts also at ids that only the tokenizer's config names."""
    tokens = architecture.tokens
    both = (*tokens.eos, *(token for token in eos if token not in tokens.eos))
    return with_fields(architecture, tokens=with_fields(tokens, eos=both))


def _llama2c(path: Path, options: SourceOptions) -> Source:
    from edgedec.export import llama2c
    from edgedec.export.checkpoint import Arrays

    architecture, tensors = llama2c.read_model(path)
    limit = architecture.limits.context
    if options.context is not None:
        if not 1 <= options.context <= limit:
            raise CheckpointError(f"{path.name} has a context of {limit}, not {options.context}")
        limits = with_fields(architecture.limits, context=options.context)
        architecture = with_fields(architecture, limits=limits)
    vocab = architecture.vocab
    beside = [path.parent / name for name in ("tokenizer.bin", f"tok{vocab}.bin")]
    places = beside if options.tokenizer is None else [options.tokenizer]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise CheckpointError(
            f"{path.name} needs its tokenizer: there is no {' or '.join(p.name for p in places)}; "
            "name it with --tokenizer"
        )
    tokenizer = llama2c.read_tokenizer(found, vocab)
    weights = Arrays(architecture, tensors)
    return Source(Origin(path.name), architecture, weights, tokenizer, path.stat().st_size)


def _hub(source: str, options: SourceOptions) -> Source:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        package = error.name or "huggingface_hub"
        raise MissingExtraError("downloading from the hub", package, "export") from None
    name, _, revision = source.partition("@")
    disable_progress_bars()
    try:
        folder = snapshot_download(
            name, revision=revision or None, allow_patterns=HUB_FILES, ignore_patterns=NOT_FROM_HUB
        )
    except Exception as error:  # the hub's, the HTTP client's and the disk's errors share no base
        raise _hub_error(source, error) from None
    path = Path(folder)
    return _folder(path, Origin(name, path.name, _licence(path)), options)


def _hub_error(source: str, error: Exception) -> CheckpointError:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return CheckpointError(
            f"there is no folder {source} here, and the hub could not be reached: download the "
            "folder elsewhere and pass its path"
        )
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(f"{source} could not be fetched from the hub: {reason}")


def _licence(folder: Path) -> str | None:
    """What the head of a model card says, if it says it in one word."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    head = re.match(r"---\s*\n(.*?)\n---", card.read_text("utf-8", errors="replace"), re.DOTALL)
    stated = dict(re.findall(r"^(license(?:_name)?): *([^\s#]+)", head[1] if head else "", re.M))
    licence = stated.get("license_name") if stated.get("license") == "other" else None
    return (licence or stated.get("license", "")).strip("\"'") or None
