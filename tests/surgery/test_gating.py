"""Channel gating: a gated network is the one with those weights at zero, also while it trains, and from its file."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import secateur
from secateur.cost import CostModel
from secateur.errors import FileFormatError, ModelError, PlanError
from secateur.networks import ResNet, build
from secateur.surgery import Gate, Gated, find_gates, gate, gates_of
from secateur.testing import outputs_of, randomise, relative_error

X = torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0) -> nn.Module:
    net = ResNet(stages=2, blocks=2, convolutions=2, bottleneck=False, width=4, channels=1)
    return randomise(net.double(), seed).eval()


CONVOLUTIONS = [name for name, module in network().named_modules() if isinstance(module, nn.Conv2d)]


@torch.no_grad()
def sparse(net: nn.Module, seed: int) -> nn.Module:
    """A network of which about a third of all filters and input channels are zero."""
    generator = torch.Generator().manual_seed(seed)
    for name in CONVOLUTIONS:
        weight = net.get_parameter(f"{name}.weight")
        for axis in (0, 1):
            gone = torch.rand(weight.shape[axis], generator=generator) < 0.35
            weight.index_fill_(axis, torch.nonzero(gone).flatten(), 0.0)
    return net


def found(net: nn.Module, threshold: float = 1e-9) -> tuple[Gate, ...]:
    return find_gates(net, secateur.watch(net, X), X, threshold=threshold)


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    net(X).square().sum().backward()
    optimizer.step()


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 9999), training=st.booleans())
def test_a_gated_network_equals_the_one_with_those_weights_at_zero(seed: int, training: bool) -> None:
    """In both modes, to the last bits: what is not read and written was zero; and its weights are as few as the gates say."""
    net = sparse(network(seed), seed)
    gates = found(net)
    gated = gate(copy.deepcopy(net), gates)

    assert gates
    assert gates_of(gated) == gates
    net.train(training)
    gated.train(training)
    with torch.no_grad():
        assert relative_error([gated(X)], [net(X)]) < 1e-12
    for one in gates:
        before, after = net.get_parameter(f"{one.layer}.weight"), gated.get_submodule(one.layer).layer.weight
        assert torch.equal(
            after,
            before[list(one.writes or range(before.shape[0]))][:, list(one.reads or range(before.shape[1]))],
        )
        assert after.numel() < before.numel()


def test_only_channels_that_layers_share_are_gated() -> None:
    """Those within a branch go for good (`apply`); one that a threshold spares stays; a convolution with a bias writes all."""
    net = network()
    with torch.no_grad():
        net.stages[0][1].body.conv1.weight[1] = 0  # within the branch
        net.stages[0][1].body.conv2.weight[2] = 1e-3
        net.stages[0][0].body.conv1.weight[:, 3] = 1e-6
        net.stages[0][0].body.conv2.weight.zero_()
        net.stages[0][0].body.conv2.weight[2, 0] = 1e-7  # the strongest of all that are dead
    bias = copy.deepcopy(net)
    bias.stages[0][0].body.conv2.bias = nn.Parameter(torch.ones(4, dtype=torch.float64))

    assert found(net, threshold=1e-4) == (
        Gate("stages.0.0.body.conv1", (0, 1, 2), None, 4),
        Gate("stages.0.0.body.conv2", None, (2,), 4),
    )
    assert found(bias, threshold=1e-4) == (Gate("stages.0.0.body.conv1", (0, 1, 2), None, 4),)


def test_momentum_and_averages_follow_and_training_goes_on() -> None:
    """What the optimiser and the average keep for each weight that stays is what they kept, and all are trained on."""
    net = sparse(network(), 3)
    with torch.no_grad():
        net.stages[1][0].shortcut.conv.weight[1] = 0
        net.stages[1][0].shortcut.conv.weight[:, 2] = 0
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    gates = found(net)
    step(net, optimizer)
    average.update_parameters(net)
    one = next(one for one in gates if one.layer == "stages.1.0.shortcut.conv")
    name = f"{one.layer}.weight"
    weight = net.get_parameter(name)
    rows, columns = torch.tensor(one.writes), torch.tensor(one.reads)
    expected = [
        tensor.clone()[rows][:, columns]
        for tensor in (
            weight.detach(),
            optimizer.state[weight]["momentum_buffer"],
            average.module.get_parameter(name),
        )
    ]

    gate(net, gates, optimizer=optimizer, averages=average)
    now = net.get_submodule(one.layer).layer.weight
    kept = [
        now,
        optimizer.state[now]["momentum_buffer"],
        average.module.get_submodule(one.layer).layer.weight,
    ]
    before = [tensor.clone() for tensor in kept]
    step(net, optimizer)
    average.update_parameters(net)

    assert all(map(torch.equal, before, expected))
    assert not any(map(torch.equal, kept, before))
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in net.parameters()}
    assert gates_of(average) == gates


def test_it_is_watched_and_costs_what_it_has() -> None:
    """Parameters and multiply-adds are those of the narrow convolutions; what is gathered stays whole, and the rest can be cut."""
    net = sparse(network(), 5)
    gates = found(net)
    full = CostModel(secateur.watch(net, X)).total()
    gate(net, gates)

    channels = secateur.watch(net, X)
    plan = secateur.plan(channels, secateur.score(net, channels, "l2"), remove=0.5)
    small = secateur.apply(net, plan)

    cost = CostModel(channels).total()
    assert cost.parameters == sum(p.numel() for p in net.parameters()) < full.parameters
    assert cost.macs < full.macs
    assert plan.removed
    assert outputs_of(small, X)[0].shape == (4, 10)
    assert gates_of(small) == gates


def test_a_file_holds_it(tmp_path: Path) -> None:
    """Saved, loaded and saved again: the same network and the same bytes; a file without gates says nothing of them."""
    net = build("resnet20", seed=0).eval()
    with torch.no_grad():
        net.stages[1][1].body.conv1.weight[:, 5:9] = 0
        net.stages[1][1].body.conv2.weight[3] = 0
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    secateur.save(net, tmp_path / "plain.safetensors")
    gate(net, find_gates(net, secateur.watch(net, x), x))
    secateur.save(net, tmp_path / "gated.safetensors")

    again = secateur.load(tmp_path / "gated.safetensors")
    secateur.save(again, tmp_path / "again.safetensors")

    assert len(gates_of(net)) == 2
    assert gates_of(again) == gates_of(net)
    assert all(map(torch.equal, outputs_of(again, x), outputs_of(net, x)))
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "gated.safetensors").read_bytes()
    assert b"gates" not in (tmp_path / "plain.safetensors").read_bytes()


def test_it_is_a_program_as_it_is() -> None:
    """`torch.export`, from which the runtimes' files are made, takes it, and its program computes the same."""
    net = network()
    gate(
        net,
        [Gate("stages.0.0.body.conv1", (0, 2, 3), None, 4), Gate("stages.0.0.body.conv2", None, (1, 2), 4)],
    )

    program = torch.export.export(net, (X,))

    assert relative_error([program.module()(X).detach()], outputs_of(net, X)) < 1e-12


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"layer": "stages.0.0.body.norm1"}, "does not have as a convolution"),
        ({"reads": [0, 1]}, "the weights of 'stages.0.0.body.conv1' are not those for its gate"),
        ({"reads": [2, 1, 0]}, "ascending"),
    ],
)
def test_a_file_whose_gates_do_not_fit_is_refused(spoil: dict[str, object], said: str) -> None:
    """Before anything of it is run."""
    net = network()
    gate(net, [Gate("stages.0.0.body.conv1", (0, 1, 3), None, 4)])
    tensors, document = secateur.store.model_snapshot(net)
    document = json.loads(json.dumps(document))
    document["gates"][0].update(spoil)

    with pytest.raises(FileFormatError, match=said):
        secateur.store.restore_model(network, tensors, document)


