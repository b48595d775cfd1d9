"""The front end against plain loops, and against torch."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgedec.architecture import Conv, Frontend
from edgedec.errors import InputError, UsageError
from edgedec.frontend import rows
from edgedec.gelu import erf, gelu

WHISPER = Frontend(
    kind="mel",
    features=8,
    convs=(
        Conv(channels=12, kernel=3, padding=1),
        Conv(channels=12, kernel=3, stride=2, padding=1),
    ),
    length=40,
)
MOONSHINE = Frontend(
    kind="waveform",
    features=1,
    convs=(
        Conv(channels=6, kernel=127, stride=64, bias=False, activation="tanh", group_norm=1e-5),
        Conv(channels=12, kernel=7, stride=3),
        Conv(channels=6, kernel=3, stride=2),
    ),
)


def make_weights(frontend: Frontend, seed: int = 0) -> dict[str, np.ndarray]:
    random, inputs = np.random.RandomState(seed), frontend.features
    named = {}
    for index, conv in enumerate(frontend.convs):
        shape = conv.channels, inputs, conv.kernel
        named[f"{index}.kernel"] = random.randn(*shape) / math.sqrt(inputs * conv.kernel)
        if conv.bias:
            named[f"{index}.bias"] = random.randn(conv.channels)
        if conv.group_norm is not None:
            named[f"{index}.norm.weight"] = 1 + random.randn(conv.channels)
            named[f"{index}.norm.bias"] = random.randn(conv.channels)
        inputs = conv.channels
    return {name: array.astype(np.float32) for name, array in named.items()}


def plainly(frontend: Frontend, weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The definition: one number at a time, in double precision."""
    for index, conv in enumerate(frontend.convs):
        kernel = weights[f"{index}.kernel"].astype(np.float64)
        edge = np.zeros((conv.padding, x.shape[1]))
        padded = np.concatenate([edge, x, edge])
        out = []
        for start in range(0, len(padded) - conv.kernel + 1, conv.stride):
            window = padded[start : start + conv.kernel]
            out.append([np.sum(window.T * kernel[c]) for c in range(conv.channels)])
        x = np.array(out)
        if conv.bias:
            x = x + weights[f"{index}.bias"]
        if conv.activation == "tanh":
            x = np.tanh(x)
        else:
            x = np.vectorize(lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))))(x)
        if conv.group_norm is not None:
            x = (x - x.mean()) / np.sqrt(x.var() + conv.group_norm)
            x = x * weights[f"{index}.norm.weight"] + weights[f"{index}.norm.bias"]
    return x


def sound(frontend: Frontend, frames: int, seed: int = 1) -> np.ndarray:
    return np.random.RandomState(seed).randn(frames, frontend.features).astype(np.float32)


CASES = [(WHISPER, 40), (MOONSHINE, 895), (MOONSHINE, 5000)]


@pytest.mark.parametrize(("frontend", "frames"), CASES)
def test_it_is_the_definition(frontend: Frontend, frames: int) -> None:
    weights, x = make_weights(frontend), sound(frontend, frames)
    found = rows(frontend, weights, x)
    assert found.dtype == np.float32
    assert found.shape == (frontend.rows(frames), frontend.convs[-1].channels)
    np.testing.assert_allclose(found, plainly(frontend, weights, x), atol=2e-5, rtol=0)


def test_a_convolution_of_many_windows_is_cut_into_parts() -> None:
    frontend = Frontend(kind="mel", features=2, convs=(Conv(channels=3, kernel=4, padding=2),))
    weights, x = make_weights(frontend), sound(frontend, 1500)
    np.testing.assert_allclose(
        rows(frontend, weights, x), plainly(frontend, weights, x), atol=1e-5, rtol=0
    )


def test_the_error_function() -> None:
    x = np.linspace(-6, 6, 4001)
    np.testing.assert_allclose(erf(x), np.vectorize(math.erf)(x), atol=2e-7, rtol=0)
    assert gelu(np.array([0, 30, -30], np.float32)).tolist() == [0, 30, 0]


@pytest.mark.parametrize(
    ("shape", "says"),
    [((40,), "[frames, 8]"), ((40, 7), "[40, 7]"), ((39, 8), "exactly 40"), ((0, 8), "0 frames")],
)
def test_features_of_another_shape(shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(UsageError) as error:
        rows(WHISPER, make_weights(WHISPER), np.zeros(shape, np.float32))
    assert says in str(error.value)


def test_too_short_a_sound() -> None:
    assert MOONSHINE.rows(894) == 0
    with pytest.raises(InputError, match="894 frames: too short"):
        rows(MOONSHINE, make_weights(MOONSHINE), np.zeros((894, 1), np.float32))


@pytest.mark.full
@pytest.mark.parametrize(("frontend", "frames"), [*CASES, (MOONSHINE, 160_000)])
def test_it_is_what_torch_computes(frontend: Frontend, frames: int) -> None:
    import torch
    from torch.nn import functional

    weights, features = make_weights(frontend), sound(frontend, frames)
    x = torch.tensor(features.T)[None]
    for index, conv in enumerate(frontend.convs):
        named = {name: torch.tensor(array) for name, array in weights.items()}
        x = functional.conv1d(
            x, named[f"{index}.kernel"], named.get(f"{index}.bias"), conv.stride, conv.padding
        )
        x = torch.tanh(x) if conv.activation == "tanh" else functional.gelu(x)
        if conv.group_norm is not None:
            scale, shift = named[f"{index}.norm.weight"], named[f"{index}.norm.bias"]
            x = functional.group_norm(x, 1, scale, shift, conv.group_norm)
    np.testing.assert_allclose(rows(frontend, weights, features), x[0].T.numpy(), atol=2e-5, rtol=0)
