"""Merging, compensating and widening: exact where they claim to be."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.strategies import networks
from torch import Tensor, nn

import secateur
from secateur.channels import Group
from secateur.errors import PlanError, SettingsError
from secateur.observe import Need, observe
from secateur.plan import ALL_READERS, Change, Mix, change_of, compensate, plan_for
from secateur.testing import CONSTRUCTS, check_forecast, outputs_of, randomise, relative_error, unread

X = torch.randn(16, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Convolutions whose readers pad with nothing and have biases, a flattened map, dense layers."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, groups=2)
        self.hidden, self.head, self.act = nn.Linear(4 * 16, 8), nn.Linear(8, 3), act

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.second(self.act(self.first(x))))
        return self.head(self.act(self.hidden(x.flatten(1))))


def net(act: nn.Module | None = None) -> Net:
    made = Net(nn.Sigmoid() if act is None else act)
    made.second = nn.Conv2d(6, 4, 3)
    return randomise(made, 3).double().eval()


def batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    return [(x, torch.zeros(len(x), dtype=torch.int64)) for x in X.chunk(count)]


def widened(group: Group, copies: list[int]) -> Change:
    """So many copies of each unit; readers share each unit's weight among its copies."""
    take = np.repeat(np.arange(group.width), copies)
    matrix = np.zeros((group.width, len(take)))
    matrix[take, np.arange(len(take))] = 1 / np.asarray(copies)[take]
    return Change(group.name, group.width, take, {ALL_READERS: Mix(matrix)})


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(case=networks(), data=st.data())
def test_widening_preserves_the_function(case, data):
    """Copied units whose readers share the weight change nothing, and cost what was forecast."""
    channels = secateur.watch(case.model, case.x)
    changes = [
        widened(group, data.draw(st.lists(st.integers(1, 3), min_size=group.width, max_size=group.width)))
        for group in channels.groups
    ]
    plan = plan_for(channels, changes)

    wide = secateur.apply(case.model, plan)

    assert relative_error(outputs_of(wide, case.x), outputs_of(case.model, case.x)) < 1e-10
    check_forecast(wide, case.x, plan)


def _twins(model: nn.Module, group: Group, pairs: dict[int, int]) -> None:
    """Make some units equal to others in everything that makes them."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for member in group.by_role("write", "carry"):
            for unit, model_unit in pairs.items():
                source = tensors[member.tensor].index_select(
                    member.axis, torch.as_tensor(member.indices[model_unit])
                )
                tensors[member.tensor].index_copy_(member.axis, torch.as_tensor(member.indices[unit]), source)


@pytest.mark.parametrize(
    "name", ["residual add", "concat", "nested concat", "flatten NHWC", "flatten NCHW", "BatchNorm", "PReLU", "U-Net skip",
             "depthwise convolution", "transposed convolution", "squeeze and excitation", "Conv1d", "Conv3d"]
)  # fmt: skip
def test_merging_twins_by_similarity_is_exact(name):
    """Units with equal weights fold into one another: the function stays."""
    construct = CONSTRUCTS[name]
    model, x = randomise(construct.build(), 5).double().eval(), construct.example(1).double()
    channels = secateur.watch(model, x)
    for group in channels.groups:
        _twins(model, group, dict.fromkeys(range(2, group.width), 0))
    shares = {g.name: (g.width - 2) / g.width for g in channels.groups}

    plan = secateur.plan(channels, secateur.score(model, channels, "similarity"), remove=shares)

    assert [len(change.take) for change in plan.changes] == [2] * len(channels.groups)
    assert relative_error(outputs_of(secateur.apply(model, plan), x), outputs_of(model, x)) < 1e-10


def test_merging_by_correlation_is_exact_for_linearly_related_activations():
    """A unit that is a linear function of another folds into it, the constant going into the reader's bias."""
    model = net(nn.Identity())
    with torch.no_grad():
        for layer in (model.first, model.second, model.hidden):
            layer.weight[1] = -0.7 * layer.weight[0]
            layer.bias[1] = 0.3
            layer.weight[3] = 0
    channels = secateur.watch(model, X)
    scores = secateur.score(model, channels, "correlation", data=batches())

    plan = secateur.plan(channels, scores, remove={g.name: 2.01 / g.width for g in channels.groups})

    assert all(len(change.removed) == 2 for change in plan.changes)
    assert relative_error(outputs_of(secateur.apply(model, plan), X), outputs_of(model, X)) < 1e-9


def test_least_squares_is_exact_for_linear_combinations():
    """Readers make up for removed units that are linear combinations of kept ones, with a constant."""
    model = net(nn.Identity())
    with torch.no_grad():
        for layer in (model.first, model.second, model.hidden):
            layer.weight[-1] = 0.5 * layer.weight[0] - 2 * layer.weight[1]
            layer.weight[-2] = layer.weight[1] + layer.weight[0]
    channels = secateur.watch(model, X)
    plan = plan_for(channels, [change_of(g, np.arange(g.width - 2)) for g in channels.groups])

    better = compensate(plan, observe(model, channels, batches(), needs=[Need.COVARIANCE]), ridge=0)

    assert better.after == plan.after
    wanted = outputs_of(model, X)
    assert relative_error(outputs_of(secateur.apply(model, plan), X), wanted) > 0.01
    assert relative_error(outputs_of(secateur.apply(model, better), X), wanted) < 1e-9


