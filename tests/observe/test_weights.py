"""What the loss says of single weights, example by example."""

import pytest
import torch
from torch import nn

from secateur.errors import DataError, ModelError, SettingsError
from secateur.observe import observe_weights, weights_of
from secateur.testing.laws import check_left_as_found


class Varied(nn.Module):
    """Layers of every kind, one of them called twice, one that shares its weight, and a write in place."""

    def __init__(self, activation=nn.functional.relu):
        super().__init__()
        self.activation = activation
        self.conv = nn.Conv2d(2, 4, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.same = nn.Conv2d(4, 4, 3, padding="same", groups=2)
        self.up = nn.ConvTranspose2d(4, 3, 2)
        self.line = nn.Conv1d(3, 2, 3, dilation=2, padding=2, padding_mode="circular")
        self.tokens = nn.Linear(5, 4)
        self.twice = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.twice.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        h = self.norm(self.conv(x))
        h = h + self.same(self.activation(h))
        h = self.activation(self.up(h)).mean(2)
        h = self.tokens(self.line(h)).flatten(1)
        h = self.activation(self.twice(self.activation(self.twice(h))))
        h = self.tied(h)
        h.clamp_(min=-1)
        return self.head(h)


def varied(**options):
    torch.manual_seed(0)
    return Varied(**options).double().eval()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(7, 2, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (7,), generator=generator)


def in_batches(data):
    x, y = data
    return [(x[:4], y[:4]), (x[4:], y[4:])]


def test_gradients_are_those_of_single_examples(data):
    """The mean size over examples of the gradient of each one's own loss, whatever the layer and the batches."""
    model, (x, y) = varied(), data
    names = weights_of(model)
    wanted = {name: torch.zeros_like(model.get_parameter(name)) for name in names.values()}
    for n in range(len(x)):
        loss = nn.functional.cross_entropy(model(x[n : n + 1]), y[n : n + 1])
        for name, g in zip(
            wanted, torch.autograd.grad(loss, [model.get_parameter(name) for name in wanted]), strict=True
        ):
            wanted[name] += g.abs() / len(x)

    found = observe_weights(model, names, in_batches(data), needs=["gradient"])

    assert found.examples == 7
    assert list(found.gradients) == list(wanted)
    for name, gradient in wanted.items():
        assert torch.allclose(found.gradients[name], gradient, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("layer", ["conv", "same", "up", "line", "tokens", "head"])
def test_curvature_is_the_hessians_diagonal_where_activations_are_piecewise_linear(data, layer):
    """It is exact, not sampled: with ReLU, that of the mean loss for each weight of a layer that is called once."""
    model, (x, y) = varied(), data
    name = f"{layer}.weight"
    weight = model.get_parameter(name)
    loss = nn.functional.cross_entropy(model(x), y)
    (first,) = torch.autograd.grad(loss, weight, create_graph=True)
    wanted = torch.stack(
        [
            torch.autograd.grad(g, weight, retain_graph=True)[0].flatten()[i]
            for i, g in enumerate(first.flatten())
        ]
    ).reshape(weight.shape)

    found = observe_weights(model, [layer], in_batches(data), needs=["curvature"])

    assert torch.allclose(found.curvature[name], wanted, rtol=1e-8, atol=1e-13)


def test_curvature_leaves_out_the_outputs_own(data):
    """Where activations bend it is the Gauss-Newton diagonal: squares of the outputs' derivatives, never negative."""
    model, x = varied(activation=torch.tanh), data[0]
    names = weights_of(model)
    wanted = {name: torch.zeros_like(model.get_parameter(name)) for name in names.values()}
    for n in range(len(x)):
        out = model(x[n : n + 1])[0]
        p = out.softmax(0).detach()
        hessian = torch.diag(p) - torch.outer(p, p)
        rows = [
            torch.autograd.grad(z, [model.get_parameter(name) for name in wanted], retain_graph=True)
            for z in out
        ]
        for place, name in enumerate(wanted):
            jacobian = torch.stack([row[place] for row in rows])
            wanted[name] += torch.einsum("a...,ab,b...->...", jacobian, hessian, jacobian) / len(x)

    found = observe_weights(model, names, in_batches(data), needs=["gradient", "curvature"]).curvature

    assert all(torch.allclose(found[name], each, rtol=1e-8, atol=1e-14) for name, each in wanted.items())
    assert all(bool((each >= 0).all()) for each in found.values())


def test_a_linear_loss_has_no_curvature(data):
    """There is nothing to square."""
    found = observe_weights(
        varied(), ["head"], in_batches(data), needs=["curvature"], loss=lambda z, _: z.sum(1).mean()
    )

    assert not found.curvature["head.weight"].any()


def test_the_network_is_left_as_found(data):
    """Its mode, hooks, gradients and what is frozen, also after an error."""
    model = varied().train()
    model.conv.weight.requires_grad_(False)
    check_left_as_found(
        model,
        lambda: observe_weights(model, weights_of(model), in_batches(data), needs=["gradient", "curvature"]),
    )

    def fails():
        with pytest.raises(DataError, match="NaN"):
            observe_weights(model, ["conv"], [(data[0] * torch.nan, data[1])], needs=["gradient"])

    check_left_as_found(model, fails)


def test_which_weights_take_part():
    """Those of dense and convolutional layers, a shared one once; not norms, embeddings, or weights that are computed."""
    shared = nn.Linear(4, 4)
    tied = nn.Linear(4, 4)
    tied.weight = shared.weight
    net = nn.ModuleDict(
        {
            "a": shared, "b": tied, "n": nn.LayerNorm(4), "e": nn.Embedding(3, 4),
            "w": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "t": nn.ConvTranspose1d(2, 3, 4),
        }
    )  # fmt: skip

    assert weights_of(net) == {"a": "a.weight", "t": "t.weight"}
    assert weights_of(nn.Linear(1, 1)) == {"": "weight"}


class Odd(nn.Module):
    """One layer that is not called, one that takes in rows that are no examples, one that shares with an embedding."""

    def __init__(self):
        super().__init__()
        self.idle, self.rows, self.tied = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.table = nn.Embedding(2, 2)
        self.tied.weight = self.table.weight

    def forward(self, x):
        return self.tied(self.rows(x.reshape(-1, 2)).reshape(len(x), -1, 2).sum(1))


def test_what_cannot_be_seen_is_told():
    """Layers whose inputs are not seen, or not by example, and options that are none."""
    batch = [(torch.ones(3, 4, 2), torch.zeros(3, dtype=torch.int64))]
    for layer, words in (
        ("idle", "is not called"),
        ("rows", "12 rows for a batch of 3"),
        ("tied", "another module \\(Embedding\\)"),
    ):
        with pytest.raises(ModelError, match=words):
            observe_weights(Odd(), [layer], batch, needs=["gradient"])
    with pytest.raises(ModelError, match="did you mean 'rows'"):
        observe_weights(Odd(), ["row"], batch, needs=["gradient"])
    with pytest.raises(SettingsError, match="gradient, curvature"):
        observe_weights(Odd(), ["rows"], batch, needs=["activation"])
    with pytest.raises(DataError, match="no batch"):
        observe_weights(nn.Linear(2, 2), [""], [], needs=["gradient"])
    with pytest.raises(DataError, match="no example"):
        observe_weights(nn.Linear(2, 2), [""], [(torch.ones(0, 2), torch.ones(0))], needs=["gradient"])
    with pytest.raises(ModelError, match="one tensor"):
        observe_weights(
            nn.Linear(2, 2), [""], [(torch.ones(1, 2), None)], needs=["curvature"], forward_fn=lambda m, x: (m(x),),
            loss=lambda z, _: z[0].sum(),
        )  # fmt: skip
