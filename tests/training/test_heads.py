"""Heads in training: they learn what the model does, and their part guesses what they guess."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgedec.contracts import Context  # noqa: E402
from edgedec.errors import InputError  # noqa: E402
from edgedec.export import to_part  # noqa: E402
from edgedec.runtimes import native  # noqa: E402
from edgedec.sampling import Sampling  # noqa: E402
from edgedec.strategies.hydra import Hydra  # noqa: E402
from edgedec.strategies.medusa import Medusa  # noqa: E402
from edgedec.strategies.recurrent import Recurrent  # noqa: E402
from edgedec.training import hydra, medusa, recurrent  # noqa: E402
from edgedec.training.draft_vocabulary import DraftVocabulary, distance, frequent  # noqa: E402
from edgedec.training.frozen import Frozen  # noqa: E402
from edgedec.training.heads import HeadTrainee, SharedHead  # noqa: E402
from edgedec.training.teacher import Teacher, level  # noqa: E402
from edgedec.training.texts import Shuffled, Texts, held_batches  # noqa: E402
from edgedec.training.trainee import Tally  # noqa: E402
from tests.decode.selfdrafted import host_of, model, texts_of, written  # noqa: E402
from tests.native import variants  # noqa: E402

needs_engine = pytest.mark.skipif(not native.built(), reason="the C engine was not built")

KINDS: dict[str, tuple[ModuleType, Any]] = {
    "medusa": (medusa, Medusa), "hydra": (hydra, Hydra), "recurrent": (recurrent, Recurrent)
}  # fmt: skip
SIZE = {"depth": 3, "batch": 4, "length": 40, "most": 64, "covered": 0.9, "rate": 0.01}


@pytest.fixture(scope="module", params=["plain", "mu-like"])
def made(request: pytest.FixtureRequest, tmp_path_factory: Any) -> variants.Model:
    torch.set_num_threads(1)
    return model(tmp_path_factory.mktemp("models"), request.param, 2)


@pytest.fixture(scope="module")
def frozen(made: variants.Model) -> Frozen:
    return Frozen.of(made.bundle)


@pytest.fixture(scope="module")
def texts(made: variants.Model) -> Texts:
    return texts_of(made, 12)


def begun(name: str, frozen: Frozen, texts: Texts, **more: Any) -> HeadTrainee:
    torch.manual_seed(0)
    module, _ = KINDS[name]
    found: HeadTrainee = module.build(frozen, module.Options(**{**SIZE, **more}), texts)
    return found


def measured(trainee: HeadTrainee, texts: Texts) -> Tally:
    found = Tally()
    for batch in held_batches(texts, trainee._options):
        found = found.plus(trainee.acceptance(batch))
    return found


def learned(trainee: HeadTrainee, texts: Texts, steps: int) -> list[float]:
    """By heart, the texts held out too: what can be learned of a model of random numbers."""
    batches = Shuffled((*texts.trained, *texts.held), trainee._options, 1)
    optimiser = torch.optim.AdamW(trainee.parameters(), lr=trainee._options.rate, weight_decay=0)
    losses = []
    for step in range(steps):
        loss = trainee.loss(batches.batch(step))["loss"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses


# --- the draft vocabulary ------------------------------------------------------------------------


def test_the_most_frequent_ids_are_taken() -> None:
    texts = [[5, 5, 5, 9], np.array([9, 2, 7], np.int32)]
    assert frequent(texts, 12, most=2, covered=0.5).tolist() == [5, 9]
    assert frequent(texts, 12, most=2, covered=0.9).tolist() == [2, 5, 7, 9]
    assert frequent(texts, 12, most=1, covered=0.1, always=(0,)).tolist() == [0, 5]
    assert frequent(texts, 12, most=99).tolist() == list(range(12))
    for wrong, why in (([], "no tokens"), ([[], []], "no tokens"), ([[3, 12]], "outside")):
        with pytest.raises(InputError, match=why):
            frequent(wrong, 12)
    with pytest.raises(InputError, match="outside"):
        frequent([[-1]], 12)


def test_targets_are_the_teachers_probabilities_and_first_choices() -> None:
    ids = np.array([1, 4, 6, 7], np.int32)
    vocabulary, logits = DraftVocabulary(ids, 9), torch.randn(2, 5, 9) * 3
    logits[0, 0, 3] = 50  # nothing that the draft vocabulary has
    for hard in (0.0, 0.3, 1.0):
        found = vocabulary.targets(logits, hard).numpy()
        for place in np.ndindex(2, 5):
            line = logits[place].double().numpy()
            shares = np.exp(line - line.max()) / np.exp(line - line.max()).sum()
            wanted = (1 - hard) * shares + hard * (np.arange(9) == line.argmax())
            np.testing.assert_allclose(found[place], wanted[ids], atol=1e-6)
    assert vocabulary.targets(logits).sum(-1)[0, 0] < 1e-6
    guessed = torch.randn(2, 5, 4)
    assert vocabulary.tokens(guessed).tolist() == ids[guessed.argmax(-1).numpy()].tolist()
    assert vocabulary.rows(torch.arange(9)).tolist() == vocabulary.array().tolist() == ids.tolist()


def test_the_distance_is_a_mean_by_weights() -> None:
    guessed, targets = torch.randn(3, 4), torch.rand(3, 4)
    each = -(targets * guessed.log_softmax(-1)).sum(-1)
    weights = torch.tensor([0.5, 0.0, 2.0])
    expected = (each[0] * 0.5 + each[2] * 2) / 2.5
    assert distance(guessed, targets, weights).item() == pytest.approx(expected.item(), rel=1e-5)


@needs_engine
def test_the_teacher_says_the_same_from_memory(frozen: Frozen, texts: Texts) -> None:
    options = medusa.Options(**SIZE)
    ids = np.arange(0, frozen.vocab, 3, dtype=np.int32)
    vocabulary = DraftVocabulary(ids, frozen.vocab)
    teacher, forgetful = (Teacher(frozen, vocabulary, 0.3, room) for room in (1 << 24, 30_000))
    ran: list[int] = []
    for each in (teacher, forgetful):
        ask = each._ask
        each._ask = lambda text, ask=ask: ran.append(0) or ask(text)  # type: ignore[method-assign]
    batches = list(held_batches(texts, options))
    first = [teacher.says(batch) for batch in batches]
    asked = len(ran)
    assert asked == len(texts.held)
    for batch, said in zip(reversed(batches), reversed(first), strict=True):
        for again in (teacher.says(batch), forgetful.says(batch), forgetful.says(batch)):
            assert all(torch.equal(one, other) for one, other in zip(said, again, strict=True))
    assert len(ran) > 2 * asked  # the forgetful one asked again
    assert 0 <= forgetful._kept._room < 30_000

    batch, said = batches[0], first[0]
    last = frozen.trunk(batch).states[-1]
    start = 0
    for text, length in zip(last, batch.lengths.tolist(), strict=True):
        rows = slice(start, start + length)
        logits = frozen.head(text[:length])
        torch.testing.assert_close(said.states[rows], level(text[:length]), atol=2e-3, rtol=2e-3)
        assert torch.equal(said.best[rows], logits.argmax(-1))
        wanted = vocabulary.targets(logits, 0.3)
        sparse = torch.zeros_like(wanted).scatter_(1, said.places[rows], said.shares[rows])
        torch.testing.assert_close(sparse, wanted, atol=2e-2, rtol=1e-2)
        start += length
    assert start == len(said.best)


# --- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["plain", "gemma", "neox-like", "post", "bart-like"])
def test_the_shared_head_begins_as_the_models_own(base: str, tmp_path: Path) -> None:
    found = Frozen.of(model(tmp_path, base, 2).bundle)
    ids = np.arange(3, 99, 4, dtype=np.int32)
    shared = SharedHead(found, DraftVocabulary(ids, found.vocab))
    x = torch.randn(5, found.dim) * 3
    with torch.no_grad():
        theirs, ours = found.head(x)[:, ids], shared(x)
    if found.architecture.decoder.final_norm is not None:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    else:  # a norm of its own stands where the model has none
        bias = 0 if shared.bias is None else shared.bias.detach()
        size = shared.norm["weight"].detach()
        torch.testing.assert_close(ours - bias, (level(x) * size) @ shared.matrix.detach().T)


@needs_engine
@pytest.mark.parametrize("name", KINDS)
def test_guesses_come_after_the_texts_own_tokens(frozen: Frozen, texts: Texts, name: str) -> None:
    """What depth d is held to, one point after the other."""
    trainee = begun(name, frozen, texts)
    for parameter in trainee.parameters():  # heads that begin as nothing would hide what they read
        parameter.data += 0.1 * torch.randn_like(parameter)
    hits = []
    with torch.no_grad():
        for batch in held_batches(texts, trainee._options):
            trunk = frozen.trunk(batch)
            best = frozen.head(trunk.states[-1]).argmax(-1)
            for line, (length, prompt) in enumerate(zip(batch.lengths, batch.prompts, strict=True)):
                for row in range(int(prompt) - 1, int(length) - 3):
                    state = level(trunk.states[-1][line, row]).half().float()[None]
                    after = batch.tokens[line, row + 1 : row + 4]
                    tokens = [trainee.entering(token)[None] for token in after]
                    guessed = [trainee.vocabulary.tokens(trainee.shared(x))
                               for x in trainee.ahead(state, tokens)]  # fmt: skip
                    hits.append([int(each) == int(best[line, row + 1 + d])
                                 for d, each in enumerate(guessed)])  # fmt: skip
    right = np.cumprod(np.array(hits), axis=1)
    found = measured(trainee, texts)
    assert found.right == tuple(right.sum(0))
    assert found.asked == (len(hits), *right.sum(0)[:-1])


@needs_engine
@pytest.mark.parametrize("name", KINDS)
def test_it_learns_what_the_model_does(frozen: Frozen, texts: Texts, name: str) -> None:
    trainee = begun(name, frozen, texts, most=frozen.vocab)
    before = measured(trainee, texts)
    losses = learned(trainee, texts, 40)
    after = measured(trainee, texts)
    assert np.mean(losses[-4:]) < 0.6 * losses[0]
    assert after.expected > before.expected + 0.3
    assert len(after.shares) == 3 and after.asked[0] > 20


@needs_engine
@pytest.mark.parametrize("name", KINDS)
def test_nothing_of_the_model_is_learned_or_saved(frozen: Frozen, texts: Texts, name: str) -> None:
    before = copy.deepcopy(dict(frozen.weights))
    trainee = begun(name, frozen, texts)
    learned(trainee, texts, 2)
    assert all(torch.equal(before[key], value) for key, value in frozen.weights.items())
    held = sum(value.numel() for value in trainee.state_dict().values())
    assert held == sum(p.numel() for p in trainee.parameters()) + len(trainee.vocabulary)


@needs_engine
@pytest.mark.parametrize("name", KINDS)
def test_texts_too_short_for_its_depth_teach_nothing(
    frozen: Frozen, texts: Texts, name: str
) -> None:
    trainee = begun(name, frozen, texts)
    batch = next(held_batches(texts, trainee._options))
    short = replace(batch, tokens=batch.tokens[:, :3], lengths=batch.lengths.clamp_max(3))
    loss = trainee.loss(short)["loss"]
    assert loss.item() == 0
    loss.backward()
    assert trainee.acceptance(short).asked == (0, 0, 0)


@needs_engine
@pytest.mark.parametrize("name", KINDS)
def test_its_part_guesses_what_it_learned(
    made: variants.Model, frozen: Frozen, texts: Texts, name: str, tmp_path: Path
) -> None:
    """Through the file and the C engine: the same logits, but for eight bits, and good guesses."""
    trainee = begun(name, frozen, texts, most=280)
    learned(trainee, texts, 40)
    path = tmp_path / f"{name}.safetensors"
    to_part.write(path, trainee.part(made.bundle.hash), made.architecture)
    part = native.open_part(path, made.bundle, None, 1)
    assert part.ids.tolist() == trainee.vocabulary.array().tolist()

    text = texts.held[0].tokens.tolist()
    batch = next(held_batches(texts, trainee._options))
    last = made.architecture.layers
    with torch.no_grad():
        states = frozen.trunk(batch).states[-1]
        row = int(batch.prompts[0]) + 2
        ids = batch.tokens[0, : row + 2].tolist()
        follow = batch.tokens[0, row + 1 : row + 4]
        x = list(trainee.ahead(level(states[0, row])[None],
                               [trainee.entering(token)[None] for token in follow]))  # fmt: skip
        wanted = torch.cat([trainee.shared(each) for each in x]).numpy()
    _, strategy = KINDS[name]
    engine = made.open()
    host = host_of(engine, engine.session(), made.architecture, part)
    drafter = strategy().open(host)
    drafter.read(row, {last: states[0, row : row + 1].numpy()})
    tree = drafter.propose(Context(ids, 2, 0), 30)
    first = int(part.ids[wanted[0].argmax()])
    assert tree.tokens[0] == first
    ours = dict(zip(*(each[0].tolist() for each in part.likely(x[0].numpy(), 8)), strict=True))
    for token, logit in ours.items():
        place = int(np.searchsorted(part.ids, token))
        assert logit == pytest.approx(wanted[0, place], abs=0.05 * float(np.abs(wanted[0]).max()))

    prompt = text[: texts.held[0].prompt]
    plain, _ = written(made, None, prompt, Sampling(), most=24)
    drafted, tally = written(made, strategy(), prompt, Sampling(), part, most=24)
    assert drafted == plain
    assert tally.drawn / tally.passes > 1.5
