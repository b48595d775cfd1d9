"""A float32 bundle in the ONNX runtime gives transformers' logits, for every golden checkpoint.

`make test-full` asks transformers itself, for models that it made and saved.
"""

from __future__ import annotations

import json
from copy import deepcopy
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
    words = {f"w{i}": i for i in range(config["vocab_size"])}
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


def test_logits_are_those_of_transformers(
    golden: Any, checkpoint_folder: Path, tmp_path: Path
) -> None:
    context = golden.recipe.context
    check(golden, bundle_of(checkpoint_folder, tmp_path / "bundle", context=context))


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2", "gpt_neox", "phi3-long"])
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
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    tiny = deepcopy(rooms.load("edgedec.models", family).TINY)
    config = AutoConfig.for_model(**tiny, initializer_range=0.15)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    model.save_pretrained(tmp_path / "model", max_shard_size="40KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    theirs = ask(model, torch.randint(0, config.vocab_size, (103,)))

    saved = json.loads((tmp_path / "model" / "config.json").read_text())
    architecture, sources = describe(saved)
    weights = Weights(Checkpoint.open(tmp_path / "model"), architecture, sources)
    ours = forward(architecture, weights, theirs.tokens)[len(theirs.text) :]
    assert theirs.steps.std() > 0.3
    np.testing.assert_allclose(ours, theirs.steps, atol=TOLERANCE, rtol=0)
    check(theirs, bundle_of(tmp_path / "model", tmp_path / "bundle"))


def ask(model: Any, ids: Any) -> Any:
    """What `check` compares: 64 tokens at once, 32 steps over the cache, 7 nodes."""
    import torch

    parents = (-1, 0, 1, -1, 3, 3, 0)
    tree, tokens = ids[96:].numpy(), ids[:96].numpy()
    with torch.no_grad():
        first = model(ids[None, :64], use_cache=True)
        cache, steps = first.past_key_values, []
        for i in range(64, 96):
            steps.append(model(ids[None, i : i + 1], past_key_values=cache).logits[0, -1].numpy())
        branches = []
        for node in range(7):
            path = [node]
            while parents[path[0]] >= 0:
                path.insert(0, parents[path[0]])
            text = torch.cat([ids[:64], ids[96:][path]])
            branches.append(model(text[None], use_cache=False).logits[0, -1].numpy())
    return SimpleNamespace(
        text=tokens[:64], tokens=tokens, tree=tree, tree_parents=parents, kept=range(64),
        prefill=first.logits[0].numpy(), steps=np.stack(steps), branches=np.stack(branches),
    )  # fmt: skip
