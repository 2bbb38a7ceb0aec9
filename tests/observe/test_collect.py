"""Tests of secateur.observe.collect."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.channels import watch
from secateur.channels.groups import Channels, Group, Member
from secateur.errors import ModelError
from secateur.observe import Need, observe, pool

Batches = list[tuple[Tensor, Tensor]]


def each(count: int) -> Any:
    """Every unit owns one position."""
    return np.arange(count)[:, None]


def two_groups() -> tuple[nn.Sequential, Channels]:
    """conv(2 -> 3), tanh, conv(3 -> 4), tanh, flatten(4 x 3 x 3), dense(36 -> 5), with its groups by hand."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 5)
    ).double()
    groups = (
        Group("0", 3, (Member("0.weight", 0, "write", each(3)), Member("2.weight", 1, "read", each(3)))),
        Group(
            "2",
            4,
            (
                Member("2.weight", 0, "write", each(4)),
                Member("5.weight", 1, "read", np.arange(36).reshape(4, 9)),
            ),
        ),
    )
    return model, replace(watch(model, torch.zeros(1, 2, 6, 6, dtype=torch.float64)), groups=groups)


class Forked(nn.Module):
    """One dense layer whose units are read by two others, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.left(h) + torch.tanh(self.right(h)) * self.right(h.flip(0).flip(0))


def forked() -> tuple[Forked, Channels]:
    torch.manual_seed(0)
    model = Forked().double()
    readers = tuple(Member(f"{name}.weight", 1, "read", each(3)) for name in ("left", "right"))
    group = Group("first", 3, (Member("first.weight", 0, "write", each(3)), *readers))
    return model, replace(watch(model, torch.zeros(1, 4, dtype=torch.float64)), groups=(group,))


def batches_of(shape: tuple[int, ...], classes: int, sizes: tuple[int, ...] = (3, 5, 2)) -> Batches:
    """Batches of uneven sizes."""
    source = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, *shape, generator=source, dtype=torch.float64),
            torch.randint(0, classes, (size,), generator=source),
        )
        for size in sizes
    ]


def together(batches: Batches) -> tuple[Tensor, Tensor]:
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4))
@settings(deadline=None, max_examples=15)
def test_streaming_equals_numpy_on_all_the_data(sizes: list[int]) -> None:
    """However the data are cut into batches, moments and Gram matrices are those of all of it at once."""
    model, channels = two_groups()
    batches = batches_of((2, 6, 6), 5, tuple(sizes))
    x, _ = together(batches)

    seen = observe(model, channels, batches, needs={Need.ACTIVATION, Need.COVARIANCE})

    maps = {("0", "2.weight"): model[:2](x), ("2", "5.weight"): model[:4](x)}
    for (group, reader), h in maps.items():
        samples = h.detach().movedim(1, -1).reshape(-1, h.shape[1]).numpy()
        found = seen.covariances[group, reader]
        assert found.count == len(samples)
        np.testing.assert_allclose(
            found.gram.numpy(), samples.T @ samples / len(samples), rtol=1e-12, atol=1e-15
        )
        expected = np.cov(samples, rowvar=False, bias=True)
        np.testing.assert_allclose(found.covariance.numpy(), expected, rtol=1e-9, atol=1e-13)
        moments = seen.activations[group]
        np.testing.assert_allclose(moments.mean.numpy(), samples.mean(0), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(moments.absolute.numpy(), np.abs(samples).mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.square.numpy(), np.square(samples).mean(0), rtol=1e-12)


def test_float32_activations_are_added_in_float64() -> None:
    """The sums of a float32 model are those that numpy forms of its activations in float64."""
    model, channels = two_groups()
    model.float()
    batches = [(x.float() + 100, y) for x, y in batches_of((2, 6, 6), 5)]
    h = model[:2](together(batches)[0]).detach().movedim(1, -1).reshape(-1, 3).double().numpy()

    seen = observe(model, channels, batches, needs={Need.COVARIANCE})

    np.testing.assert_allclose(
        seen.covariances["0", "2.weight"].gram.numpy(), h.T @ h / len(h), rtol=1e-6, atol=1e-9
    )
    assert seen.covariances["0", "2.weight"].gram.dtype == torch.float64


def naive_taylor(model: Forked, x: Tensor, y: Tensor) -> Tensor:
    """Molchanov's score of the forked model's units, one example at a time, from the three reads."""
    total = torch.zeros(3, dtype=torch.float64)
    for i in range(len(x)):
        h = torch.tanh(model.first(x[i : i + 1])).detach()
        reads = [h.clone().requires_grad_(True) for _ in range(3)]
        out = model.left(reads[0]) + torch.tanh(model.right(reads[1])) * model.right(reads[2])
        grads = torch.autograd.grad(F.cross_entropy(out, y[i : i + 1]), reads)
        total += sum((g * h)[0] for g in grads).abs()
    return total / len(x)


def test_taylor_adds_readers_with_their_sign_for_each_example() -> None:
    """Several reads of a unit are added before the magnitude is taken, examples after it."""
    model, channels = forked()
    batches = batches_of((4,), 2)

    seen = observe(model, channels, batches, needs={Need.TAYLOR_ACTIVATION})

    torch.testing.assert_close(
        seen.taylor["first"].magnitude, naive_taylor(model, *together(batches)), rtol=1e-10, atol=1e-14
    )


def test_taylor_averages_over_positions() -> None:
    """On a map the products are averaged over its positions, with their sign, for each example."""
    model, channels = two_groups()
    batches = batches_of((2, 6, 6), 5)
    x, y = together(batches)

    seen = observe(model, channels, batches, needs={Need.TAYLOR_ACTIVATION})

    h = model[:2](x).detach().requires_grad_(True)
    (g,) = torch.autograd.grad(F.cross_entropy(model[2:](h), y, reduction="sum"), h)
    expected = (g * h).detach().mean((2, 3)).abs().mean(0)
    torch.testing.assert_close(seen.taylor["0"].magnitude, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("unit", range(3))
def test_taylor_is_first_order(unit: int) -> None:
    """Shrinking a unit by eps, the estimate errs by O(eps^2): the log-log slope is 2."""
    model, channels = forked()
    batches = batches_of((4,), 2)
    x, y = together(batches)
    gate = float(observe(model, channels, batches, needs={Need.TAYLOR_ACTIVATION}).taylor["first"].gate[unit])

    def loss(eps: float) -> float:
        shrunk = Forked().double()
        shrunk.load_state_dict(model.state_dict())
        with torch.no_grad():
            shrunk.left.weight[:, unit] *= 1 - eps
            shrunk.right.weight[:, unit] *= 1 - eps
            return float(F.cross_entropy(shrunk(x), y))

    eps = np.array([2.0**-k for k in range(4, 12)])
    errors = [abs(loss(e) - loss(0) + e * gate) for e in eps]

    slope = np.polyfit(np.log(eps), np.log(errors), 1)[0]
    assert abs(slope - 2) < 0.1


def test_gradients_are_those_of_the_mean_loss_over_all_examples() -> None:
    """Batches of uneven sizes weigh by their examples; frozen parameters have gradients, too."""
    model, channels = two_groups()
    batches = batches_of((2, 6, 6), 5)
    model[0].weight.requires_grad_(False)

    seen = observe(model, channels, batches, needs={Need.GRADIENT})

    model[0].weight.requires_grad_(True)
    x, y = together(batches)
    F.cross_entropy(model(x), y).backward()
    assert set(seen.gradients) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(seen.gradients[name], parameter.grad, rtol=1e-10, atol=1e-14)


def test_curvature_is_exact_for_a_diagonal_quadratic() -> None:
    """With a diagonal Hessian one probe finds the curvature of every weight of the groups, averaged over batches."""
    model, channels = two_groups()
    scale = torch.rand(3, 2, 3, 3, dtype=torch.float64)
    weight = model[0].weight

    seen = observe(
        model,
        channels,
        batches_of((2, 6, 6), 5),
        needs={Need.HESSIAN_DIAGONAL},
        loss=lambda _, y: (scale * weight**2).sum() * y.double().mean(),
        probes=1,
    )

    _, y = together(batches_of((2, 6, 6), 5))
    torch.testing.assert_close(seen.curvature["0.weight"], 2 * scale * y.double().mean(), rtol=1e-12, atol=0)
    assert set(seen.curvature) == {"0.weight", "2.weight", "5.weight"}
    assert not seen.curvature["5.weight"].any()


def test_curvature_of_a_network_approaches_its_hessian() -> None:
    """On a small network the mean over many probes is the diagonal of the exact Hessian."""
    model, channels = forked()
    batches = batches_of((4,), 2, (6,))
    (x, y), *_ = batches

    seen = observe(model, channels, batches, needs={Need.HESSIAN_DIAGONAL}, probes=400)

    def loss(weight: Tensor) -> Tensor:
        out = torch.func.functional_call(model, {"first.weight": weight}, (x,))
        return F.cross_entropy(out, y)

    exact = torch.autograd.functional.hessian(loss, model.first.weight.detach()).reshape(12, 12).diagonal()
    found = seen.curvature["first.weight"].flatten()
    assert float(np.corrcoef(found.numpy(), exact.numpy())[0, 1]) > 0.95
    assert float((found - exact).abs().max()) < 0.25 * float(exact.abs().max())


def everything(model: nn.Module) -> dict[str, object]:
    return {
        "modes": [m.training for m in model.modules()],
        "hooks": [len(m._forward_pre_hooks) for m in model.modules()],
        "requires": [p.requires_grad for p in model.parameters()],
        "grads": [p.grad for p in model.parameters()],
        "values": {n: v.tolist() for n, v in model.state_dict().items()},
        "random": torch.get_rng_state().tolist(),
    }


@pytest.mark.parametrize("need", Need)
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_found(need: Need, fails: bool, training: bool) -> None:
    """Mode, hooks, gradients, statistics and random state survive every kind of pass, also one that fails."""
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))
    channels = watch(model, torch.zeros(2, 4))
    model[3].weight.requires_grad_(False)
    before = everything(model)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.randn(5, 4), torch.zeros(5, dtype=torch.int64)
        if fails:
            raise KeyError("the data set's own error")

    if fails:
        with pytest.raises(KeyError):
            observe(model, channels, batches(), needs={need}, training=training)
    else:
        observe(model, channels, batches(), needs={need}, training=training)

    assert everything(model) == before


def test_the_pass_runs_in_evaluation_mode() -> None:
    """Dropout does nothing in the pass unless training mode is asked for."""
    model = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 2)).double()
    channels = watch(model, torch.zeros(1, 4, dtype=torch.float64))
    batches = batches_of((4,), 2)

    calm = observe(model, channels, batches, needs={Need.ACTIVATION}).activations["0"].mean
    dropped = observe(model, channels, batches, needs={Need.ACTIVATION}, training=True).activations["0"].mean

    torch.testing.assert_close(calm, model[0](together(batches)[0]).detach().mean(0), rtol=1e-12, atol=1e-14)
    assert not torch.allclose(calm, dropped)


def test_pixels_are_seen_where_they_are_read() -> None:
    """The network's input is a group like any other, with effects on the loss although data need no gradient."""
    model, channels = forked()
    pixels = (Member("input", 1, "input", each(4)), Member("first.weight", 1, "read", each(4)))
    channels = replace(channels, groups=(Group("input", 4, pixels),))
    batches = batches_of((4,), 2)

    seen = observe(model, channels, batches, needs={Need.ACTIVATION, Need.TAYLOR_ACTIVATION})

    torch.testing.assert_close(seen.activations["input"].mean, together(batches)[0].mean(0))
    assert bool((seen.taylor["input"].magnitude > 0).all())


