"""The options of a search and of several texts: what goes together, and what is said if not."""

from __future__ import annotations

from typing import Any

import pytest

from edgedec import options
from edgedec.beams import Beams
from edgedec.errors import UsageError


def test_nothing_is_searched_for_unless_asked() -> None:
    found = options.read({})
    assert (found.beams, found.several, found.num_return_sequences) == (None, False, 1)
    assert options.read({"num_beams": 1, "length_penalty": 1.0, "patience": 1.0}).beams is None


def test_a_search_and_its_settings() -> None:
    given = {
        "num_beams": 6,
        "num_return_sequences": 3,
        "length_penalty": 0.6,
        "early_stopping": "never",
        "patience": 2.0,
        "num_beam_groups": 3,
        "diversity_penalty": 0.5,
    }
    found = options.read(given)
    assert found.beams == Beams(**given)
    assert (found.several, found.num_return_sequences) == (True, 3)


def test_several_texts_may_be_drawn() -> None:
    found = options.read({"temperature": 0.8, "num_return_sequences": 3, "seed": 5})
    assert (found.beams, found.num_return_sequences, found.sampling.seed) == (None, 3, 5)
    assert options.read({"num_return_sequences": 1}).several


def test_what_must_not_come() -> None:
    found = options.read({"suppress_tokens": [9, 3, 9], "no_repeat_ngram_size": 3})
    assert found.sampling.suppress_tokens == (3, 9)
    assert found.sampling.no_repeat_ngram_size == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0; it must be a whole number from 1"),
        ({"num_beams": True}, "num_beams is True"),
        ({"num_beams": 1000}, "num_beams is 1000; it must be a whole number from 1 to 256"),
        ({"num_beams": 4, "temperature": 0.5}, "4 beams and a temperature of 0.5"),
        ({"num_beams": 2, "stream": print}, "stream does not go with beams"),
        ({"num_beams": 2, "logprobs": 3}, "logprobs does not go with beams"),
        ({"num_beams": 2, "logprobs": True}, "logprobs does not go with beams"),
        ({"num_beams": 2, "stop": "."}, "stop does not go with beams.*give stop_tokens"),
        ({"num_beams": 2, "num_return_sequences": 3}, "from 1 to 2 with 2 beams"),
        ({"num_beams": 6, "num_beam_groups": 4}, "6 beams cannot be shared out evenly"),
        ({"num_beams": 6, "early_stopping": "yes"}, "early_stopping is 'yes'"),
        ({"length_penalty": 2.0}, "length_penalty is 2.0, but nothing is searched for"),
        ({"early_stopping": True}, "early_stopping is True, but nothing is searched for"),
        ({"num_return_sequences": 3}, "3 return sequences would all be the same: give num_beams"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        (
            {"num_return_sequences": 2, "temperature": 0.5, "stream": print},
            "stream takes one text",
        ),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens is 9, more than"),
        ({"suppress_tokens": 3}, "suppress_tokens is 3; it must be a list of ids"),
        ({"suppress_tokens": ["the"]}, "suppress_tokens is"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options.read(given)
