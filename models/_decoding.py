"""What a checkpoint says its output must hold: `generation_config.json`, or an older config.json.

Defaults for sampling and beams are not taken over: they are the user's to choose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgedec.architecture import Architecture
from edgedec.errors import CheckpointError
from edgedec.manifest import Decoding
from edgedec.models._config import Config


def decoding(
    config_json: Mapping[str, object],
    architecture: Architecture,
    *,
    generation: Mapping[str, object] | None = None,
    ignore: frozenset[str] = frozenset(),
) -> Decoding:
    """The ids that are forced or never written; config.json counts where there is no `generation`.

    Suppressed ids outside the vocabulary cannot occur and are left out.

    Raises:
        CheckpointError: a field of the wrong type, or a forced id outside the vocabulary.
        UnsupportedError: a bad word of several tokens, unless `bad_words_ids` is in `ignore`.
    """
    if generation:
        settings = Config(generation, place="generation_config.json")
    else:
        settings = Config(config_json)
    vocab = architecture.vocab
    last = settings.ids("forced_eos_token_id")
    suppressed = settings.items("suppress_tokens", int)
    if "bad_words_ids" not in ignore:
        suppressed += tuple(_bad_words(settings, architecture.tokens.eos))
    return Decoding(
        forced={
            place: _inside(settings, token, vocab)
            for place, token in _forced(settings, architecture)
        },
        # Of several ids, all forced at once, transformers writes the lowest.
        forced_last=_inside(settings, min(last), vocab) if last else None,
        suppressed=_known(suppressed, vocab),
        suppressed_first=_known(settings.items("begin_suppress_tokens", int), vocab),
    )


def _forced(settings: Config, architecture: Architecture) -> Iterator[tuple[int, int]]:
    """Output positions and ids. Theirs count the decoder's first token, which is not output.

    A model of speech has in `forced_decoder_ids` what we give it as a prompt.
    """
    pairs = settings.lists("forced_decoder_ids", int)
    if architecture.frontend is None:
        for pair in pairs:
            if len(pair) != 2 or pair[0] is None or pair[0] < 1:
                settings.refuse(
                    "forced_decoder_ids", "needed: pairs of a position from 1 and an id"
                )
            if pair[1] is not None:
                yield pair[0] - 1, pair[1]
    first = settings.find("forced_bos_token_id", int)
    if first is not None:
        yield 0, first


def _bad_words(settings: Config, eos: tuple[int, ...]) -> Iterator[int]:
    """Those of one token; the end of a text is never one."""
    for word in settings.lists("bad_words_ids", int):
        if len(word) != 1:
            settings.refuse(
                "bad_words_ids",
                "only words of one token are supported (--ignore bad_words_ids leaves them out)",
            )
        if word[0] is not None and word[0] not in eos:
            yield word[0]


def _inside(settings: Config, token: int, vocab: int) -> int:
    if 0 <= token < vocab:
        return token
    raise CheckpointError(f"{settings.place} forces the id {token}; the model has 0 to {vocab - 1}")


def _known(tokens: tuple[int, ...], vocab: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(token for token in tokens if 0 <= token < vocab))
