"""The Python API on the fake runtime."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgedec
from edgedec import api, sampling
from edgedec.contracts import Rows
from edgedec.errors import (
    StateError,
    UsageError,
)
from edgedec.generation import Cancel, Chunk, Generation
from edgedec.model import Model
from edgedec.runtimes.fake import Fake

CONTEXT, VOCAB = 96, 257

DOCUMENT = (
    "schema text tokens prompt_tokens new_tokens finish_reason seed model runtime device "
    "strategy strategy_requested lossy seconds load_seconds tokens_per_second "
    "time_to_first_token_ms passes tokens_per_pass evaluated accepted near_ties depths peak_rss_mb "
    "draft_seconds"
)


# --- one generation --------------------------------------------------------------------------


def test_the_document_has_the_keys_of_the_design(model: Model) -> None:
    document = model.generate("Hello", max_new_tokens=9).to_json()
    assert " ".join(document) == DOCUMENT
    assert document["schema"] == 1


def test_what_is_reported(model: Model) -> None:
    done = model.generate("Hello", max_new_tokens=9, stop_tokens=())
    assert (done.prompt_tokens, done.new_tokens, len(done.tokens)) == (5, 9, 9)
    assert (done.runtime, done.device, done.model) == ("fake", "fake", "bytes")
    assert (done.strategy, done.strategy_requested, done.lossy) == ("plain", "auto", False)
    assert (done.passes, done.tokens_per_pass, done.evaluated, done.accepted) == (9, 1.0, 0, 0)
    assert (done.finish_reason, done.seed) == ("length", 0)
    assert done.tokens_per_second is not None
    assert done.time_to_first_token_ms is not None
    assert 0 < done.time_to_first_token_ms / 1000 < done.seconds
    assert done.load_seconds > 0
    assert 5 < done.peak_rss_mb < 5000


def test_speed_is_unknown_for_one_token(model: Model) -> None:
    assert model.generate("Hello", max_new_tokens=1).tokens_per_second is None


def test_the_text_is_that_of_the_tokens(model: Model) -> None:
    done = model.generate("Hello", max_new_tokens=40)
    assert model.pieces(done.tokens)
    assert done.text == "".join(model.pieces(done.tokens))


def test_the_text_is_decoded_as_what_follows_the_prompt(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some tokenizers drop a space at the start of a text; a continuation is no start."""
    text, seen = model._setup.text, list[list[int]]()
    stream = text.stream

    def watched(_: object, *, after: list[int]) -> Any:
        seen.append(after)
        return stream(after=after)

    monkeypatch.setattr(type(text), "stream", watched)
    model.generate("Hello", max_new_tokens=2)
    assert seen == [text.encode("Hello")]


def test_the_same_seed_gives_the_same_text(model: Model) -> None:
    first = model.generate("Hello", temperature=1.0, seed=7)
    assert model.generate("Hello", temperature=1.0, seed=7).tokens == first.tokens
    assert model.generate("Hello", temperature=1.0, seed=8).tokens != first.tokens


def test_a_drawn_seed_is_reported_and_reproduces(model: Model) -> None:
    first = model.generate("Hello", temperature=1.0)
    second = model.generate("Hello", temperature=1.0)
    assert first.seed != second.seed
    assert model.generate("Hello", temperature=1.0, seed=second.seed).tokens == second.tokens


def test_a_prompt_near_the_end_of_the_context_is_cut_short(model: Model) -> None:
    done = model.generate("x" * (CONTEXT - 3), max_new_tokens=50, stop_tokens=())
    assert (done.new_tokens, done.finish_reason) == (3, "length")


def test_several_prompts_are_what_each_is_alone(model: Model) -> None:
    together = model.generate(["Hello", "Bye"], max_new_tokens=8, temperature=1.0, seed=3)
    alone = [
        model.generate(each, max_new_tokens=8, temperature=1.0, seed=3) for each in ("Hello", "Bye")
    ]
    assert [each.tokens for each in together] == [each.tokens for each in alone]


def test_messages_go_through_the_template(chat_bundle: Path, fake_device: None) -> None:
    with edgedec.load(chat_bundle, device="fake") as model:
        by_hand = model.generate("user: Hi\nassistant:", max_new_tokens=8)
        done = model.generate([{"role": "user", "content": "Hi"}], max_new_tokens=8)
    assert done.tokens == by_hand.tokens
    assert done.prompt_tokens == by_hand.prompt_tokens


