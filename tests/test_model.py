"""Tests of secateur._model."""

import gc
import random

import numpy as np
import pytest
import torch
from torch import nn

from secateur._model import (
    check_finite,
    copied,
    left_as_found,
    named_tensors,
    tensors_in_place,
    uncollected,
)
from secateur.errors import ModelError


def disturb(model: nn.Module) -> None:
    """Change everything about a model that running it may change."""
    model.train()
    model(torch.randn(4, 3)).sum().backward()
    model.eval()
    model[0].register_forward_hook(lambda *_: None)
    model[0].register_forward_pre_hook(lambda *_: None, with_kwargs=False)
    model[0].register_full_backward_hook(lambda *_: None)
    for parameter in model.parameters():
        parameter.requires_grad_(not parameter.requires_grad)
    np.random.rand()
    random.random()


def state(model: nn.Module) -> dict[str, object]:
    """Everything that must not change, as comparable values."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_pre_hooks_with_kwargs")
    return {
        "modes": [module.training for module in model.modules()],
        "hooks": [list(getattr(module, name)) for module in model.modules() for name in hooks],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "gradient tensors": [id(p.grad) for p in model.parameters()],
        "values": {name: value.tolist() for name, value in model.state_dict().items()},
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[2],
        "python": random.getstate(),
    }


@pytest.fixture
def model() -> nn.Module:
    """A model in mixed modes, with a gradient, a hook and a frozen parameter."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    model[1].eval()
    model(torch.ones(2, 3)).sum().backward()
    model[0].bias.requires_grad_(False)
    model[0].register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(model: nn.Module, fails: bool) -> None:
    """Mode, hooks, gradients, buffers and random state are as before, also after an exception."""
    before = state(model)

    try:
        with left_as_found(model):
            assert all(parameter.grad is None for parameter in model.parameters())
            disturb(model)
            if fails:
                raise KeyError
    except KeyError:
        assert fails

    assert state(model) == before


def test_removing_a_hook_still_works_afterwards(model: nn.Module) -> None:
    """A handle that the caller holds removes its hook after the model was put back."""
    handle = model[0].register_forward_hook(lambda *_: None)
    count = len(model[0]._forward_hooks)

    with left_as_found(model):
        model[0].register_forward_hook(lambda *_: None)
    handle.remove()

    assert len(model[0]._forward_hooks) == count - 1


def test_shared_tensors_have_all_their_names() -> None:
    """A parameter that two layers share is found under both names."""
    layer = nn.Linear(2, 2, bias=False)

    assert list(named_tensors(nn.Sequential(layer, layer))) == ["0.weight", "1.weight"]


def test_not_finite_is_refused_by_name() -> None:
    """A NaN is named with its tensor; integers are never questioned."""
    check_finite({"count": torch.tensor([1])})

    with pytest.raises(ModelError, match=r"'conv\.weight' holds 1 values that are NaN or infinite \(of 2\)"):
        check_finite({"conv.weight": torch.tensor([float("nan"), 1.0])})


class Keeps(nn.Module):
    """A module that keeps more than tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.again, self.shared, self.sizes = self.layer, {"layer": self.layer}, [3, (3, 3)]
        self.same = self.shared
        self.call = self.layer.forward
        self.register_forward_hook(lambda *_: None)

    def forward(self, x):
        return self.call(x)


def test_a_copy_has_its_own_of_everything():
    """A copy refers to itself where the original refers to itself, and shares nothing that can change with it."""
    model = nn.Sequential(Keeps(), nn.BatchNorm1d(3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    x = torch.randn(4, 3)
    wanted = model.eval()(x)

    made = copied(model, {})
    model[0].sizes.append(4)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()

    keeps = made[0]
    assert torch.equal(made(x), wanted)
    assert not {id(module) for module in made.modules()} & {id(module) for module in model.modules()}
    assert keeps.again is keeps.layer is keeps.shared["layer"]
    assert keeps.call.__self__ is keeps.layer
    assert keeps.same is keeps.shared
    assert keeps.sizes == [3, (3, 3)]
    assert list(keeps._forward_hooks) == list(model[0]._forward_hooks)


def test_a_copy_takes_what_stands_for_the_originals():
    """Tensors and modules that something stands for already are not copied."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3)))
    weight, other = nn.Parameter(torch.zeros(1, 2)), nn.Identity()
    memo = {id(model[0].weight): weight, id(model[1]): other}

    made = copied(model, memo)

    assert made[0].weight is weight
    assert made[1] is other
    assert made[0].bias is not model[0].bias
    assert id(model[1][0].weight) not in memo, "what is inside of a module that is replaced is not copied"


def test_a_place_is_named_once():
    """A module that is there twice has its tensors once; tensors that two modules share are there for both."""
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.weight = layer.weight

    places = tensors_in_place(nn.Sequential(layer, layer, other))

    assert list(places) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_garbage_is_collected_again():
    """After a stretch without garbage collection, and after an exception in one, it is as it was."""
    with pytest.raises(ValueError), uncollected():  # noqa: PT011, PT012 - what it says does not matter
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