def test_the_mean_stands_for_constant_units():
    """Units that are constant vanish into the biases of their readers."""
    model = net()
    with torch.no_grad():
        for layer in (model.first, model.second, model.hidden):
            layer.weight[2:4] = 0
    channels = secateur.watch(model, X)
    plan = plan_for(
        channels, [change_of(g, np.setdiff1d(np.arange(g.width), [2, 3])) for g in channels.groups]
    )

    better = compensate(plan, observe(model, channels, batches(), needs=[Need.COVARIANCE]), method="mean")

    assert relative_error(outputs_of(secateur.apply(model, better), X), outputs_of(model, X)) < 1e-10


def test_compensation_helps_where_it_is_not_exact():
    """On units that others predict in part, compensated readers err less than plain ones, on the data they saw."""
    model = net()
    channels = secateur.watch(model, X)
    plan = plan_for(channels, [change_of(channels.group("hidden"), np.arange(5))])
    seen = observe(model, channels, batches(), needs=[Need.COVARIANCE])

    wanted = outputs_of(model, X)[0]
    errors = [
        float((outputs_of(secateur.apply(model, p), X)[0] - wanted).square().mean())
        for p in (compensate(plan, seen, ridge=1e-9), compensate(plan, seen, method="mean"), plan)
    ]

    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_units_that_do_not_vary_explain_nothing(ridge):
    """Where all kept units are dead or constant, readers get the means of the removed ones, and nothing breaks."""
    for bias in (0.0, 0.3):
        model = net(nn.ReLU())
        with torch.no_grad():
            for layer in (model.first, model.second, model.hidden):
                layer.weight[:3] = 0
                layer.bias[:3] = bias
        channels = secateur.watch(model, X)
        plan = plan_for(channels, [change_of(g, np.arange(3)) for g in channels.groups])
        seen = observe(model, channels, batches(), needs=[Need.COVARIANCE])

        better = compensate(plan, seen, ridge=ridge)

        matrices = [mix.matrix for change in better.changes for mix in change.mixes.values()]
        assert matrices
        assert all(np.abs(matrix[3:]).max() < 0.01 for matrix in matrices)
        assert outputs_of(secateur.apply(model, better), X)[0].isfinite().all()


def test_compensation_refuses_nonsense():
    """A negative ridge, an unknown method and observations of another network are refused."""
    model = net()
    channels = secateur.watch(model, X)
    seen = observe(model, channels, batches(), needs=[Need.COVARIANCE])
    plan = plan_for(channels, [change_of(channels.group("hidden"), np.arange(5))])

    with pytest.raises(SettingsError, match=r"ridge=-1 must not be negative"):
        compensate(plan, seen, ridge=-1)
    with pytest.raises(SettingsError, match="method='median' must be"):
        compensate(plan, seen, method="median")
    small = secateur.apply(model, plan)
    again = secateur.watch(small, X)
    with pytest.raises(PlanError, match="was observed with 8 units of 'hidden', the plan has 5"):
        compensate(plan_for(again, [change_of(again.group("hidden"), np.arange(2))]), seen)


def test_shifts_reach_the_biases_of_grouped_readers():
    """A constant unit in front of grouped and grouped transposed convolutions moves into the right rows of their biases."""
    for layer in (
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ConvTranspose2d(4, 6, 1, groups=2),
        nn.ConvTranspose2d(4, 6, 1),
    ):
        model = randomise(
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), layer, nn.Tanh(), nn.Conv2d(6, 2, 1)), 2
        ).double()
        with torch.no_grad():
            model[0].weight[[1, 3]] = 0
            model[0].bias[3] = model[0].bias[1]  # in groups one constant stands for both
        channels = secateur.watch(model, X)
        group = channels.group("0")
        kept = np.array([0]) if group.width == 2 else np.array([0, 2])
        shift = np.zeros(group.width)
        shift[[1] if group.width == 2 else [1, 3]] = model[0].bias[1].sigmoid().item()
        matrix = np.eye(group.width)[:, kept]
        plan = plan_for(channels, [Change("0", group.width, kept, {ALL_READERS: Mix(matrix, shift)})])

        assert relative_error(outputs_of(secateur.apply(model, plan), X), outputs_of(model, X)) < 1e-12


def test_the_oracle_refuses_what_it_does_not_answer_for():
    """Merges and widened groups have no unread units to compare with."""
    model = net()
    channels = secateur.watch(model, X)

    with pytest.raises(PlanError, match="merges, compensates or widens 'hidden'"):
        unread(model, plan_for(channels, [widened(channels.group("hidden"), [2] * 8)]))