# --- ends ------------------------------------------------------------------------------------


def test_a_stop_string_ends_the_text_before_it(model: Model) -> None:
    whole = model.generate("Hello", max_new_tokens=40)
    stop = whole.text[5:8]
    done = model.generate("Hello", max_new_tokens=40, stop=stop)
    assert done.text == whole.text[: whole.text.index(stop)]
    assert done.finish_reason == "stop"
    assert done.tokens == whole.tokens[: done.new_tokens]


def test_a_stop_token_ends_the_text(model: Model) -> None:
    whole = model.generate("Hello", max_new_tokens=40)
    done = model.generate("Hello", max_new_tokens=40, stop_tokens=[whole.tokens[6]])
    assert done.finish_reason == "stop"
    assert done.tokens == whole.tokens[: whole.tokens.index(whole.tokens[6])]


@pytest.mark.parametrize("after", [1, 4])
def test_cancelling_from_the_stream_keeps_what_there_is(model: Model, after: int) -> None:
    cancel, chunks = Cancel(), list[Chunk]()

    def stream(chunk: Chunk) -> None:
        chunks.append(chunk)
        if len(chunks) == after:
            cancel.set()

    done = model.generate("Hello", max_new_tokens=60, stream=stream, cancel=cancel)
    assert done.finish_reason == "cancelled"
    assert done.text == "".join(chunk.text for chunk in chunks)
    assert done.tokens == tuple(token for chunk in chunks for token in chunk.tokens)
    assert 0 < done.new_tokens < 60


def test_cancelled_before_it_began(model: Model) -> None:
    cancel = Cancel()
    cancel.set()
    done = model.generate("Hello", cancel=cancel)
    assert (done.text, done.finish_reason, done.passes) == ("", "cancelled", 0)
    assert done.time_to_first_token_ms is None
    assert done.tokens_per_pass is None


