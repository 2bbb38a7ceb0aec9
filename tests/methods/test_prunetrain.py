"""PruneTrain: what the penalty is, what goes and what follows, runs that go on to the bit, and what is refused."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import secateur
from secateur import data
from secateur.cost import CostModel
from secateur.data import Splits
from secateur.errors import NotFiniteError, NothingToCutError, RunError, SettingsError
from secateur.evaluate import evaluate
from secateur.methods import PruneTrain, PruneTrainSettings, Reconfiguration, started_in, train
from secateur.methods.dead_units import dead_units, largest_weights
from secateur.networks import ResNet, build
from secateur.store import RunFolder
from secateur.surgery import gates_of
from secateur.testing import outputs_of, randomise, relative_error, unread
from secateur.train import GroupLasso, TrainSettings, fit

SETTINGS = TrainSettings(epochs=4, lr=0.1, batch_size=32, schedule="cosine", ema=0.9)
EAGER = PruneTrainSettings(penalty_ratio=0.6, threshold=0.05, every=1, rest=1)
"""A threshold so high that something goes within few steps."""

GATED_BELOW = 0.3
"""So high that some convolution of a small residual network has a channel of less after three epochs."""


@pytest.fixture(scope="module")
def digits() -> Splits:
    return data.load("digits", limit=200)


class PlugError(Exception):
    """Somebody pulls the plug."""


def fresh() -> nn.Module:
    return build("digits-net", seed=3)


def residual(seed: int = 0) -> nn.Module:
    net = ResNet(stages=2, blocks=2, convolutions=2, bottleneck=False, width=4, channels=1)
    return randomise(net.double(), seed).eval()


def same(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return list(a) == list(b) and all(map(torch.equal, a.values(), b.values()))


def planned(net: nn.Module, x: Tensor, threshold: float) -> secateur.plan.Plan | None:
    channels = secateur.watch(net, x)
    asked = PruneTrainSettings(threshold=threshold)
    return dead_units(net, channels, largest_weights(net, channels), x, asked)


@torch.no_grad()
def kill(net: nn.Module, group: str, units: list[int], x: Tensor, *, factor: float = 0.0) -> None:
    """Shrink all weights that write or read some units."""
    named = dict(net.named_parameters())
    for member in secateur.watch(net, x).group(group).by_role("write", "read"):
        places = torch.as_tensor(member.indices[units].ravel())
        weight = named[member.tensor]
        weight.index_copy_(member.axis, places, weight.index_select(member.axis, places) * factor)


IMAGES = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


# what the penalty is


@settings(deadline=None, max_examples=10)
@given(ratio=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_the_penalty_is_the_asked_share_at_the_first_step_and_its_strength_stays(
    ratio: float, seed: int
) -> None:
    """λ GL / (L + λ GL) is the ratio at the first step; later λ is the same, whatever the loss."""
    net = randomise(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    session = secateur.prunetrain(net, optimizer, torch.zeros(1, 4), epochs=2, every=1, penalty_ratio=ratio)
    loss = net(torch.ones(2, 4)).square().sum() + 0.1

    penalty = session.penalty(loss).detach()
    later = session.penalty(100 * loss).detach()

    torch.testing.assert_close(float(penalty / (loss.detach() + penalty)), ratio, rtol=1e-4, atol=0)
    lasso = GroupLasso(secateur.watch(net, torch.zeros(1, 4)))(net).detach()
    torch.testing.assert_close(float(penalty), session.strength * float(lasso), rtol=1e-5, atol=0)
    assert float(later) == float(penalty)
    session.step()
    together = 101 * float(loss.detach()) + 2 * float(penalty)
    torch.testing.assert_close(session.ratios[0], 2 * float(penalty) / together, rtol=1e-4, atol=0)


def test_a_ratio_of_zero_trains_bit_by_bit_as_without(digits: Splits) -> None:
    """Nothing is added and nothing goes."""
    alone, beside = fresh(), fresh()
    session = PruneTrain(
        beside, digits.train.inputs[:1], EAGER.model_copy(update={"penalty_ratio": 0.0}), epochs=4
    )

    expected = fit(alone, digits.train, digits.validation, SETTINGS)
    found = fit(beside, digits.train, digits.validation, SETTINGS, companion=session)

    assert same(alone, beside)
    assert found.history == expected.history
    assert not session.reconfigurations
    assert session.ratios == (0.0,) * 4


def test_without_dead_units_it_is_training_with_the_penalty_bit_by_bit(digits: Splits) -> None:
    """Looking for dead units changes nothing, and what is minimised is the loss plus λ times the group lasso."""
    alone, beside = fresh(), fresh()
    asked = PruneTrainSettings(penalty_ratio=0.5, threshold=0.0, every=1, rest=0)
    session = PruneTrain(beside, digits.train.inputs[:1], asked, epochs=4)

    found = fit(beside, digits.train, digits.validation, SETTINGS, companion=session)
    lasso = GroupLasso(secateur.watch(alone, digits.train.inputs[:1]), strength=session.strength)
    expected = fit(alone, digits.train, digits.validation, SETTINGS, penalty=lasso)

    assert same(alone, beside)
    assert found.history == expected.history
    assert [one.changed for one in session.reconfigurations] == [False] * 4


def test_the_last_epochs_are_plain_training(digits: Splits) -> None:
    """While pruning rests, the penalty is zero."""
    net = fresh()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    session = secateur.prunetrain(net, optimizer, digits.train.inputs[:1], epochs=3, every=1, rest=2)
    session.penalty(torch.tensor(1.0))

    session.step()

    assert float(session.penalty(torch.tensor(1.0))) == 0
    assert not session.pruning


# what goes


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 999), draw=st.data())
def test_a_unit_goes_when_all_of_its_weights_are_small_and_only_then(seed: int, draw: st.DataObject) -> None:
    """In every group; where layers meet in an addition, one weight that is large in one of them keeps the unit."""
    net = residual(seed)
    channels = secateur.watch(net, IMAGES)
    group = draw.draw(st.sampled_from(channels.groups))
    units = draw.draw(st.sets(st.integers(0, group.width - 1), min_size=1, max_size=group.width - 2))
    kill(net, group.name, sorted(units), IMAGES, factor=1e-7)
    saved = draw.draw(st.sampled_from(sorted(units)))
    member = draw.draw(st.sampled_from(group.by_role("write", "read")))

    made = planned(net, IMAGES, 1e-4)
    with torch.no_grad():
        its = dict(net.named_parameters())[member.tensor].select(member.axis, int(member.indices[saved, 0]))
        its[(0,) * its.dim()] = 1e-3
    kept = planned(net, IMAGES, 1e-4)

    assert made is not None
    assert {change.group: set(change.removed.tolist()) for change in made.changes} == {group.name: units}
    gone = set() if kept is None else set(kept.changes[0].removed.tolist())
    assert gone == units - {saved}


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 999), draw=st.data())
def test_cutting_equals_not_reading_and_nothing_changes_where_all_was_zero(
    seed: int, draw: st.DataObject
) -> None:
    """The cut network computes what the full one does when nobody reads what went; of exact zeros nothing is noticed."""
    net = residual(seed)
    dead: dict[str, list[int]] = {}
    for group in secateur.watch(net, IMAGES).groups:
        some = draw.draw(st.sets(st.integers(0, group.width - 1), max_size=group.width - 2))
        dead[group.name] = sorted(some)
    assume(any(dead.values()))
    small, zero = copy.deepcopy(net), copy.deepcopy(net)
    for name, units in dead.items():
        if units:
            kill(small, name, units, IMAGES, factor=0.01)
            kill(zero, name, units, IMAGES)
    largest = largest_weights(small, secateur.watch(small, IMAGES)).values
    threshold = max(float(largest[name][units].max()) for name, units in dead.items() if units) * 1.001

    made, exact = planned(small, IMAGES, threshold), planned(zero, IMAGES, 1e-9)

    assert made is not None
    assert exact is not None
    assert made.removed >= exact.removed == sum(map(len, dead.values()))
    cut = secateur.apply(small, made)
    assert relative_error(outputs_of(cut, IMAGES), outputs_of(unread(small, made), IMAGES)) < 1e-10
    unnoticed = secateur.apply(zero, exact)
    assert relative_error(outputs_of(unnoticed, IMAGES), outputs_of(zero, IMAGES)) < 1e-10


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 999),
    scales=st.lists(st.sampled_from([1.0, 0.05, 0.0]), min_size=13, max_size=13),
    threshold=st.floats(0.01, 0.3),
)
def test_the_outputs_change_by_no_more_than_the_removed_weights_can(
    seed: int, scales: list[float], threshold: float
) -> None:
    """By interval arithmetic: what a unit gave, times the weights that read it, and on through the absolute weights."""
    net = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    randomise(net, seed)
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for group, some in (("0", scales[:7]), ("2", scales[7:])):
        for unit, scale in enumerate(some):
            kill(net, group, [unit], x, factor=scale)
    made = planned(net, x, threshold)
    assume(made is not None)
    assert made is not None

    cut = secateur.apply(net, made)

    first, second = net[:2](x).abs(), net[:4](x).abs()
    gone = {change.group: torch.as_tensor(change.removed) for change in made.changes}
    none = torch.zeros(0, dtype=torch.int64)
    one, two = gone.get("0", none), gone.get("2", none)
    off = first[:, one] @ net[2].weight[:, one].abs().T
    off[:, two] = second[:, two]
    bound = off @ net[4].weight.abs().T
    assert bool(((cut(x) - net(x)).abs() <= bound + 1e-12).all())
    assert all(
        bool((net[at].weight[:, gone[name]].abs() < threshold).all())
        for name, at in (("0", 2), ("2", 4))
        if name in gone
    )


def test_a_block_goes_with_the_last_unit_of_its_branch_and_two_stay_until_then() -> None:
    """A single unit is no group, so that it would stay for ever; the optimiser lets the block's parameters go."""
    net = residual()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    name = "stages.0.1.body.conv1"
    kill(net, name, [0, 1, 3], IMAGES)
    some = planned(net, IMAGES, 1e-4)
    assert some is not None
    half = secateur.apply(net, some)
    kill(net, name, [2], IMAGES)

    made = planned(net, IMAGES, 1e-4)
    assert made is not None
    secateur.apply(net, made, optimizer=optimizer, inplace=True)

    assert half.stages[0][1].body.conv1.out_channels == 2
    assert [block.name for block in made.blocks] == ["stages.0.1"]
    assert isinstance(net.stages[0][1], nn.Identity)
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in net.parameters()}


