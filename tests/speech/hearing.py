"""Models of speech for tests: a text of plain words, scripted ears, and tiny random checkpoints."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgedec.manifest import Decoding, Speech
from edgedec.models import describe, moonshine, whisper
from edgedec.sampling import Sampler, Sampling, Terms
from edgedec.speech.transcribe import Voice

END, START, NO_TIMES, FIRST = 50, 51, 60, 61
SPEECH = Speech(
    languages={"en": 52, "de": 53, "fr": 54},
    tasks={"translate": 55, "transcribe": 56},
    previous=58,
    no_speech=59,
    no_timestamps=NO_TIMES,
    first_timestamp=FIRST,
    latest_first=50,
)
DECODING = Decoding(suppressed=(3, 4, 51, 55, 56, 57, 58, 59), suppressed_first=(7, 50))
GENERATION: dict[str, Any] = {
    "is_multilingual": True,
    "lang_to_id": {f"<|{name}|>": token for name, token in SPEECH.languages.items()},
    "task_to_id": SPEECH.tasks,
    "no_timestamps_token_id": NO_TIMES,
    "prev_sot_token_id": 58,
    "max_initial_timestamp_index": 50,
    "suppress_tokens": list(DECODING.suppressed),
    "begin_suppress_tokens": list(DECODING.suppressed_first),
    "eos_token_id": END,
    "pad_token_id": END,
    "bos_token_id": END,
    "decoder_start_token_id": START,
}

# Windows of two seconds, and a timestamp every 20 ms of them.
WHISPER = {
    **whisper.TINY,
    "vocab_size": FIRST + 101,
    "max_source_positions": 100,
    "max_target_positions": 40,
    "decoder_start_token_id": START,
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": END,
}
MOONSHINE = {**moonshine.TINY, "max_position_embeddings": 20}


class Words:
    """A text in which id 5 is " w5"; ids of END and above are not shown."""

    def decode(self, ids: Sequence[int], *, after: Sequence[int] = ()) -> str:
        return "".join(self.push(each) for each in ids)

    def stream(self, *, after: Sequence[int] = ()) -> Words:
        return self

    def push(self, token: int) -> str:
        return f" w{token}" if token < END else ""


@dataclass
class Scripted:
    """An ear that writes what it is told to, one line a window, and notes what it is asked."""

    lines: Iterable[Sequence[int]]
    heard: list[np.ndarray] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)
    rules: list[Sequence[Any]] = field(default_factory=list)
    closed: int = 0

    def __post_init__(self) -> None:
        self._lines = iter(self.lines)

    def encode(self, features: np.ndarray) -> None:
        self.heard.append(np.array(features))

    def run(
        self, prompt: Sequence[int], rules: Sequence[Any], limit: int
    ) -> Generator[int, None, None]:
        self.prompts.append(list(prompt))
        self.rules.append(rules)
        self.limits.append(limit)
        try:
            yield from next(self._lines)[:limit]
        finally:
            self.closed += 1


class Reference:
    """An ear that the reference implementation lends to a checkpoint; greedy."""

    def __init__(self, folder: Path, config: dict[str, Any], decoding: Decoding) -> None:
        from edgedec.export.checkpoint import Checkpoint, Weights

        self.architecture, sources = describe(config)
        self._weights = Weights(Checkpoint.open(folder), self.architecture, sources)
        self._decoding = decoding

    def encode(self, features: np.ndarray) -> None:
        self._source = features

    def run(
        self, prompt: Sequence[int], rules: Sequence[Any], limit: int
    ) -> Generator[int, None, None]:
        from edgedec.export.reference import forward

        spec = self.architecture
        limit = min(limit, spec.limits.context - len(prompt))
        terms = Terms(spec.vocab, frozenset(spec.tokens.eos), limit, self._decoding)
        sampler = Sampler.build(Sampling(), None, terms, rules)
        state, tokens = sampler.start(prompt), list(prompt)
        for index in range(limit):
            logits = forward(spec, self._weights, tokens, source=self._source)[-1]
            token = sampler.draw(state, logits, index)
            state = sampler.advance(state, token, logits)
            if token in spec.tokens.eos:
                return
            tokens.append(token)
            yield token


def voice(config: dict[str, Any] | None = None, speech: Speech | None = SPEECH) -> Voice:
    """What is known of a tiny model (None: the Whisper)."""
    architecture, _ = describe(config or WHISPER)
    return Voice(architecture, Words(), speech)  # type: ignore[arg-type]


def random_model(config: dict[str, Any], seed: int) -> Any:
    """transformers' model with random weights whose logits spread over several units."""
    import torch
    from transformers import AutoConfig, AutoModelForSpeechSeq2Seq

    torch.manual_seed(seed)
    model = AutoModelForSpeechSeq2Seq.from_config(
        AutoConfig.for_model(**config), attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.2 if weight.ndim == 1 else 1 / np.sqrt(weight[0].numel())
            spread = 3 * spread if "embed_tokens" in name or "encoder_attn.v" in name else spread
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            weight.copy_(centre + spread * torch.randn(weight.shape))
    return model


def write_checkpoint(folder: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """The same as transformers would save it, without transformers, and with a tokenizer."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    special = {1: "<s>", 2: "</s>"}
    if config["model_type"] == "whisper":
        (folder / "generation_config.json").write_text(json.dumps(GENERATION))
        special = {END: "<|endoftext|>", START: "<|startoftranscript|>", NO_TIMES: "<|notimes|>"}
    _, sources = describe(config)
    random, weights = np.random.RandomState(seed), {}
    for source in sources.values():
        if source.name in weights:
            continue
        spread = 0.2 if len(source.shape) == 1 else 1 / np.sqrt(np.prod(source.shape[1:]))
        spread *= 3 if "embed_tokens" in source.name or "encoder_attn.v" in source.name else 1
        centre = 1.0 if "norm" in source.name and source.name.endswith("weight") else 0.0
        numbers = centre + spread * random.standard_normal(source.shape)
        weights[source.name] = numbers.astype(np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write_tokenizer(folder / "tokenizer.json", config["vocab_size"], special)
    return folder


def _write_tokenizer(path: Path, vocab: int, special: dict[int, str]) -> None:
    """Id 5 is " w5", as in `Words`; the others have names that are not shown."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    names = {f"Ġw{token}" if token < END else f"<|{token}|>": token for token in range(vocab)}
    names |= {name: token for token, name in special.items()}
    kept = {name: token for name, token in names.items() if special.get(token, name) == name}
    tokenizer = Tokenizer(models.BPE(vocab=kept, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    hidden = [AddedToken(n, special=True) for n, t in kept.items() if t >= END or t in special]
    tokenizer.add_special_tokens(hidden)
    tokenizer.save(str(path))