def test_cancelling_from_another_thread(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    cancel, begun = Cancel(), threading.Event()

    def wait_for_cancel(chunk: Chunk) -> None:
        begun.set()
        while not cancel.is_set:
            pass

    other = threading.Thread(target=lambda: (begun.wait(10), cancel.set()))
    other.start()
    done = model.generate("Hello", stream=wait_for_cancel, cancel=cancel)
    other.join()
    assert done.finish_reason == "cancelled"


# --- streaming -------------------------------------------------------------------------------


def test_chunks_arrive_as_the_text_grows(model: Model) -> None:
    chunks: list[Chunk] = []
    steps: list[int] = []
    before = Fake.logits

    def counted(self: Fake, *args: Any) -> Any:
        steps.append(len(chunks))
        return before(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fake, "logits", counted)
        done = model.generate("Hello", max_new_tokens=30, stream=chunks.append)
    assert len(set(steps)) > 5, "chunks came between the steps, not after them"
    assert "".join(chunk.text for chunk in chunks) == done.text
    assert tuple(token for chunk in chunks for token in chunk.tokens) == done.tokens
    lengths = [len(chunk.text) for chunk in chunks]
    assert [chunk.offset for chunk in chunks] == [sum(lengths[:i]) for i in range(len(chunks))]


# --- log probabilities and scores ------------------------------------------------------------


def logprobs_of(model: Model, tokens: list[int]) -> np.ndarray[Any, Any]:
    """The log-softmax after a text, worked out in plain numpy."""
    session = Fake(vocab=VOCAB, dim=8, layers=4, context=CONTEXT, eos=(0,), cuts=()).session()
    parents = np.arange(-1, len(tokens) - 1, dtype=np.int32)
    result = session.step(Rows(np.array(tokens, np.int32), parents))
    logits = result.logits(len(tokens) - 1).astype(np.float64)
    values: np.ndarray[Any, Any] = logits - np.log(np.exp(logits).sum())
    return values


def test_logprobs_are_those_of_the_model(model: Model) -> None:
    done = model.generate("Hi", max_new_tokens=3, logprobs=4, temperature=1.2, seed=1)
    assert done.logprobs is not None
    assert len(done.logprobs) == done.new_tokens
    tokens = model._setup.text.encode("Hi")
    for token, found in zip(done.tokens, done.logprobs, strict=True):
        values = logprobs_of(model, tokens)
        assert found.token == token
        assert found.logprob == pytest.approx(values[token], abs=1e-5)
        best = np.argsort(-values, kind="stable")[:4]
        assert [each for each, _ in found.top] == best.tolist()
        tokens.append(token)
    assert done.to_json()["logprobs"][0]["token"] == done.tokens[0]


def test_a_score_adds_up(model: Model) -> None:
    found = model.score("Hello")
    tokens = model._setup.text.encode("Hello")
    expected = [float(logprobs_of(model, tokens[:i])[tokens[i]]) for i in range(1, 5)]
    assert found.tokens == tuple(tokens)
    assert found.logprobs[0] is None
    assert list(found.logprobs[1:]) == pytest.approx(expected, abs=1e-5)
    assert found.total == pytest.approx(sum(expected), abs=1e-4)
    assert found.bits_per_byte == pytest.approx(-sum(expected) / math.log(2) / 4, abs=1e-4)
    assert found.perplexity == pytest.approx(math.exp(-sum(expected) / 4), rel=1e-4)


def test_a_score_leaves_the_conversation_alone(model: Model) -> None:
    model.generate("Hello", max_new_tokens=4)
    before = list(model._session.tokens)
    model.score("Something else")
    assert list(model._session.tokens) == before


def test_a_constraint_holds(model: Model) -> None:
    class Vowels:
        def start(self) -> int:
            return 0

        def advance(self, state: int, token: int) -> int:
            return state + 1

        def mask(self, state: int) -> list[int]:
            return model._setup.text.encode("aeiou")

    done = model.generate("Hello", max_new_tokens=12, constraint=Vowels())
    assert len(done.text) == 12
    assert set(done.text) <= set("aeiou")


# --- one conversation ------------------------------------------------------------------------


def test_a_state_can_be_saved_and_taken_up(
    model: Model, plain_bundle: Path, chat_bundle: Path, tmp_path: Path
) -> None:
    done = model.generate("Hello", max_new_tokens=8)
    model.save(tmp_path / "state")
    with edgedec.load(plain_bundle, device="fake") as other:
        other.load(tmp_path / "state")
        assert list(other._session.tokens) == list(model._session.tokens)
        assert other.generate("Hello", max_new_tokens=8).tokens == done.tokens
    (tmp_path / "broken").write_bytes(b"no state")
    with pytest.raises(StateError):
        model.load(tmp_path / "broken")


def test_two_calls_at_once_are_refused(model: Model) -> None:
    def again(chunk: Chunk) -> None:
        model.generate("Bye")

    with pytest.raises(UsageError, match="at work already"):
        model.generate("Hello", stream=again)
    assert model.generate("Hello", max_new_tokens=2).new_tokens == 2


def test_a_failing_stream_leaves_a_usable_model(model: Model) -> None:
    def fail(chunk: Chunk) -> None:
        raise RuntimeError("the listener hung up")

    whole = model.generate("Hello", max_new_tokens=8)
    with pytest.raises(RuntimeError, match="hung up"):
        model.generate("Hello", stream=fail)
    assert model.generate("Hello", max_new_tokens=8).tokens == whole.tokens


def test_a_closed_model_says_so(plain_bundle: Path, fake_device: None) -> None:
    model = edgedec.load(plain_bundle, device="fake")
    model.close()
    model.close()
    with pytest.raises(UsageError, match="closed"):
        model.generate("Hello")


# --- the door --------------------------------------------------------------------------------


def test_importing_edgedec_imports_nothing_heavy() -> None:
    code = (
        "import sys, edgedec; "
        "print(*{m.split('.')[0] for m in sys.modules} & {'numpy', 'onnxruntime', 'tokenizers'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_generate_in_one_call(
    plain_bundle: Path, fake_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = api.load
    monkeypatch.setattr(api, "load", lambda path: load(path, device="fake"))
    done = edgedec.generate("Hello", plain_bundle, max_new_tokens=3)
    assert isinstance(done, Generation)
    assert done.new_tokens == 3
    assert sampling.Sampling().temperature == 0
    assert {field.name for field in fields(Generation)} == {
        *DOCUMENT.split()[1:],
        "logprobs",
        "score",
    }
