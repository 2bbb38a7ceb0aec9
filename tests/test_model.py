"""Tests of secateur._model."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from secateur._model import check_finite, left_as_found, named_tensors
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
