"""The tokenizer and chat template of a checkpoint folder, made ready for a bundle.

What a bundle's `tokenizer.json` does is the whole truth: a bos that only `tokenizer_config.json`
asks for is built in here. Knows nothing about weights or graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgedec.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from edgedec.architecture import Architecture

FILE, SOURCE, TEMPLATE = "tokenizer.json", "tokenizer.source.json", "chat_template.jinja"
SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model")
BYT5_VOCAB = 384
"""Three special tokens, 256 bytes, 125 sentinels; such a checkpoint needs no file at all."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a bundle stores: `json` as text, the template if there is one; `eos` as ids.

    `source` is the encoder's own tokenizer, where it reads other ids than the decoder writes.
    """

    json: str
    chat_template: str | None = None
    eos: tuple[int, ...] = ()
    source: str | None = None


def tokenizer_files(folder: Path, architecture: Architecture) -> TokenizerFiles:
    """Read a folder's tokenizer, or its two, and template.

    Raises:
        CheckpointError: there is none, it cannot be read, or it has ids that the model lacks.
    """
    config = read_json(folder / "tokenizer_config.json", {})
    special = read_json(folder / "special_tokens_map.json", {}) | config
    found = _read(folder, architecture, special)
    tokenizer = fitted(found.writes, architecture.vocab)
    names = {"eos_token": "</s>"} if found.eos else {}
    bos, eos = (
        _special_id(tokenizer, special.get(name) or names.get(name))
        for name in ("bos_token", "eos_token")
    )
    wishes = (
        (config.get("add_bos_token", found.bos), bos),
        (
            config.get("add_eos_token", found.eos),
            eos,
        ),
    )
    add_ends(tokenizer, *wishes)
    source = None
    if found.reads is not None:
        reads = fitted(found.reads, (architecture.source_embed or architecture.embed).vocab)
        add_ends(reads, (False, None), (True, _special_id(reads, "</s>")))
        source = reads.to_str()
    template = _chat_template(folder, config)
    return TokenizerFiles(tokenizer.to_str(), template, () if eos is None else (eos,), source)


def read_json(path: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """A JSON object from a file; `missing` is the answer where there is no file.

    Raises:
        CheckpointError: no file (and no `missing`), or no JSON object in it.
    """
    if missing is not None and not path.is_file():
        return missing
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise CheckpointError(
            f"{path.name} cannot be read in {path.parent}: {error.strerror}"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name} in {path.parent} is damaged: {error}; copy it again"
        ) from None


def fitted(tokenizer: Tokenizer, vocab: int) -> Tokenizer:
    """The tokenizer without added tokens that the model has no row for.

    Some text models come with the tokenizer of a larger relative (Gemma 3's image token).

    Raises:
        CheckpointError: ids of the vocabulary proper are beyond the model's.
    """
    from tokenizers import Tokenizer

    if max(tokenizer.get_vocab(with_added_tokens=False).values(), default=0) >= vocab:
        count = tokenizer.get_vocab_size(with_added_tokens=False)
        raise CheckpointError(
            f"the tokenizer has {count} entries, the model only {vocab}: take the model's own"
        )
    if max(tokenizer.get_added_tokens_decoder(), default=0) < vocab:
        return tokenizer
    content = msgspec.json.decode(tokenizer.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["id"] < vocab]
    return Tokenizer.from_str(msgspec.json.encode(content).decode())


Wish = tuple[bool | None, int | None]
"""Whether to add a token (None: leave it as it is), and its id."""


def add_ends(tokenizer: Tokenizer, bos: Wish, eos: Wish = (None, None)) -> None:
    """Make a tokenizer put bos before and eos after a text, or not, as wished."""
    from tokenizers import processors

    ids = tokenizer.encode("a").ids or [-1]
    present = (ids[0] == bos[1], ids[-1] == eos[1])
    wanted = tuple(
        here if wish is None or token is None else wish
        for (wish, token), here in zip((bos, eos), present, strict=True)
    )
    if wanted == present:
        return
    ends = [
        (str(tokenizer.id_to_token(token)), token) if want and token is not None else None
        for want, (_, token) in zip(wanted, (bos, eos), strict=True)
    ]
    head, tail = ([end[0]] if end else [] for end in ends)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*head, "$A", *tail],
        pair=[*head, "$A", *tail, *head, "$B", *tail],
        special_tokens=[end for end in ends if end],
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """A folder's tokenizer, the encoder's own if there is one, and which ends are added.

    None: as the tokenizer has them already.
    """

    writes: Tokenizer
    reads: Tokenizer | None = None
    bos: bool | None = None
    eos: bool | None = None


def _read(folder: Path, architecture: Architecture, special: Mapping[str, Any]) -> _Found:
    from edgedec.export import vocabularies

    there = {path.name for path in folder.iterdir()}
    if there.issuperset(vocabularies.PAIR):
        reads, writes = vocabularies.of_marian(folder)
        return _Found(writes, reads, False, True)
    if FILE in there:
        return _Found(_parse(folder))
    for name in SENTENCEPIECE_FILES:
        if name in there:
            return _sentencepiece(folder / name, architecture, special)
    if there.issuperset((vocabularies.IDS, vocabularies.MERGES)):
        return _Found(vocabularies.of_byte_pairs(folder, special))
    extra = architecture.vocab - 3 - vocabularies.BYTES
    if architecture.family == "t5" and (
        special.get("tokenizer_class") == "ByT5Tokenizer" or architecture.vocab == BYT5_VOCAB
    ):
        return _Found(vocabularies.of_bytes(extra), eos=True)
    raise CheckpointError(
        f"{folder} has no tokenizer: put {FILE} or {SENTENCEPIECE_FILES[0]} beside the weights"
    )


def _parse(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / FILE))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(
            f"{FILE} in {folder} cannot be read: {str(error).splitlines()[0]}; copy it again"
        ) from None


def _sentencepiece(path: Path, architecture: Architecture, special: Mapping[str, Any]) -> _Found:
    from edgedec.export import vocabularies
    from edgedec.export.sentencepiece_model import read_vocabulary, tokenizer_of

    family = architecture.family
    if family == "pegasus":
        offset = special.get("offset")
        made = vocabularies.of_pegasus(path, offset if isinstance(offset, int) else 103)
    elif family in ("t5", "mt5"):
        extra = special.get("extra_ids")
        usual = 100 if family == "t5" else 0
        made = vocabularies.of_t5(path, extra if isinstance(extra, int) else usual)
    else:
        made = tokenizer_of(read_vocabulary(path))
    # Checkpoints that ship only SentencePiece rely on the default of its classes: a bos in front,
    # or, where an encoder reads, an eos behind.
    two_sided = architecture.encoder is not None
    return _Found(made, None, not two_sided, True if two_sided else None)


def _special_id(tokenizer: Tokenizer, entry: object) -> int | None:
    content = entry.get("content") if isinstance(entry, Mapping) else entry
    return tokenizer.token_to_id(content) if isinstance(content, str) else None


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The template file, else the one in a config: a text, or a named list with a `default`."""
    path = folder / TEMPLATE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{TEMPLATE} in {folder} cannot be read: {error}") from None
    beside = read_json(folder / "chat_template.json", {})
    found = beside.get("chat_template") or config.get("chat_template")
    if isinstance(found, list):
        entries = [entry for entry in found if isinstance(entry, dict)]
        named = {str(entry.get("name")): entry.get("template") for entry in entries}
        found = named.get("default", next(iter(named.values()), None))
    return found if isinstance(found, str) else None
