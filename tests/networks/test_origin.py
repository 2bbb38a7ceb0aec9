"""A network remembers how it was built."""

import copy

import pytest
from torch import nn

from secateur.errors import ModelError
from secateur.networks import Origin, build, origin_of, set_origin


def test_build_records_the_origin():
    """A built network's record builds the same architecture again."""
    model = build("lenet5", seed=3, classes=26)

    origin = origin_of(model)

    assert origin == Origin("lenet5", {"classes": 26})
    again = build(origin.spec, **origin.arguments)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


def test_a_copy_keeps_the_origin():
    """A deep copy of a network comes from where the network came from."""
    model = build("resnet20")

    assert origin_of(copy.deepcopy(model)) == Origin("resnet20", {})


def test_the_origin_is_no_part_of_the_weights():
    """Recording an origin adds nothing to the state of a network."""
    model = nn.Linear(2, 2)
    before = set(model.state_dict())

    set_origin(model, Origin("mine:linear", {}))

    assert set(model.state_dict()) == before
    assert origin_of(model) == Origin("mine:linear", {})


def test_an_unknown_origin_is_none():
    """A network that was not built here has no origin."""
    assert origin_of(nn.Linear(2, 2)) is None


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan")])
def test_arguments_must_be_json(value):
    """An argument that no file could hold is refused by name."""
    with pytest.raises(ModelError, match=r"mine:net: the argument extra=.* cannot be written as JSON"):
        Origin("mine:net", {"extra": value})
