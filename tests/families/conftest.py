"""Golden checkpoints: rebuilt from a seed and the tensor shapes, without torch.

`golden/<name>.npz` holds a config, the shapes of the tensors that transformers saves for it, token
ids, a source for the encoder if there is one, and transformers' logits; `write_golden.py` writes
them. The weights themselves come from
numpy's RandomState, whose numbers are frozen for good.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "golden"
PREFILL, STEPS = 64, 32
KEPT = sorted({*range(0, PREFILL, 4), *range(PREFILL - 8, PREFILL)})
"""Rows of the prefill whose logits are kept."""
TREE = (-1, 0, 0, 1, 1, 2, -1)
"""The parents of the seven nodes; -1 is the last row of the prefill."""
PADDED = 8
"""Tokens that the decoder is given for each source of a padded batch."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """A checkpoint: `tensors` maps the names on disk to shapes; `copies` are equal to others."""

    config: dict[str, Any]
    tensors: dict[str, list[int]]
    dtype: str = "F32"
    shards: int = 1
    context: int | None = None
    copies: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config, indent=1))
        random = np.random.RandomState(7)
        values = {n: _values(random, n, self.tensors[n], self.config) for n in sorted(self.tensors)}
        values |= {name: values[other] for name, other in self.copies.items()}
        if self.shards == 1:
            write_safetensors(folder / "model.safetensors", values, self.dtype)
            return folder
        places = {}
        for shard in range(self.shards):
            file = f"model-{shard + 1:05}-of-{self.shards:05}.safetensors"
            part = dict(list(values.items())[shard :: self.shards])
            write_safetensors(folder / file, part, self.dtype)
            places |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder


@dataclass(frozen=True)
class Golden:
    """What transformers computes from a recipe's checkpoint, opened from float32.

    With an encoder all is said about `source` [s] or [frames, F]; `padded` [B, PADDED, V] are the
    logits of the first tokens where its beginnings of `lengths` were a padded and masked batch.
    """

    name: str
    recipe: Recipe
    tokens: NDArray[np.int64]
    tree: NDArray[np.int64]
    prefill: Floats
    steps: Floats
    branches: Floats
    source: NDArray[Any] | None = None
    lengths: tuple[int, ...] = ()
    padded: Floats | tuple[()] = ()

    kept = KEPT
    tree_parents = TREE

    @property
    def text(self) -> NDArray[np.int64]:
        """The prefill's tokens; what follows in `tokens` are the single steps."""
        return self.tokens[:PREFILL]

    @property
    def sources(self) -> list[NDArray[Any]]:
        """The beginnings of the source that were run as a batch."""
        return [] if self.source is None else [self.source[:length] for length in self.lengths]

    def save(self) -> None:
        arrays = {"tokens": self.tokens.astype(np.int16), "tree": self.tree.astype(np.int16)}
        if self.source is not None:
            arrays |= {"source": self.source, "padded": np.asarray(self.padded)}
            arrays["lengths"] = np.array(self.lengths)
        np.savez_compressed(
            FOLDER / f"{self.name}.npz",
            recipe=np.array(json.dumps(asdict(self.recipe))),
            prefill=self.prefill,
            steps=self.steps,
            branches=self.branches,
            **arrays,
        )

    @classmethod
    def read(cls, name: str) -> Golden:
        with np.load(FOLDER / f"{name}.npz") as file:
            recipe = Recipe(**json.loads(str(file["recipe"])))
            tokens, tree = file["tokens"].astype(np.int64), file["tree"].astype(np.int64)
            more = {}
            if "source" in file:
                more = {key: file[key] for key in ("source", "padded")}
                more["lengths"] = tuple(int(n) for n in file["lengths"])
            logits = (file[key] for key in ("prefill", "steps", "branches"))
            return cls(name, recipe, tokens, tree, *logits, **more)


def write_safetensors(path: Path, tensors: Mapping[str, Floats], dtype: str = "F32") -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in tensors.items():
        raw = _encode(values, dtype)
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.npz"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden" in metafunc.fixturenames:
        metafunc.parametrize("golden", names(), indirect=True)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden.read(request.param)


@pytest.fixture
def read_golden() -> Callable[[str], Golden]:
    return Golden.read


@pytest.fixture
def checkpoint_folder(golden: Golden, tmp_path: Path) -> Path:
    return golden.recipe.write(tmp_path / golden.name)


def _encode(values: Floats, dtype: str) -> bytes:
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    if dtype == "BF16":
        bits = values.astype("<f4").view("<u4")
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return values.astype("<f4").tobytes()


def _values(
    random: np.random.RandomState, name: str, shape: list[int], config: Mapping[str, Any]
) -> Floats:
    """Logits spread over several units, norms that are not all ones, biases that matter.

    Gemma's norms multiply by 1 + weight. Larger matrices would only amplify rounding errors.
    """
    noise = random.standard_normal(shape)
    if len(shape) == 1:
        norm = any(part in name for part in ("norm", "ln")) and name.endswith("weight")
        centre = 1 if norm and config["model_type"] not in ("gemma3_text", "t5gemma") else 0
        return (centre + 0.2 * noise).astype(np.float32)
    if name == "final_logits_bias":
        return noise.astype(np.float32)
    table = any(part in name for part in ("embed", "wte", "wpe", "lm_head", "shared", "proj_out"))
    inner = config.get("decoder", config)
    width = next(inner[key] for key in ("n_embd", "d_model", "hidden_size") if key in inner)
    scale = 3 / math.sqrt(width) if table else 1 / math.sqrt(math.prod(shape[1:]))
    if name.endswith("Attention.q.weight"):
        scale /= math.sqrt(config["d_kv"])  # T5 has no scale on its scores
    return (scale * noise).astype(np.float32)
