"""Strategies by name, with their options."""

from __future__ import annotations

from typing import Any

import pytest

from edgedec import drafting, rooms
from edgedec.bundle import open_bundle
from edgedec.errors import EdgedecError, UnsupportedError, UsageError
from edgedec.strategies.token_recycling import TokenRecycling

from .both import plain_host

RECURSIVE = {
    "draft_model.acceptance": "recursive",
    "draft_model.depth": 3,
    "draft_model.branches": 2,
}


def test_auto_is_all_that_need_nothing() -> None:
    chosen = drafting.choose("auto")
    free = ["aggressive", "phrase_pool", "prompt_lookup", "token_recycling", "trigram"]
    trained = ["attention_head", "early_exit", "edit_tags", "eesd", "hidden_transfer", "hydra"]
    trained += ["kangaroo", "layer_skip", "medusa", "prompt_decoding", "recurrent"]
    expected = sorted([*free, *trained])
    assert [part.name for part in chosen.parts] == expected
    assert chosen.name == "+".join(expected)
    assert not chosen.lossy
    assert set(drafting.names()) == {"auto", *rooms.names("edgedec.strategies")}


def test_auto_leaves_out_what_a_model_has_nothing_for() -> None:
    host = plain_host(open_bundle("stories").manifest.architecture)
    fitted = drafting.choose("auto").fitted(host)
    assert "aggressive" not in fitted.name
    assert fitted.requested == "auto"
    asked = drafting.choose("aggressive").fitted(host)
    with pytest.raises(UnsupportedError, match="this model has none"):
        asked.needs(host)


@pytest.mark.parametrize("name", ["plain", "plain+plain"])
def test_plain_is_nobody(name: str) -> None:
    assert drafting.choose(name).parts == ()
    assert drafting.choose(name).name == "plain"


def test_names_joined_by_plus_are_combined() -> None:
    chosen = drafting.choose("trigram+token_recycling", {"token_recycling.nodes": 5})
    assert [part.name for part in chosen.parts] == ["trigram", "token_recycling"]
    assert chosen.parts[1].strategy == TokenRecycling(nodes=5)


def test_one_strategy_takes_its_options_by_their_own_names() -> None:
    assert drafting.choose("token_recycling", {"nodes": 7}).parts[0].strategy == TokenRecycling(7)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (("magic",), UnsupportedError, "no 'magic' in strategies"),
        (("trigram+",), UnsupportedError, "no '' in strategies"),
        (("trigram+trigram",), UsageError, "names one twice"),
        (("trigram", {"nodse": 4}), UsageError, "no option 'nodse'; there is: trigram.nodes"),
        (("plain", {"nodes": 4}), UsageError, "there is: none"),
        (("auto", {"nodes": 4}), UsageError, "no option 'nodes'"),
        (("draft_model",), UsageError, "needs the option 'bundle'"),
        (("trigram", None, "magic"), UnsupportedError, "no policy 'magic'"),
        (("trigram", None, "best", "magic"), UnsupportedError, "no acceptance 'magic'"),
        (("trigram", {"nodes": -1}), UsageError, "nodes is -1; it must be a whole number from 1"),
        (("trigram", {"nodes": 10**6}), UsageError, "nodes is 1000000"),
        (("token_recycling", {"nodes": 10**6}), UsageError, "nodes is 1000000"),
        (("token_recycling", {"nodes": 2.5}), UsageError, "a whole number"),
        (("token_recycling", {"rate": "fast"}), UsageError, "rate is 'fast'"),
        (("token_recycling", {"width": True}), UsageError, "width is True"),
        (("token_recycling", {"sets": 5000}), UsageError, "sets is 5000; it must be a power"),
        (("trigram", {"sets": 3}), UsageError, "sets is 3; it must be a power of two"),
        (("trigram", {"hot_start": 123}), UsageError, "hot_start is 123; it must be the path"),
        (("draft_model", {"bundle": 5}), UsageError, "bundle is 5; it must be"),
        (
            ("draft_model+trigram", {"draft_model.bundle": "x", **RECURSIVE}),
            UsageError,
            "use it alone",
        ),
        (("prompt_lookup", {"branches": 0}), UsageError, "branches is 0"),
        (("phrase_pool", {"length": 1}), UsageError, "length is 1"),
        (("draft_model", {"bundle": "x", "depth": 0}), UsageError, "depth is 0"),
        (("draft_model", {"bundle": "x", "acceptance": "all"}), UsageError, "acceptance is 'all'"),
        (
            ("draft_model", {"bundle": "x", "acceptance": "recursive", "branches": 8}),
            UsageError,
            "299592 nodes; a tree that is checked whole has at most 63",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line(
    given: tuple[Any, ...], kind: type[EdgedecError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        drafting.choose(*given)
    assert message in str(caught.value)


def test_rules_other_than_the_exact_one_are_lossy() -> None:
    assert drafting.choose("trigram", acceptance="typical").lossy
    recursive = {"bundle": "x", "acceptance": "recursive", "depth": 3, "branches": 2}
    chosen = drafting.choose("draft_model", recursive)
    assert (chosen.lossy, chosen.rule) == (True, "recursive")
    assert drafting.choose("draft_model", {"bundle": "x"}).rule == "exact"
    assert drafting.choose("draft_model", {"bundle": "x"}, acceptance="typical").rule == "typical"
    with pytest.raises(UsageError, match="acceptance rule of its own"):
        drafting.choose("draft_model", recursive, acceptance="typical")


def test_options_are_read_from_text() -> None:
    texts = ["a.n=4", "b=0.5", "c=x=y", "d=true", "e="]
    assert drafting.read_options(texts) == {"a.n": 4, "b": 0.5, "c": "x=y", "d": True, "e": ""}
    for text in ("nodes", "=4"):
        with pytest.raises(UsageError, match="NAME=VALUE"):
            drafting.read_options([text])