@pytest.mark.parametrize(
    "one",
    [
        Gate("stages.0.0.body.norm1", (0,), None, 4),
        Gate("stages.9", (0,), None, 4),
        Gate("stages.0.0.body.conv1", (0, 4), None, 4),
        Gate("stages.0.0.body.conv1", (0,), None, 5),
    ],
)
def test_gates_of_another_network_are_refused(one: Gate) -> None:
    """Nothing has changed then."""
    net = network()
    before = copy.deepcopy(net)

    with pytest.raises(PlanError, match="find the gates of this network"):
        gate(net, [Gate("stages.0.1.body.conv1", (0,), None, 4), one])
    assert list(net.state_dict()) == list(before.state_dict())
    assert all(map(torch.equal, outputs_of(net, X), outputs_of(before, X)))


@pytest.mark.parametrize(
    ("reads", "writes", "said"),
    [((), None, "give some"), ((1, 0), None, "ascending"), (None, (0, 4), "position 4 of 4")],
)
def test_a_gate_without_order_is_refused(
    reads: tuple[int, ...] | None, writes: tuple[int, ...] | None, said: str
) -> None:
    """Positions are ascending, and inside."""
    with pytest.raises(PlanError, match=said):
        Gate("conv", reads, writes, 4)


def test_an_optimiser_that_cannot_follow_is_refused() -> None:
    """Before anything changes."""
    net = network()

    with pytest.raises(ModelError, match="LBFGS"):
        gate(
            net, [Gate("stages.0.1.body.conv1", (0,), None, 4)], optimizer=torch.optim.LBFGS(net.parameters())
        )
    assert not gates_of(net)


def test_gated_goes_to_other_formats_and_devices() -> None:
    """Positions follow the weights, and are no numbers that a format could round or an average could mix."""
    gated = Gated(nn.Conv2d(2, 1, 1, bias=False), reads=(1, 300), writes=(2,), width=4)
    x = torch.randn(1, 301, 2, 2)

    with torch.no_grad():
        half = copy.deepcopy(gated).to(torch.bfloat16)(x.to(torch.bfloat16))

    assert not list(gated.buffers())
    assert relative_error([half.float()], [gated(x).detach()]) < 0.05
