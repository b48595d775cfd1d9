"""Hot starts on disk: round trips, and files that cannot be trusted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from edgedec import _tree, hot_start
from edgedec.errors import StateError, WriteError
from edgedec.mapped import Tensor, layout
from edgedec.written import Contexts

from .both import arrays

VOCAB = 50
NONE = np.zeros(0, np.int32)


def learned() -> tuple[_tree.Successors, Contexts]:
    """A table, and what a hot start holds of it."""
    table = _tree.Successors(1, 2, 64)
    random = np.random.default_rng(0)
    text = [1]
    for _ in range(60):
        ids = random.permutation(VOCAB)[:8].astype(np.int32)[None]
        values = -np.sort(-random.normal(0, 2, (1, 8)).astype(np.float32))
        table.learn(text, NONE, NONE, ids, values, 1.0)
        text.append(int(random.integers(0, VOCAB)))
    keys, ids, weights = table.dump()
    shape = (-1, _tree.WIDTH)
    return table, Contexts(
        np.frombuffer(keys, np.uint64),
        np.frombuffer(ids, np.int32).reshape(shape),
        np.frombuffer(weights, np.float32).reshape(shape),
        2,
    )


def test_what_is_read_guesses_as_what_was_written(tmp_path: Path) -> None:
    table, contexts = learned()
    path = tmp_path / "deep" / "hot.safetensors"
    hot_start.write(path, contexts, VOCAB)
    again = _tree.Successors(1, 2, 64)
    hot_start.read(path, again, VOCAB)
    assert len(again) == len(table)
    for token in range(VOCAB):
        one, other = arrays(6), arrays(6)
        count = table.grow([token], 6, 1, 0.0, 0, 0, *one)
        kept = again.grow([token], 6, 1, 0.0, 0, 0, *other)
        # Shares are kept in 8 bit, so that tiny ones vanish.
        before = dict(zip(one[0][:count].tolist(), one[2][:count].tolist(), strict=True))
        after = dict(zip(other[0][:kept].tolist(), other[2][:kept].tolist(), strict=True))
        assert {t for t, p in before.items() if p > 0.01} <= after.keys()
        assert all(abs(p - before[t]) < 0.01 for t, p in after.items())
    assert [each.name for each in path.parent.iterdir()] == ["hot.safetensors"]


SAYING = {
    "vocabulary": {"vocab": "49"},
    "layout": {"layout": "1"},
    "length": {"longest": "many"},
    "count": {"contexts": "9" * 40},
}
"""What a file says of itself that is not so."""


def damaged(path: Path, how: str) -> None:
    parts = load_file(path)
    with safe_open(path, "numpy") as file:
        about = file.metadata() | SAYING.get(how, {})
    if how == "id":
        parts["ids"][0, 0] = VOCAB
    elif how == "missing":
        del parts["weights"]
    elif how == "type":
        parts["weights"] = parts["weights"].astype(np.float32)
    elif how == "shape":
        parts["ids"] = parts["ids"][:, :4].copy()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:100])
        return
    elif how == "text":
        path.write_text("not a file of tensors")
        return
    kinds = {"uint8": "U8", "uint16": "U16", "uint64": "U64", "float32": "F32"}
    tensors = {n: Tensor(kinds[str(part.dtype)], part.shape) for n, part in parts.items()}
    data = b"".join(part.tobytes() for part in parts.values())
    path.write_bytes(layout(tensors, about)[0] + data)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("id", "another vocabulary"), ("missing", "'weights' is missing"),
        ("type", "weights is 'F32'"), ("shape", "ids is 'U16'"),
        ("vocabulary", "for a vocabulary of 49"), ("layout", "layout 1"),
        ("length", "does not say its longest"), ("count", "does not say its contexts"),
        ("truncated", "cut off"), ("text", "no safetensors file"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_and_nothing_is_taken_over(
    tmp_path: Path, how: str, message: str
) -> None:
    path = tmp_path / "hot.safetensors"
    hot_start.write(path, learned()[1], VOCAB)
    damaged(path, how)
    table = _tree.Successors(1, 2, 64)
    with pytest.raises(StateError, match=message):
        hot_start.read(path, table, VOCAB)
    assert len(table) == 0


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"cannot be mapped: .*No such file"):
        hot_start.read(tmp_path / "none", _tree.Successors(1, 2, 4), VOCAB)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        hot_start.write(tmp_path / "file" / "hot", learned()[1], VOCAB)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(hot_start.LARGEST + 1)
    with pytest.raises(StateError, match="larger than 64 MiB"):
        hot_start.read(path, _tree.Successors(1, 2, 4), VOCAB)