class Bare(nn.Module):
    """Its second weight is a bare parameter, its third layer's weight is used without the layer, its fourth not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bare = nn.Linear(4, 3), nn.Parameter(torch.ones(2, 3))
        self.idle, self.unused, self.last = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return F.linear(h, self.bare) + F.linear(h, self.idle.weight) + self.last(h)


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        ("bare", "bare reads it and is not the weight of an ordinary"),
        ("idle.weight", "idle.weight is used without calling its layer"),
    ],
)
def test_groups_that_cannot_be_seen_are_reported(reader: str, reason: str) -> None:
    """A reader that is no layer, or whose layer is by-passed, leaves its group without an observation and says so."""
    model = Bare().double()
    members = (Member("first.weight", 0, "write", each(3)), Member(reader, 1, "read", each(3)))
    channels = replace(
        watch(model, torch.zeros(1, 4, dtype=torch.float64)), groups=(Group("first", 3, members),)
    )

    seen = observe(model, channels, batches_of((4,), 2), needs=set(Need))

    assert reason in seen.skipped["first"]
    assert [*seen.activations, *seen.taylor, *seen.covariances] == []
    assert set(seen.gradients) == {name for name, _ in model.named_parameters()}
    with pytest.raises(ModelError, match=r"group 'first' could not be observed: .* use a weight criterion"):
        seen.covariances_of("first")


def bare(*readers: str) -> tuple[nn.Module, Channels]:
    """The bare network with a group of the given readers."""
    model = Bare().double()
    members = [Member(f"{name}.weight", 1, "read", each(3)) for name in readers]
    group = Group("first", 3, (Member("first.weight", 0, "write", each(3)), *members))
    return model, replace(watch(model, torch.zeros(1, 4, dtype=torch.float64)), groups=(group,))


def test_a_reader_that_the_pass_does_not_use_adds_nothing() -> None:
    """An idle head beside a live reader changes no score; alone it leaves zeros, not NaN."""
    needs = {Need.ACTIVATION, Need.COVARIANCE, Need.TAYLOR_ACTIVATION}
    model, channels = bare("last", "unused")
    _, live = bare("last")
    _, idle = bare("unused")
    batches = batches_of((4,), 2)

    beside, without, alone = (observe(model, of, batches, needs=needs) for of in (channels, live, idle))

    assert torch.equal(beside.taylor["first"].magnitude, without.taylor["first"].magnitude)
    assert torch.equal(beside.activations["first"].mean, without.activations["first"].mean)
    assert torch.equal(pool(beside.covariances_of("first")).gram, pool(without.covariances_of("first")).gram)
    assert beside.covariances["first", "unused.weight"].count == 0
    assert alone.skipped == {}
    assert alone.taylor["first"].magnitude.tolist() == [0, 0, 0]
    assert not pool(alone.covariances_of("first")).gram.any()


def test_only_the_named_groups_are_observed() -> None:
    """Observing can be restricted to some groups."""
    model, channels = two_groups()

    seen = observe(model, channels, batches_of((2, 6, 6), 5), needs={Need.COVARIANCE}, groups=["2"])

    assert list(seen.covariances) == [("2", "5.weight")]


def test_inputs_may_be_several_or_named() -> None:
    """A batch's inputs are a tensor, a tuple or list of arguments, or a dictionary of them."""
    model, channels = forked()
    (x, y), *_ = batches_of((4,), 2)

    found = [
        observe(model, channels, [(inputs, y)], needs={Need.ACTIVATION}).activations["first"].mean
        for inputs in (x, (x,), [x], {"x": x})
    ]

    assert all(torch.equal(found[0], other) for other in found[1:])
