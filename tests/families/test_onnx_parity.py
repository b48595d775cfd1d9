"""A float32 bundle in the ONNX runtime gives transformers' logits, for every golden checkpoint.

`make test-full` asks transformers itself, for models that it made and saved.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from edgedec import rooms
from edgedec.bundle import open_bundle
from edgedec.contracts import TRUNK, Rows
from edgedec.devices import EngineOptions
from edgedec.export.checkpoint import Checkpoint, Weights
from edgedec.export.pipeline import ExportOptions, export_model
from edgedec.export.reference import forward
from edgedec.export.source import SourceOptions
from edgedec.models import describe, families
from edgedec.runtimes import onnx

TOLERANCE = 1e-4


def bundle_of(
    folder: Path, target: Path, cuts: tuple[int, ...] = (), context: int | None = None
) -> Any:
    """The checkpoint as a bundle; a tokenizer is needed for form's sake."""
    config = json.loads((folder / "config.json").read_text())
    inner = config.get("decoder", config)
    count = inner.get("decoder_vocab_size") or inner["vocab_size"]
    words = {f"w{i}": i for i in range(count)}
    Tokenizer(WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    source = SourceOptions(context=context)
    export_model(
        str(folder), target, ExportOptions(kind="fp32", cuts=cuts, verify=False, source=source)
    )
    return onnx.open(open_bundle(target), EngineOptions(threads=1))


def rows(tokens: Any, parents: Any) -> Rows:
    return Rows(np.asarray(tokens, np.int32), np.asarray(parents, np.int32))


def logits(result: Any, chosen: Any) -> Any:
    return np.stack([result.logits(int(i)) for i in chosen])


def check(golden: Any, engine: Any) -> None:
    """A prefill, a tree below it branch by branch, then single steps with given tokens."""
    count = len(golden.text)
    session = engine.session()
    if golden.source is not None:
        session.encode(given(golden.source))
    prefill = session.step(rows(golden.text, range(-1, count - 1)))
    found = logits(prefill, golden.kept)
    np.testing.assert_allclose(found, golden.prefill, atol=TOLERANCE, rtol=0)
    session.keep([count - 1])

    tree = session.step(rows(golden.tree, golden.tree_parents))
    found = logits(tree, range(len(golden.tree)))
    np.testing.assert_allclose(found, golden.branches, atol=TOLERANCE, rtol=0)
    session.keep([TRUNK])

    steps = []
    for token in golden.tokens[count:]:
        steps.append(session.step(rows([token], [TRUNK])).logits(0).copy())
        session.keep([0])
    np.testing.assert_allclose(np.stack(steps), golden.steps, atol=TOLERANCE, rtol=0)

    for source, expected in zip(golden.sources, golden.padded, strict=True):
        session.encode(given(source))
        text = golden.tokens[: len(expected)]
        found = logits(session.step(rows(text, range(-1, len(text) - 1))), range(len(text)))
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def given(source: Any) -> Any:
    return source.astype(np.float32 if source.ndim == 2 else np.int32)


def test_logits_are_those_of_transformers(
    golden: Any, checkpoint_folder: Path, tmp_path: Path
) -> None:
    context = golden.recipe.context
    check(golden, bundle_of(checkpoint_folder, tmp_path / "bundle", context=context))


@pytest.mark.parametrize(
    "name", ["llama", "gemma3_text", "gpt2", "gpt_neox", "phi3-long", "mt5", "t5gemma"]
)
def test_cuts_change_nothing(name: str, read_golden: Any, tmp_path: Path) -> None:
    golden = read_golden(name)
    folder = golden.recipe.write(tmp_path / name)
    check(golden, bundle_of(folder, tmp_path / "bundle", (1, 2), golden.recipe.context))


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", families())
def test_logits_are_those_of_transformers_live(family: str, tmp_path: Path) -> None:
    """A model that transformers makes and saves, in pieces; its own cache takes the steps."""
    import torch

    from . import asking

    torch.manual_seed(3)
    tiny = rooms.load("edgedec.models", family).TINY
    plain = not (tiny.get("is_encoder_decoder") or family == "mu")
    model = asking.make(tiny, **({"initializer_range": 0.15} if plain else {}))
    if not plain:
        livelier(model)
    folder = tmp_path / "model"
    asking.save(model, folder, **({} if family == "mu" else {"max_shard_size": "40KB"}))
    if family == "mu":
        (folder / "config.json").write_text(json.dumps(tiny))
    else:
        assert len(list(folder.glob("*.safetensors"))) > 1
    theirs = ask(model) if plain else ask_pair(model, tiny)

    saved = json.loads((folder / "config.json").read_text())
    architecture, sources = describe(saved)
    weights = Weights(Checkpoint.open(folder), architecture, sources)
    ours = forward(architecture, weights, theirs.tokens, source=theirs.source)
    assert theirs.steps.std() > 0.3
    np.testing.assert_allclose(ours[len(theirs.text) :], theirs.steps, atol=TOLERANCE, rtol=0)
    for source, expected in zip(theirs.sources, theirs.padded, strict=True):
        ours = forward(architecture, weights, theirs.tokens[: len(expected)], source=source)
        np.testing.assert_allclose(ours, expected, atol=TOLERANCE, rtol=0)
    check(theirs, bundle_of(folder, tmp_path / "bundle"))


def livelier(model: Any) -> None:
    """Numbers as large as a trained model's; most families begin with tiny ones."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            norm = any(part in name for part in ("norm", "ln")) and name.endswith("weight")
            spread = 0.2 if weight.ndim == 1 else weight[0].numel() ** -0.5
            if weight.ndim == 2 and any(part in name for part in ("embed", "shared", "wte")):
                spread *= 3
            if name.endswith("Attention.q.weight"):
                spread /= 4  # T5 has no scale on its scores
            centre = 1.0 if norm and "T5Gemma" not in type(model).__name__ else 0.0
            if weight.requires_grad:
                weight.copy_(centre + spread * torch.randn(weight.shape))


PARENTS = (-1, 0, 1, -1, 3, 3, 0)


def path(node: int) -> list[int]:
    found = [node]
    while PARENTS[found[0]] >= 0:
        found.insert(0, PARENTS[found[0]])
    return found


def ask(model: Any) -> Any:
    """What `check` compares: 64 tokens at once, 32 steps over the cache, 7 nodes."""
    import torch

    ids = torch.randint(0, model.config.vocab_size, (103,))
    with torch.no_grad():
        first = model(ids[None, :64], use_cache=True)
        cache, steps = first.past_key_values, []
        for i in range(64, 96):
            steps.append(model(ids[None, i : i + 1], past_key_values=cache).logits[0, -1].numpy())
        branches = []
        for node in range(7):
            text = torch.cat([ids[:64], ids[96:][path(node)]])
            branches.append(model(text[None], use_cache=False).logits[0, -1].numpy())
    return SimpleNamespace(
        text=ids[:64].numpy(), tokens=ids[:96].numpy(), tree=ids[96:].numpy(),
        tree_parents=PARENTS, kept=range(64), prefill=first.logits[0].numpy(),
        steps=np.stack(steps), branches=np.stack(branches), source=None, sources=[], padded=[],
    )  # fmt: skip


def ask_pair(model: Any, config: dict[str, Any]) -> Any:
    """The same with a source, and three sources as one padded and masked batch."""
    import torch

    from . import asking

    writes, reads = config.get("decoder", config), config.get("encoder", config)
    ids = torch.randint(0, writes.get("decoder_vocab_size", writes["vocab_size"]), (103,)).numpy()
    start = config.get("decoder_start_token_id")
    ids[0] = config["bos_token_id"] if start is None else start
    family, sounds = config["model_type"], {"whisper": (120, 1), "moonshine": (2500, 3)}
    if family in sounds:
        longest, count = sounds[family]
        sound = torch.randn(longest, config.get("num_mel_bins", 1)).numpy()
        sources = [sound[: longest - 500 * i] for i in range(count)]
        padded = np.stack([asking.ask(model, ids[:8], [source])[0] for source in sources])
    else:
        sources = [torch.randint(0, reads["vocab_size"], (n,)).numpy() for n in (60, 2, 17)]
        padded = asking.ask(model, ids[:8], sources)
    logits = asking.ask(model, ids[:96], sources[:1])[0]
    branches = [asking.ask(model, np.append(ids[:64], ids[96:][path(node)]), sources[:1])[0, -1]
                for node in range(7)]  # fmt: skip
    return SimpleNamespace(
        text=ids[:64], tokens=ids[:96], tree=ids[96:], tree_parents=PARENTS, kept=range(64),
        prefill=logits[:64], steps=logits[64:], branches=np.stack(branches),
        source=sources[0], sources=sources, padded=padded,
    )  # fmt: skip
