"""Angles: against numbers from transformers 5.23, live against it, and against properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec.architecture import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    Scaling,
    YarnScaling,
)
from edgedec.errors import UnsupportedError
from edgedec.rope import cos_sin, inverse_frequencies, rotated

SHORT = (1.0, 1.05, 1.1, 1.2, 1.35, 1.5, 1.7, 2.0)

CASES: dict[str, Scaling | None] = {
    "default": None,
    "linear": LinearScaling(factor=4.0),
    "llama3": Llama3Scaling(
        factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=64
    ),
    "yarn": YarnScaling(
        factor=4.0, beta_fast=32.0, beta_slow=1.0, original_context=64,
        magnitude=0.1 * math.log(4.0) + 1,
    ),
    "yarn-exact": YarnScaling(
        factor=4.0, beta_fast=16.0, beta_slow=0.5, original_context=64, magnitude=1.0,
        truncate=False,
    ),
    "longrope": LongRopeScaling(
        factors=SHORT, magnitude=math.sqrt(1 + math.log(4.0) / math.log(64))
    ),
}  # fmt: skip

# transformers' rope_parameters for the same cases, and what its float32 code makes of them.
ORIGINAL = {"original_max_position_embeddings": 64}
THEIRS = {
    "default": {},
    "linear": {"factor": 4.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL},
    "yarn": {"factor": 4.0, **ORIGINAL},
    "yarn-exact": {"factor": 4.0, "beta_fast": 16.0, "beta_slow": 0.5, "attention_factor": 1.0,
                   "truncate": False, **ORIGINAL},
    "longrope": {"factor": 4.0, "short_factor": list(SHORT), "long_factor": list(SHORT),
                 **ORIGINAL},
}  # fmt: skip
KNOWN = {
    "default": [1, 0.45986328, 0.21147424, 0.097249247, 0.044721361,
        0.020565713, 0.0094574159, 0.0043491186],
    "linear": [0.25, 0.11496582, 0.05286856, 0.024312312, 0.01118034,
        0.0051414282, 0.002364354, 0.0010872796],
    "llama3": [1, 0.45986328, 0.097616628, 0.012156156, 0.0055901702,
        0.0025707141, 0.001182177, 0.00054363982],
    "yarn": [1, 0.34489745, 0.10573712, 0.024312312, 0.01118034,
        0.0051414282, 0.002364354, 0.0010872796],
    "yarn-exact": [1, 0.37097421, 0.12972058, 0.040855981, 0.01118034,
        0.0051414282, 0.002364354, 0.0010872796],
    "longrope": [1, 0.43796504, 0.19224931, 0.081041031, 0.033126932,
        0.013710475, 0.0055631856, 0.0021745593],
}  # fmt: skip


def rope(name: str) -> Rope:
    return Rope(theta=500.0, scaling=CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_frequencies_are_those_of_transformers(name: str) -> None:
    frequencies, _ = inverse_frequencies(rope(name), 16)
    np.testing.assert_allclose(frequencies, KNOWN[name], rtol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_frequencies_live(name: str) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind = name.partition("-")[0]
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=4, max_position_embeddings=256,
        rope_parameters={"rope_type": kind, "rope_theta": 500.0, **THEIRS[name]},
    )  # fmt: skip
    frequencies, magnitude = inverse_frequencies(rope(name), 16)
    if kind == "default":
        expected, factor = 500.0 ** -(np.arange(0, 16, 2) / 16), 1.0
    else:
        tensor, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
        expected = tensor.numpy()
    np.testing.assert_allclose(frequencies, expected, rtol=1e-6)
    assert magnitude == pytest.approx(factor, rel=1e-9)


def test_cos_and_sin_carry_the_magnitude() -> None:
    cos, sin = cos_sin(rope("yarn"), 16, [0, 5, 1000])
    frequencies, magnitude = inverse_frequencies(rope("yarn"), 16)
    assert cos.dtype == sin.dtype == np.float32
    assert cos.shape == sin.shape == (3, 8)
    np.testing.assert_allclose(cos[0], magnitude, rtol=1e-6)
    np.testing.assert_allclose(sin[1], magnitude * np.sin(5 * frequencies), atol=1e-6)
    np.testing.assert_allclose(cos**2 + sin**2, magnitude**2, rtol=1e-5)


def test_only_a_fraction_is_turned() -> None:
    partial = Rope(theta=500.0, fraction=0.25)
    assert rotated(partial, 16) == 4
    assert cos_sin(partial, 16, [3])[0].shape == (1, 2)


@pytest.mark.parametrize(("fraction", "head_dim"), [(0.3, 10), (1.0, 7), (0.01, 64)])
def test_pairs_need_an_even_number(fraction: float, head_dim: int) -> None:
    with pytest.raises(UnsupportedError, match="even"):
        rotated(Rope(theta=500.0, fraction=fraction), head_dim)


def test_longrope_needs_a_factor_per_pair() -> None:
    with pytest.raises(UnsupportedError, match="3 factors for 8"):
        scaling = LongRopeScaling(factors=(1.0, 2.0, 3.0), magnitude=1.0)
        inverse_frequencies(Rope(theta=500.0, scaling=scaling), 16)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(CASES)),
    st.integers(0, 5000),
    st.integers(0, 5000),
    st.integers(0, 5000),
)
def test_scores_depend_on_the_distance_only(name: str, at: int, other: int, shift: int) -> None:
    """The property that rotary positions are made for: q(m).k(n) = f(m - n)."""
    cos, sin = cos_sin(rope(name), 16, [at, other, at + shift, other + shift])
    turn = cos + 1j * sin
    q, k = np.exp(0.3j * np.arange(8)), np.exp(-0.7j * np.arange(8))
    here = np.sum(q * turn[0] * np.conj(k * turn[1])).real
    there = np.sum(q * turn[2] * np.conj(k * turn[3])).real
    assert here == pytest.approx(there, abs=1e-4)