def test_blocks_stay_where_they_are_to_and_one_unit_of_other_groups_does() -> None:
    """With blocks off the branch keeps its strongest unit."""
    net = residual()
    kill(net, "stages.0.1.body.conv1", [0, 1, 2, 3], IMAGES, factor=1e-6)
    kill(net, "stages.1.0.body.conv1", list(range(8)), IMAGES, factor=1e-6)
    channels = secateur.watch(net, IMAGES)
    scores = largest_weights(net, channels)

    made = dead_units(net, channels, scores, IMAGES, PruneTrainSettings(blocks=False))

    assert made is not None
    assert not made.blocks
    kept = {change.group: change.take.tolist() for change in made.changes}
    assert kept == {name: [int(scores.values[name].argmax())] for name in kept}
    assert len(kept) == 2


def test_limits_hold() -> None:
    """A minimum and multiples keep what is dead; where they keep all of it, nothing goes."""
    net = residual()
    kill(net, "stages.1.0.body.conv1", [0, 1, 2], IMAGES)
    channels = secateur.watch(net, IMAGES)
    scores = largest_weights(net, channels)

    few = dead_units(net, channels, scores, IMAGES, PruneTrainSettings(minimum=7))
    none = dead_units(net, channels, scores, IMAGES, PruneTrainSettings(round_to=8))

    assert few is not None
    assert few.removed == 1
    assert none is None


