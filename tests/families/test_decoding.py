"""What a checkpoint says of its output: which file counts, which positions, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from edgedec import rooms
from edgedec.errors import CheckpointError, UnsupportedError
from edgedec.manifest import Decoding
from edgedec.models import decoding, describe, speech


def read(
    generation: dict[str, Any] | None = None, family: str = "bart", **config: object
) -> Decoding:
    fields = {**rooms.load("edgedec.models", family).TINY, **config}
    architecture, _ = describe(fields, generation=generation)
    return decoding(fields, architecture, generation=generation)


def test_nothing_said_is_nothing_asked() -> None:
    assert read() == read({}) == read({"num_beams": 4, "max_length": 20}) == Decoding()


def test_the_generation_config_comes_first_and_alone() -> None:
    old = {"forced_bos_token_id": 5, "forced_eos_token_id": 2, "bad_words_ids": [[7]]}
    assert read(**old) == Decoding(forced={0: 5}, forced_last=2, suppressed=(7,))
    assert read({"forced_bos_token_id": 6}, **old) == Decoding(forced={0: 6})


def test_positions_are_those_of_the_output() -> None:
    """Theirs count the start token, which is no output; a null leaves a position free."""
    forced = {"forced_decoder_ids": [[1, 9], [2, None], [3, 4]]}
    assert read(forced).forced == {0: 9, 2: 4}
    both = {**forced, "forced_bos_token_id": 8}
    assert read(both).forced == {0: 8, 2: 4}
    for wrong in ([[0, 9]], [[1]], [[None, 3]]):
        with pytest.raises(UnsupportedError, match="position from 1"):
            read({"forced_decoder_ids": wrong})


def test_what_a_model_of_speech_is_given_is_not_forced_again() -> None:
    assert read({"forced_decoder_ids": [[1, 9]]}, "whisper").forced == {}


def test_ids_are_checked_or_left_out() -> None:
    found = read({"suppress_tokens": [3, 200, -1, 3], "begin_suppress_tokens": [4, 999]})
    assert (found.suppressed, found.suppressed_first) == ((3,), (4,))
    for field in ("forced_bos_token_id", "forced_eos_token_id"):
        with pytest.raises(CheckpointError, match="forces the id 112; the model has 0 to 111"):
            read({field: 112})
    with pytest.raises(CheckpointError, match="list of lists"):
        read({"bad_words_ids": [3]})


def test_of_several_last_ids_the_lowest_is_written() -> None:
    assert read({"forced_eos_token_id": [9, 4, 7]}).forced_last == 4


def test_bad_words_of_several_tokens_are_refused_unless_ignored() -> None:
    fields = rooms.load("edgedec.models", "bart").TINY
    architecture, _ = describe(fields)
    words = {"bad_words_ids": [[5], [2], [6, 7]]}
    with pytest.raises(UnsupportedError, match="--ignore bad_words_ids"):
        decoding(fields, architecture, generation=words)
    ignored = frozenset({"bad_words_ids"})
    assert decoding(fields, architecture, generation=words, ignore=ignored) == Decoding()
    # The end of a text is never a bad word, as in transformers.
    assert read({"bad_words_ids": [[5], [2]]}).suppressed == (5,)


def test_only_models_of_speech_say_something_of_speech() -> None:
    whisper = rooms.load("edgedec.models", "whisper").TINY
    assert speech(rooms.load("edgedec.models", "bart").TINY, {"lang_to_id": {}}) is None
    assert speech(whisper) is None
    found = speech(whisper, {"no_timestamps_token_id": 50, "lang_to_id": {"<|en|>": 40}})
    assert found is not None
    assert found.no_timestamps == 50


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_transformers_writes_what_is_forced() -> None:
    """First, last and suppressed tokens, where transformers' own generation puts them."""
    import torch

    from . import asking

    tiny = rooms.load("edgedec.models", "bart").TINY
    torch.manual_seed(1)
    model = asking.make(tiny)
    plain = model.generate(torch.tensor([[5, 6, 2]]), max_new_tokens=6, num_beams=1)[0].tolist()
    settings = {"forced_bos_token_id": 9, "forced_eos_token_id": 3, "suppress_tokens": plain[2:4]}
    theirs = model.generate(
        torch.tensor([[5, 6, 2]]), max_new_tokens=6, num_beams=1, do_sample=False, **settings
    )[0].tolist()
    ours, output = read(settings), theirs[1:]
    assert output[0] == ours.forced[0]
    assert output[-1] == ours.forced_last
    assert not set(output[1:-1]) & set(ours.suppressed)
