"""Tests of secateur.criteria.view."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur._model import named_tensors
from secateur.channels.groups import Group, Member, Role
from secateur.criteria import View, rows
from secateur.errors import ModelError
from secateur.observe import Observations


def member(tensor: str, axis: int, role: Role, indices: list[list[int]]) -> Member:
    return Member(tensor, axis, role, np.array(indices))


def view_of(model: nn.Module, *members: Member, biases: dict[str, str] | None = None) -> View:
    group = Group("g", len(members[0].indices), members)
    return View(group, named_tensors(model), biases or {}, Observations(frozenset(), 0), torch.Generator())


def each(count: int) -> list[list[int]]:
    return [[i] for i in range(count)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rows_bring_the_axis_first(axis: int) -> None:
    """Row u holds exactly the entries at unit u's positions, whatever the axis."""
    tensor = torch.arange(60).reshape(3, 4, 5)

    found = rows(tensor, member("w", axis, "read", [[2], [0]]), 2)

    for row, position in zip(found, [2, 0], strict=True):
        assert row.tolist() == tensor.select(axis, position).flatten().tolist()


def test_rows_honour_blocks_and_sub_ranges() -> None:
    """A unit that owns several columns behind others has them all in its row."""
    tensor = torch.arange(12).reshape(2, 6)

    found = rows(tensor, member("w", 1, "read", [[2, 3], [5, 4]]), 2)

    assert found.tolist() == [[2, 8, 3, 9], [5, 11, 4, 10]]


def test_rows_of_another_model_are_refused() -> None:
    """A tensor that is too small says that the channels are not its own."""
    with pytest.raises(
        ModelError, match=r"fc\.weight has 2 positions on axis 1, .* position 2: .* another model"
    ):
        rows(torch.zeros(3, 2), member("fc.weight", 1, "read", each(3)), 3)


def test_a_transposed_convolution_writes_along_its_second_axis() -> None:
    """Its own rows are those of axis 1, its readers' rows those of axis 0."""
    model = nn.Sequential(nn.ConvTranspose1d(2, 3, 2), nn.ConvTranspose1d(3, 2, 2))

    view = view_of(model, member("0.weight", 1, "write", each(3)), member("1.weight", 0, "read", each(3)))

    assert torch.equal(view.own_rows(), model[0].weight.detach().double().transpose(0, 1).reshape(3, -1))
    assert torch.equal(view.read_rows(), model[1].weight.detach().double().reshape(3, -1))


def test_several_writers_and_readers_stand_side_by_side() -> None:
    """A residual group's row holds the weights of every writer, or of every reader."""
    model = nn.ModuleList([nn.Linear(2, 3), nn.Linear(4, 3), nn.Linear(3, 5), nn.Linear(3, 6)])
    members = [member(f"{i}.weight", 0, "write", each(3)) for i in (0, 1)]
    members += [member(f"{i}.weight", 1, "read", each(3)) for i in (2, 3)]

    view = view_of(model, *members)

    assert view.own_rows().shape == (3, 6)
    assert view.read_rows().shape == (3, 11)


def test_the_input_is_judged_by_its_readers() -> None:
    """Pixels have no weights of their own; similarity, which needs them, says so."""
    model = nn.Sequential(nn.Linear(3, 2))

    view = view_of(model, member("input", 1, "input", each(3)), member("0.weight", 1, "read", each(3)))

    assert torch.equal(view.own_rows(), view.read_rows())
    with pytest.raises(ModelError, match="group 'g' has no weights of its own that could be similar"):
        view.signature()


def test_a_tensor_that_is_missing_is_named() -> None:
    """Rows of a tensor that the model does not have are refused by name."""
    view = view_of(nn.Sequential(nn.Linear(3, 2)), member("9.weight", 0, "write", each(2)))

    with pytest.raises(ModelError, match=r"group 'g' names 9\.weight, which is not there"):
        view.own_rows()


def signature_of(model: nn.Module, names: dict[str, Role], biases: dict[str, str]) -> Tensor:
    members = [member(name, 0, role, each(3)) for name, role in names.items()]
    return view_of(model, *members, biases=biases).signature()


def random_norm() -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(3).double().eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.5, 2)
    return norm


@pytest.mark.parametrize("bias", [True, False])
def test_the_norm_is_folded_into_its_only_writer(bias: bool) -> None:
    """The row of a dense layer with batch norm is the weight and bias of the dense layer that does the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3, bias=bias).double(), random_norm())
    carried = [f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    names: dict[str, Role] = {"0.weight": "write", **dict.fromkeys(carried, "carry")}
    if bias:
        names["0.bias"] = "carry"

    found = signature_of(model, names, {"0.weight": "0.bias"} if bias else {})

    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(x @ found[:, :4].T + found[:, 4], model(x), rtol=1e-10, atol=1e-12)


def test_a_norm_that_is_not_alone_stands_beside_the_weights() -> None:
    """With two writers nobody knows whose norm it is: its scale and shift are entries of their own."""
    model = nn.ModuleList([nn.Linear(2, 3).double(), nn.Linear(4, 3).double(), random_norm()])
    carried = [f"2.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    names: dict[str, Role] = {"0.weight": "write", "1.weight": "write", **dict.fromkeys(carried, "carry")}

    found = signature_of(model, names, {})

    norm = model[2]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    expected = torch.cat([model[0].weight, model[1].weight, scale[:, None]], dim=1).detach()
    torch.testing.assert_close(found[:, :7], expected)
    torch.testing.assert_close(found[:, 7], (norm.bias - norm.running_mean * scale).detach())
