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

FILE, TEMPLATE = "tokenizer.json", "chat_template.jinja"
SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model")


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a bundle stores: `json` as text, the template if there is one; `eos` as ids."""

    json: str
    chat_template: str | None = None
    eos: tuple[int, ...] = ()


def tokenizer_files(folder: Path, vocab: int) -> TokenizerFiles:
    """Read a folder's tokenizer and template for a model of `vocab` ids.

    Raises:
        CheckpointError: there is none, it cannot be read, or it has ids that the model lacks.
    """
    config = read_json(folder / "tokenizer_config.json", {})
    special = read_json(folder / "special_tokens_map.json", {}) | config
    tokenizer, converted = _read(folder)
    tokenizer = fitted(tokenizer, vocab)
    bos, eos = (_special_id(tokenizer, special.get(f"{name}_token")) for name in ("bos", "eos"))
    # Checkpoints that ship only SentencePiece rely on the default of its classes: a bos in front.
    add_bos = config.get("add_bos_token", True if converted else None)
    add_ends(tokenizer, (add_bos, bos), (config.get("add_eos_token"), eos))
    template = _chat_template(folder, config)
    return TokenizerFiles(tokenizer.to_str(), template, () if eos is None else (eos,))


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


def _read(folder: Path) -> tuple[Tokenizer, bool]:
    """The tokenizer, and whether it was converted."""
    from tokenizers import Tokenizer

    from edgedec.export.sentencepiece_model import read_vocabulary, tokenizer_of

    if (folder / FILE).is_file():
        try:
            return Tokenizer.from_file(str(folder / FILE)), False
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(
                f"{FILE} in {folder} cannot be read: {str(error).splitlines()[0]}; copy it again"
            ) from None
    for name in SENTENCEPIECE_FILES:
        if (folder / name).is_file():
            return tokenizer_of(read_vocabulary(folder / name)), True
    raise CheckpointError(
        f"{folder} has no tokenizer: put {FILE} or {SENTENCEPIECE_FILES[0]} beside the weights"
    )


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