def test_with_gating_convolutions_leave_out_at_last_what_they_alone_are_done_with() -> None:
    """The network then computes what it does with those weights at zero; before, and without gating, they stay; the bill is exact."""
    net = residual()
    with torch.no_grad():
        net.get_parameter("stages.0.1.body.conv1.weight")[:, 1] = 0
        net.get_parameter("stages.0.1.body.conv2.weight")[2] = 0
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    options = {"epochs": 3, "every": 1, "threshold": 1e-9, "gating": True}
    session = secateur.prunetrain(net, optimizer, IMAGES, **options)
    session.penalty(torch.tensor(1.0))
    session.step(0)
    before, whole = gates_of(net), outputs_of(net, IMAGES)
    session.step(1)

    first, last = session.reconfigurations
    assert (first.gated, last.gated) == (0, 2)
    assert (first.changed, last.changed) == (False, True)
    assert not before
    assert [one.layer for one in gates_of(net)] == ["stages.0.1.body.conv1", "stages.0.1.body.conv2"]
    assert relative_error(outputs_of(net, IMAGES), whole) < 1e-12
    assert last.cost == CostModel(secateur.watch(net, IMAGES)).total()
    assert last.cost.macs < first.cost.macs
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in net.parameters()}
    assert "gated" not in session.state()["reconfigurations"][0]
    assert "gating" not in PruneTrainSettings().model_dump()
    on = secateur.prunetrain(net, optimizer, IMAGES, state=json.loads(json.dumps(session.state())), **options)
    assert on.reconfigurations == session.reconfigurations


