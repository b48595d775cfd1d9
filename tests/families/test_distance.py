"""Buckets of distances: a plain formula, and transformers' own for every distance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgedec.architecture import BiasTable
from edgedec.distance import buckets

TABLES = [
    BiasTable(buckets=count, max_distance=longest, bidirectional=both)
    for count, longest in ((32, 128), (8, 20), (12, 37), (64, 256))
    for both in (True, False)
]


def plain(table: BiasTable, distance: int) -> float:
    """The bucket before it is rounded down, by the formula of the paper's code."""
    count = table.buckets // 2 if table.bidirectional else table.buckets
    offset = count if table.bidirectional and distance > 0 else 0
    far = abs(distance) if table.bidirectional else max(-distance, 0)
    if far < count // 2:
        return offset + far
    share = math.log(far / (count // 2)) / math.log(table.max_distance / (count // 2))
    return offset + min(count // 2 + share * (count - count // 2), count - 1)


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_buckets_are_the_plain_formula(table: BiasTable) -> None:
    distances = range(-400, 401)
    found = buckets(table, distances)
    for distance, bucket in zip(distances, found, strict=True):
        exact = plain(table, distance)
        near_whole = abs(exact - round(exact)) < 1e-5
        assert bucket in ({math.floor(exact), round(exact)} if near_whole else {math.floor(exact)})
    assert found.dtype == np.int32


def test_the_shape_is_kept_and_directions_differ() -> None:
    both = BiasTable(buckets=32, max_distance=128, bidirectional=True)
    past = BiasTable(buckets=32, max_distance=128, bidirectional=False)
    grid = np.arange(4)[None, :] - np.arange(4)[:, None]
    assert buckets(both, grid).tolist()[1] == [1, 0, 17, 18]
    assert buckets(past, grid).tolist()[2] == [2, 1, 0, 0]
    assert buckets(past, -10_000) == 31


@pytest.mark.full
@pytest.mark.parametrize("table", TABLES, ids=str)
def test_buckets_are_those_of_transformers(table: BiasTable) -> None:
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-3000, 3001)
    theirs = T5Attention._relative_position_bucket(
        distances, table.bidirectional, table.buckets, table.max_distance
    )
    np.testing.assert_array_equal(buckets(table, distances.numpy()), theirs.numpy())
