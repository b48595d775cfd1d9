"""Beam search gives transformers' texts, order and scores on the same float32 weights."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from edgedec import rooms
from edgedec.beams import Beams, Rule, Search
from edgedec.bundle import open_bundle
from edgedec.devices import EngineOptions
from edgedec.export.pipeline import ExportOptions, export_model
from edgedec.manifest import Decoding
from edgedec.runtimes import onnx
from edgedec.sampling import Sampler, Sampling, Terms

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]

LIMIT = 14
START = 2
SEARCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "short": {"length_penalty": -1.0},
    "long": {"length_penalty": 2.0, "early_stopping": "never"},
    "early": {"early_stopping": True},
    "never": {"early_stopping": "never", "length_penalty": 0.0},
    "ngrams": {"no_repeat_ngram_size": 2},
    "least": {"min_new_tokens": 6, "length_penalty": 0.5},
    "penalised": {"repetition_penalty": 1.4},
    "suppressed": {"suppress_tokens": [3, 17, 40], "begin_suppress_tokens": [5, 9]},
    "forced": {"forced_bos_token_id": 11, "forced_eos_token_id": 7, "early_stopping": True},
    "two": {"num_beams": 2, "num_return_sequences": 1},
    "all": {
        "forced_bos_token_id": 11,
        "forced_eos_token_id": 7,
        "begin_suppress_tokens": [5, 9],
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 4,
        "length_penalty": 2.0,
    },
}


class Peer:
    """A random model of transformers, and the same weights as a bundle in float32."""

    def __init__(self, family: str, folder: Path) -> None:
        import torch
        import transformers

        torch.manual_seed(5)
        tiny = dict(rooms.load("edgedec.models", family).TINY)
        config = transformers.AutoConfig.for_model(**tiny)
        self.reads = config.is_encoder_decoder
        self.vocab = getattr(config, "decoder_vocab_size", None) or config.vocab_size
        kind = (
            transformers.AutoModelForSeq2SeqLM if self.reads else transformers.AutoModelForCausalLM
        )
        self.model = kind.from_config(config).float().eval()
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                # New weights are so small that all tokens are nearly alike.
                if weight.ndim == 2 and not any(part in name for part in ("relative", "positions")):
                    weight.normal_(0, 0.3)
        # Without defaults that a config brings: a search says all it wants.
        self.model.generation_config = transformers.GenerationConfig(decoder_start_token_id=START)
        self.model.save_pretrained(folder / "model")
        words = {f"w{i}": i for i in range(self.vocab)}
        Tokenizer(WordLevel(words, unk_token="w0")).save(str(folder / "model" / "tokenizer.json"))
        options = ExportOptions(kind="fp32", verify=False)
        export_model(str(folder / "model"), folder / "bundle", options)
        self.engine = onnx.open(open_bundle(folder / "bundle"), EngineOptions(threads=1))

    def theirs(self, text: list[int], stop: list[int], given: dict[str, Any]) -> Any:
        import torch

        made = self.model.generate(
            torch.tensor([text]),
            attention_mask=torch.ones(1, len(text), dtype=torch.long),
            max_new_tokens=LIMIT,
            eos_token_id=stop or None,
            pad_token_id=0,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **given,
        )
        begin, found = 1 if self.reads else len(text), []
        for line, score in zip(made.sequences, made.sequences_scores, strict=True):
            tokens = line[begin:].tolist()
            ends = [i for i, token in enumerate(tokens) if token in stop]
            found.append((tokens[: min(ends, default=len(tokens))], float(score)))
        return found

    def ours(self, text: list[int], stop: list[int], given: dict[str, Any]) -> Any:
        beams = Beams(**_of(Beams, given))
        suppressed = tuple(given.get("suppress_tokens", ()))
        chosen = Sampling(**_of(Sampling, given) | {"suppress_tokens": suppressed})
        decoding = Decoding(
            forced_last=given.get("forced_eos_token_id"),
            suppressed_first=tuple(given.get("begin_suppress_tokens", ())),
        )
        terms = Terms(self.vocab, frozenset(stop), LIMIT, decoding)
        rule = Rule(beams, Sampler.build(chosen, None, terms), frozenset(stop), LIMIT)
        session = self.engine.session()
        if self.reads:
            session.encode(np.array(text, np.int32))
        search = Search(session, self.engine.capabilities, rule)
        list(search.run([START] if self.reads else text))
        return [(list(each.tokens), each.score) for each in search.found()]


def _of(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    return {field.name: given[field.name] for field in fields(kind) if field.name in given}


@pytest.fixture(scope="module", params=["llama", "gpt2", "bart", "t5", "marian"])
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    return Peer(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("count", [0, 6, 18])
def test_texts_order_and_scores(peer: Peer, name: str, count: int) -> None:
    """`count` stop tokens: of many a text ends early, of none it is as long as it may be."""
    random = np.random.default_rng(len(name) + count)
    given = {"num_beams": 4, "num_return_sequences": 2, **SEARCHES[name]}
    stop = sorted(random.choice(np.arange(8, peer.vocab), count, replace=False).tolist())
    if "forced_eos_token_id" in given:
        stop += [given["forced_eos_token_id"]]
    # Their first token is forced only behind a prompt of one id.
    for length in (3, 7, 20) if peer.reads else (1,) if "forced_bos_token_id" in given else (1, 9):
        text = random.integers(3, peer.vocab, length).tolist()
        expected = peer.theirs(text, stop, given)
        found = peer.ours(text, stop, given)
        assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
        assert [s for _, s in found] == pytest.approx([s for _, s in expected], 1e-5, 3e-4)