@pytest.mark.parametrize("stop", ["cut 3", "step 1 of epoch 4"])
def test_a_stopped_run_with_gates_ends_like_an_unbroken_one(
    digits: Splits, tmp_path: Path, stop: str
) -> None:
    """Before the state with the gates is stored, and after."""

    def network(seed: int = 0) -> nn.Module:
        return build("secateur.networks:ResNet", seed=seed, stages=2, blocks=1, width=8, channels=1)

    asked = EAGER.model_copy(update={"gating": True, "threshold": GATED_BELOW})
    whole = train(network(), digits, SETTINGS, out=tmp_path / "whole", prunetrain=asked)

    def batch(done: int, total: int) -> None:
        if stop == "step 1 of epoch 4" and done == total // 4 * 3 + 1:
            raise PlugError

    def cut(record: Reconfiguration) -> None:
        if stop == f"cut {record.epoch}":
            raise PlugError

    run = tmp_path / "run"
    with pytest.raises(PlugError):
        train(network(), digits, SETTINGS, out=run, prunetrain=asked, on_batch=batch, on_cut=cut)
    result = train(started_in(run, lambda: network(9)), digits, out=run, resume=True)

    assert result.prunetrain.reconfigurations[-1].gated
    assert result.history == whole.history
    assert result.prunetrain == whole.prunetrain
    assert same(result.model, whole.model)
    assert gates_of(secateur.load(result.file)) == gates_of(whole.model)


# what follows


def epoch_of(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    session: PruneTrain,
    digits: Splits,
    average: AveragedModel,
) -> None:
    for x, y in digits.train.batches(32):
        loss = F.cross_entropy(net(x), y)
        loss = loss + session.penalty(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(net)


def around(net: nn.Module) -> tuple[torch.optim.Optimizer, AveragedModel]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    return optimizer, AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))


def test_momentum_averages_and_schedule_follow_their_channels_and_every_mac_is_counted(
    digits: Splits,
) -> None:
    """Each row of what the optimiser and the average keep is that of the unit that it belonged to, and the loop goes on."""
    net = fresh()
    optimizer, average = around(net)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    options = EAGER.model_dump()
    session = secateur.prunetrain(
        net, optimizer, digits.train.inputs[:1], epochs=4, averages=average, **options
    )
    macs = 0
    cuts = 0
    for epoch in range(4):
        channels = secateur.watch(net, digits.train.inputs[:1])
        macs += CostModel(channels).total().macs * len(digits.train)
        epoch_of(net, optimizer, session, digits, average)
        schedule.step()
        before = {name: optimizer.state[p]["momentum_buffer"].clone() for name, p in net.named_parameters()}
        averaged = {name: p.clone() for name, p in average.module.named_parameters()}
        made = session.step(epoch)
        cuts += made is not None
        for name, parameter in net.named_parameters():
            for was, now in (
                (before[name], optimizer.state[parameter]["momentum_buffer"]),
                (averaged[name], average.module.get_parameter(name)),
            ):
                for group, change in zip(made.groups, made.changes, strict=True) if made else ():
                    for member in group.members:
                        if member.tensor == name:
                            gone = set(member.indices[change.removed].ravel().tolist())
                            left = [at for at in range(was.shape[member.axis]) if at not in gone]
                            was = was.index_select(member.axis, torch.tensor(left))  # noqa: PLW2901
                assert torch.equal(was, now)

    assert cuts
    assert session.macs(len(digits.train)) == (macs, 4 * session.cost_before.macs * len(digits.train))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
    assert [one.epoch for one in session.reconfigurations] == [1, 2, 3]


