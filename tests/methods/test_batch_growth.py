"""Batches that grow as a network shrinks: how far, at which rate, with what is refused, and to the bit when it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import secateur
from secateur import data
from secateur.data import Splits
from secateur.errors import SettingsError
from secateur.methods import PruneTrain, PruneTrainSettings, started_in, train
from secateur.networks import build
from secateur.train import TrainSettings, fit, fixed_bytes, kept_bytes

SETTINGS = TrainSettings(epochs=4, lr=0.1, batch_size=16, schedule="cosine", ghost_batch=16)
EAGER = PruneTrainSettings(penalty_ratio=0.6, threshold=0.1, every=1, rest=1, grow_batch=True)
"""A threshold so high that much goes within few steps."""


@pytest.fixture(scope="module")
def digits() -> Splits:
    return data.load("digits", limit=200)


def fresh() -> torch.nn.Module:
    return build("digits-net", seed=3)


def weights(net: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


@pytest.fixture(scope="module")
def whole(digits: Splits, tmp_path_factory: pytest.TempPathFactory):
    return train(
        fresh(), digits, SETTINGS, out=tmp_path_factory.mktemp("runs") / "whole", seed=5, prunetrain=EAGER
    )


def test_batches_grow_to_what_the_first_step_kept_and_the_rate_with_them(digits: Splits) -> None:
    """A step keeps no more than at first, one on a quarter of a batch more would; the rate is that of the schedule times the growth."""
    net = fresh()
    first = kept_bytes(net, digits.train.inputs[:16])
    session = PruneTrain(net, digits.train.inputs[:1], EAGER, epochs=4)

    found = fit(net, digits.train, digits.validation, SETTINGS, companion=session)

    sizes = [record.batch_size for record in found.history]
    assert sizes == [16, *(one.batch_size for one in session.reconfigurations)]
    assert sizes == sorted(sizes)
    assert 16 < sizes[-1] <= 64
    plain = fit(fresh(), digits.train, digits.validation, SETTINGS)
    steps = [-(-len(digits.train) // size) for size in sizes]
    for record, other, count in zip(found.history, plain.history, steps, strict=True):
        settings = SETTINGS.but(batch_size=record.batch_size)
        expected = secateur.train.learning_rate(
            settings, step=record.epoch * count - 1, steps_per_epoch=count
        )
        assert record.lr == pytest.approx(expected * record.batch_size / 16)
        assert record.epoch == other.epoch
    optimizer = found.optimizer
    memory = session.state()["growth"]["memory"]
    assert memory >= first + fixed_bytes(fresh())
    last = session.reconfigurations[-1].batch_size
    kept = fixed_bytes(net, [optimizer]) + kept_bytes(net, digits.train.inputs[:last])
    more = fixed_bytes(net, [optimizer]) + kept_bytes(net, digits.train.inputs[: last + 4])
    assert kept <= memory
    assert last == 64 or more > memory


def test_without_room_it_is_training_without_growth_bit_by_bit(digits: Splits) -> None:
    """A limit at the first batch."""
    grown, plain = fresh(), fresh()
    still = EAGER.model_copy(update={"batch_limit": 16})
    without = EAGER.model_copy(update={"grow_batch": False})

    one = fit(
        grown,
        digits.train,
        digits.validation,
        SETTINGS,
        companion=PruneTrain(grown, digits.train.inputs[:1], still, epochs=4),
    )
    two = fit(
        plain,
        digits.train,
        digits.validation,
        SETTINGS,
        companion=PruneTrain(plain, digits.train.inputs[:1], without, epochs=4),
    )

    assert torch.equal(weights(grown), weights(plain))
    assert one.history == two.history


@pytest.mark.parametrize("stop", [2, 3])
def test_a_stopped_run_ends_like_an_unbroken_one(whole, digits: Splits, tmp_path: Path, stop: int) -> None:
    """With the same batches, to the bit."""

    def plug(record) -> None:
        if record.epoch == stop:
            raise KeyboardInterrupt

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), digits, SETTINGS, out=run, seed=5, prunetrain=EAGER, on_epoch=plug)
    result = train(started_in(run, fresh), digits, out=run, resume=True)

    assert result.history == whole.history
    assert result.prunetrain == whole.prunetrain
    assert result.file.read_bytes() == whole.file.read_bytes()


def test_a_loop_of_one_s_own_is_told(digits: Splits) -> None:
    """How many examples the next steps have, and by what to multiply the rate."""
    net = fresh()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    session = secateur.prunetrain(
        net, optimizer, digits.train.inputs[:1], epochs=3, batch_size=16, every=1, penalty_ratio=0.6, threshold=0.1, grow_batch=True
    )  # fmt: skip
    for epoch in range(3):
        assert session.rate == session.batch_size / 16
        for x, y in digits.train.batches(session.batch_size):
            loss = torch.nn.functional.cross_entropy(net(x), y)
            loss = loss + session.penalty(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        session.step(epoch)

    assert session.batch_size > 16


def test_what_cannot_be_is_refused_before_anything_is_trained(digits: Splits) -> None:
    """A first batch that does not fit, a limit below it, a batch that was not said, options without growth."""
    net, x = fresh(), digits.train.inputs[:1]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = weights(net)
    needed = fixed_bytes(net) + kept_bytes(net, digits.train.inputs[:16])

    def session(**options):
        return secateur.prunetrain(net, optimizer, x, epochs=3, every=1, grow_batch=True, **options)

    with pytest.raises(SettingsError, match=rf"keeps {needed:,} bytes.*batches of 15 examples at most"):
        session(batch_size=16, memory=needed - 1)
    with pytest.raises(SettingsError, match="not even one example fits"):
        session(batch_size=16, memory=1000)
    with pytest.raises(SettingsError, match="batch_limit"):
        session(batch_size=16, batch_limit=8)
    with pytest.raises(SettingsError, match="add batch_size"):
        session()
    with pytest.raises(SettingsError, match="add grow_batch"):
        PruneTrainSettings(memory="2GiB")
    with pytest.raises(SettingsError, match="memory"):
        PruneTrainSettings(memory="lots", grow_batch=True)
    with pytest.raises(SettingsError, match="was not said"):
        _ = secateur.prunetrain(net, optimizer, x, epochs=3, every=1).batch_size
    assert torch.equal(weights(net), before)
    assert PruneTrainSettings(memory="2GiB", grow_batch=True).memory == 2 * 1024**3