def test_a_loop_of_one_s_own_goes_on_to_the_bit(digits: Splits, tmp_path: Path) -> None:
    """Network, optimiser, average and the session's state, through files: the rest of the training is the same."""
    net = fresh()
    optimizer, average = around(net)
    options = EAGER.model_dump()
    x = digits.train.inputs[:1]
    session = secateur.prunetrain(net, optimizer, x, epochs=4, averages=average, **options)
    for epoch in range(4):
        if epoch == 2:
            secateur.save(net, tmp_path / "net.safetensors")
            secateur.save(average.module, tmp_path / "average.safetensors")
            kept = copy.deepcopy((optimizer.state_dict(), int(average.n_averaged)))
            state = json.dumps(session.state())
        epoch_of(net, optimizer, session, digits, average)
        session.step(epoch)

    again = secateur.load(tmp_path / "net.safetensors").train()
    second, copies = around(again)
    second.load_state_dict(kept[0])
    copies.module.load_state_dict(secateur.load(tmp_path / "average.safetensors").state_dict())
    copies.n_averaged.fill_(kept[1])
    on = secateur.prunetrain(again, second, x, epochs=4, averages=copies, state=json.loads(state), **options)
    for epoch in (2, 3):
        epoch_of(again, second, on, digits, copies)
        on.step(epoch)

    assert same(again, net)
    assert same(copies.module, average.module)
    assert on.reconfigurations == session.reconfigurations
    assert on.ratios == session.ratios
    assert on.macs(7) == session.macs(7)


# runs


@pytest.fixture(scope="module")
def whole(digits: Splits, tmp_path_factory: pytest.TempPathFactory):
    return train(
        fresh(), digits, SETTINGS, out=tmp_path_factory.mktemp("runs") / "whole", seed=5, prunetrain=EAGER
    )


def test_a_run_says_what_went_and_its_file_holds_it(whole, digits: Splits) -> None:
    """The network is smaller, as the records say, and loads from its file."""
    found = whole.prunetrain

    again = secateur.load(whole.file)

    assert [one.epoch for one in found.reconfigurations] == [1, 2, 3]
    assert any(one.changed for one in found.reconfigurations[:2])
    assert found.reconfigurations[-1].cost == whole.cost
    assert whole.cost.parameters == sum(p.numel() for p in whole.model.parameters())
    assert whole.cost.parameters < found.cost_before.parameters
    costs = [found.cost_before.macs, *(one.cost.macs for one in found.reconfigurations)]
    assert found.macs == sum(costs) * len(digits.train)
    assert found.macs_uncut == 4 * costs[0] * len(digits.train)
    widths = secateur.watch(whole.model, digits.train.inputs[:1]).groups
    assert found.reconfigurations[-1].widths == {group.name: group.width for group in widths}
    assert [one.units for one in found.reconfigurations] == [
        sum(was.values()) - sum(now.values())
        for was, now in itertools.pairwise(
            [found.widths_before, *(one.widths for one in found.reconfigurations)]
        )
    ]
    assert same(again, whole.model)
    described = secateur.store.read_description(whole.file)
    assert described.history[0]["prunetrain"]["training_macs"] == found.macs


@pytest.mark.parametrize(
    "stop",
    ["step 2 of epoch 1", "step 3 of epoch 3", "epoch 2", "cut 2", "snapshot of cut 2", "state after cut 2"],
)
def test_a_stopped_run_ends_like_an_unbroken_one(
    whole, digits: Splits, tmp_path: Path, stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between reconfigurations, inside one, before or while it or the state after it is stored: the same bits."""
    append = RunFolder.append

    def appended(folder: RunFolder, entry: Mapping[str, Any]) -> None:
        """The snapshot that an entry names is on the disk by then; with the entry it counts."""
        cut, state = entry.get("cut", {}).get("epoch"), "state" in entry and entry["epoch"]["epoch"]
        if (stop == "snapshot of cut 2" and cut == 2) or (stop == "state after cut 2" and state == 2):
            raise PlugError
        append(folder, entry)

    def batch(done: int, total: int) -> None:
        epoch, step = divmod(done - 1, total // 4)
        if stop == f"step {step + 1} of epoch {epoch + 1}":
            raise PlugError

    def heard(record: object) -> None:
        if stop == f"{'cut' if isinstance(record, Reconfiguration) else 'epoch'} {record.epoch}":
            raise PlugError

    run = tmp_path / "run"
    monkeypatch.setattr(RunFolder, "append", appended)
    with pytest.raises(PlugError):
        train(
            fresh(), digits, SETTINGS, out=run, seed=5, prunetrain=EAGER, on_epoch=heard, on_batch=batch, on_cut=heard
        )  # fmt: skip
    monkeypatch.undo()
    result = train(started_in(run, lambda: build("digits-net", seed=9)), digits, out=run, resume=True)

    assert same(result.model, whole.model)
    assert result.history == whole.history
    assert result.prunetrain == whole.prunetrain
    assert result.file.read_bytes() == whole.file.read_bytes()


def test_a_run_goes_on_as_it_was_begun(whole, digits: Splits) -> None:
    """With other options of PruneTrain it does not."""
    with pytest.raises(RunError, match="other settings"):
        train(
            fresh(),
            digits,
            out=whole.file.parent,
            resume=True,
            prunetrain=PruneTrainSettings(penalty_ratio=0.3),
        )


# what it is for


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "asked", "training", "left", "points"),
    [
        (
            "digits-net",
            PruneTrainSettings(penalty_ratio=0.5, threshold=5e-3, every=4),
            TrainSettings(epochs=20, lr=0.1, batch_size=64, schedule="cosine"),
            0.6,
            1.0,
        ),
        (
            "residual",
            PruneTrainSettings(penalty_ratio=0.7, threshold=2e-2, every=5),
            TrainSettings(epochs=30, lr=0.1, batch_size=32, schedule="linear"),
            0.7,
            2.5,
        ),
    ],
    ids=["chain", "residual"],
)
def test_a_network_is_smaller_at_the_same_accuracy(
    network: str, asked: PruneTrainSettings, training: TrainSettings, left: float, points: float
) -> None:
    """Trained for the same epochs with the same seed, network and training have lost multiply-adds, and accuracy few points at most."""
    digits = data.load("digits")
    torch.manual_seed(0)
    cut = (
        build("digits-net", seed=0)
        if network == "digits-net"
        else ResNet(stages=2, blocks=2, width=8, channels=1)
    )
    uncut = copy.deepcopy(cut)
    session = PruneTrain(cut, digits.train.inputs[:8], asked, epochs=training.epochs)

    fit(cut, digits.train, digits.validation, training, companion=session)
    fit(uncut, digits.train, digits.validation, training)

    parameters = [sum(p.numel() for p in one.parameters()) for one in (cut, uncut)]
    assert parameters[0] < left * parameters[1]
    spent, without = session.macs(len(digits.train))
    assert spent < without
    assert session.reconfigurations[-1].cost.macs < session.cost_before.macs
    after, before = (evaluate(one, digits.test).accuracy for one in (cut, uncut))
    assert after >= before - points


# what is refused, and what goes wrong


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"penalty_ratio": 1.0}, "less than 1"),
        ({"penalty_ratio": -0.1}, "greater than or equal to 0"),
        ({"penalty_ratio": float("nan")}, "finite"),
        ({"threshold": -1.0}, "threshold"),
        ({"every": 0}, "every"),
        ({"evry": 3}, "did you mean 'every'"),
        ({"round_to": "abacus"}, "no export target"),
        ({"every": 5}, r"every \(5\) is longer than the 3 of 4 epochs in which"),
        ({"every": 1, "rest": 4}, "longer than the 0 of 4 epochs"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], said: str) -> None:
    """Before anything is trained."""
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    with pytest.raises(SettingsError, match=said):
        secateur.prunetrain(net, optimizer, torch.zeros(1, 4), epochs=4, **{"every": 1, **options})


def test_gating_with_a_forward_of_one_s_own_is_refused() -> None:
    """Which convolutions can have gates is seen with the network's own."""
    net = residual()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    with pytest.raises(SettingsError, match="forward_fn runs it in another way"):
        secateur.prunetrain(
            net, optimizer, IMAGES, epochs=3, every=1, gating=True, forward_fn=lambda model, x: model(x)
        )


def test_a_network_of_which_nothing_may_go_is_refused() -> None:
    """There is nothing to let die."""
    net = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    with pytest.raises(NothingToCutError, match="no unit that is trained may go"):
        secateur.prunetrain(net, optimizer, torch.zeros(1, 4), epochs=20)


def test_a_wrong_interval_and_early_stopping_leave_no_folder(digits: Splits, tmp_path: Path) -> None:
    """They are refused before there is one."""
    with pytest.raises(SettingsError, match=r"every \(9\)"):
        train(fresh(), digits, SETTINGS, out=tmp_path / "run", prunetrain=PruneTrainSettings(every=9))
    with pytest.raises(SettingsError, match="early_stopping=3"):
        train(fresh(), digits, SETTINGS.but(early_stopping=3), out=tmp_path / "run", prunetrain=EAGER)

    assert not (tmp_path / "run").exists()


def test_calls_in_the_wrong_order_are_refused() -> None:
    """An epoch told twice or left out, one too many, a penalty that was forgotten or that knows no loss."""
    net = randomise(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    session = secateur.prunetrain(net, optimizer, torch.zeros(1, 4), epochs=3, every=1)

    with pytest.raises(SettingsError, match="no penalty was asked for"):
        session.step(0)
    with pytest.raises(SettingsError, match=r"session.penalty\(loss\)"):
        session.penalty()
    with pytest.raises(SettingsError, match="the loss is -2 at the first step"):
        session.penalty(torch.tensor(-2.0))
    session.penalty(torch.tensor(1.0))
    session.penalty()
    session.step(0)
    with pytest.raises(SettingsError, match=r"step\(0\) does not come next: 1 epochs are done, so that 1 is"):
        session.step(0)
    session.step(1)
    session.step()
    with pytest.raises(SettingsError, match="all of the 3 epochs"):
        session.step()


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_last_good_weights() -> None:
    """The network has the weights after the last good epoch again."""
    net = randomise(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    session = secateur.prunetrain(net, optimizer, torch.zeros(1, 4), epochs=3, every=1)
    session.penalty(torch.tensor(1.0))
    session.step(1)
    good = copy.deepcopy(net)
    session.penalty(torch.tensor(1.0))
    session.penalty(torch.tensor(float("nan")))
    session.penalty(torch.tensor(float("nan")))
    with torch.no_grad():
        net[0].weight.fill_(float("nan"))

    with pytest.raises(NotFiniteError, match=r"epoch 2, step 2 .*the weights of epoch 1 again"):
        session.step(2)
    assert same(net, good)
    with torch.no_grad():
        net[0].weight.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="the weights of epoch 1 again"):
        session.step(2)
    assert same(net, good)


def test_a_loss_that_is_not_finite_is_seen_in_the_midst_of_an_epoch() -> None:
    """Not only at its end; the weights that come back are of the widths after the last cut."""
    net = randomise(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    session = secateur.prunetrain(net, optimizer, torch.zeros(1, 4), epochs=3, every=1)
    session.penalty(torch.tensor(1.0))
    kill(net, "0", [1, 3], torch.zeros(1, 4))
    made = session.step(0)
    assert made is not None
    assert made.removed == 2
    good = copy.deepcopy(net)

    def steps() -> None:
        for step in range(1, 1000):
            with torch.no_grad():
                net[2].weight.add_(1.0)
            session.penalty(torch.tensor(float("inf") if step >= 7 else 1.0))

    with pytest.raises(NotFiniteError, match=r"epoch 2, step 7 .*the weights of epoch 1 again"):
        steps()
    assert same(net, good)


def test_a_run_whose_loss_is_not_finite_keeps_the_last_good_network(digits: Splits, tmp_path: Path) -> None:
    """The error says the step, and where the network is; its file loads."""
    net = fresh()

    def spoil(done: int, total: int) -> None:
        if done == total // 2 + 1:
            with torch.no_grad():
                net.conv1.weight.fill_(float("inf"))

    with pytest.raises(NotFiniteError, match=r"epoch 3, step 2 .*after 2 epochs .*last-good.safetensors"):
        train(net, digits, SETTINGS.but(ema=None), out=tmp_path / "run", prunetrain=EAGER, on_batch=spoil)

    kept = secateur.load(tmp_path / "run" / "last-good.safetensors")
    assert all(bool(torch.isfinite(p).all()) for p in kept.parameters())
