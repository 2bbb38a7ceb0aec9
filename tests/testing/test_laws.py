"""The checks themselves: they let right things pass, and catch what is wrong."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import secateur
from secateur.channels.groups import Member
from secateur.plan import change_of, plan_for
from secateur.testing import (
    CONSTRUCTS,
    LawError,
    Wired,
    check_cut,
    check_forecast,
    check_left_as_found,
    macs_of,
    outputs_of,
    randomise,
    relative_error,
    unread,
)


def case():
    construct = CONSTRUCTS["BatchNorm"]
    model, x = randomise(construct.build(), 1), construct.example()
    channels = secateur.watch(model, x)
    return model, x, plan_for(channels, [change_of(g, np.arange(0, g.width, 2)) for g in channels.groups])


def with_member(plan, tensor: str, change) -> secateur.plan:
    """The plan with one member of its first group changed."""
    group = plan.groups[0]
    members = tuple(change(m) if m.tensor == tensor else m for m in group.members)
    return replace(plan, groups=(replace(group, members=members), *plan.groups[1:]))


def test_a_right_cut_passes_with_a_figure():
    """The difference is returned, and it is rounding."""
    assert 0 <= check_cut(*case()) < 1e-12


@pytest.mark.parametrize(
    "tensor", ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "3.weight"]
)
def test_a_cut_that_takes_the_wrong_units_of_one_tensor_is_caught(tensor):
    """Shift what one member owns by one unit: whichever tensor it is, the outputs differ."""
    model, x, plan = case()
    wrong = with_member(
        plan, tensor, lambda m: Member(m.tensor, m.axis, m.role, np.roll(m.indices, 1, axis=0))
    )

    right = outputs_of(unread(copy.deepcopy(model).double(), plan), x.double())
    found = outputs_of(secateur.apply(copy.deepcopy(model).double(), wrong), x.double())

    assert relative_error(found, right) > 1e-4


def test_fused_attention_does_not_hide_what_is_absent():
    """PyTorch computes an encoder layer in eval mode as one operator: the oracle takes it apart."""
    layer = nn.TransformerEncoderLayer(12, 3, dim_feedforward=10, batch_first=True)
    model = randomise(nn.Sequential(nn.Linear(7, 12), layer, nn.Linear(12, 2))).eval()
    x = torch.randn(2, 5, 7)
    channels = secateur.watch(model, x)

    plan = secateur.plan(channels, secateur.score(model, channels, "random"), remove=0.4)

    assert any(not group.exact for group in plan.groups)
    assert check_cut(model, x, plan) < 1e-12


def test_wrong_outputs_are_told_with_figures():
    """The message says by how much the outputs differ, and for which plan."""
    model, x, plan = case()
    wrong = with_member(
        plan, "3.weight", lambda m: Member(m.tensor, m.axis, m.role, np.roll(m.indices, 1, axis=0))
    )

    with pytest.raises(
        LawError,
        match=r"outputs differ by \d.* of the largest value \(at most 1e-10\); the plan was\n2 groups",
    ):
        check_cut(model, x, wrong)


def test_a_wrong_forecast_is_caught():
    """One parameter too many is one too many."""
    model, x, plan = case()
    wrong = replace(plan, after=replace(plan.after, parameters=plan.after.parameters + 1))

    with pytest.raises(LawError, match="the plan forecasts"):
        check_forecast(secateur.apply(model, plan), x, wrong)


CHANGES = {
    "mode": (lambda m: m.eval(), "the mode of"),
    "value": (lambda m: m[0].weight.data.add_(1), "the value of '0.weight' changed"),
    "buffer": (lambda m: m[1].running_mean.add_(1), "the value of '1.running_mean' changed"),
    "gradient": (
        lambda m: setattr(m[0].weight, "grad", torch.ones_like(m[0].weight)),
        "gradient of '0.weight' changed",
    ),
    "requires_grad": (lambda m: m[0].weight.requires_grad_(False), "requires_grad of '0.weight' changed"),
    "hook": (lambda m: m[0].register_forward_hook(print), "_forward_hooks of '0' changed"),
    "attribute": (lambda m: setattr(m[0], "note", 1), "the attribute note of '0' changed"),
    "random state": (lambda m: torch.rand(1), "the random state of torch changed"),
    "numpy's random state": (lambda m: np.random.rand(), "the random state of numpy changed"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_changes_is_named(name):
    """Each kind of trace that an action can leave is found."""
    action, message = CHANGES[name]
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    with pytest.raises(LawError, match=message):
        check_left_as_found(model, lambda: action(model))


def test_outputs_must_have_the_same_shapes_and_be_finite():
    """Different shapes and infinite values are no small differences."""
    with pytest.raises(LawError, match="shapes"):
        relative_error([torch.zeros(2)], [torch.zeros(3)])
    with pytest.raises(LawError, match="not finite"):
        relative_error([torch.tensor([float("nan")])], [torch.zeros(1)])


def test_randomise_leaves_no_default_and_no_trace():
    """No norm keeps scale 1 or shift 0, variances stay positive, the same seed gives the same, the global state is unused."""
    before = torch.get_rng_state()
    a, b = (randomise(CONSTRUCTS["InstanceNorm with running statistics"].build(), 7) for _ in range(2))

    assert torch.equal(a[1].weight, b[1].weight)
    assert bool((a[1].weight != 1).all() and (a[1].bias != 0).all() and (a[1].running_var > 0).all())
    torch.set_rng_state(before)
    randomise(a, 8)
    assert torch.equal(torch.get_rng_state(), before)


class ClassToken(nn.Module):
    """A view of a parameter goes into a layer, as CaiT's class token does."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 4))
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(self.token.expand(len(x), -1, -1)) + x[..., :3]


def test_macs_of_a_parameters_view():
    """Named after CaiT, on which PyTorch's counter failed: the view asks for gradients where none are recorded."""
    model = ClassToken()

    assert macs_of(model, torch.zeros(2, 1, 4)) == 12.0
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_row_is_absent_though_it_does_not_read_everything():
    """Where a layer loses rows and columns and a norm follows, its rows are absent as a whole (they counted as zeros)."""
    net = Wired(
        lambda m, x: m.head((y := m.stem(x)) + m.norm(m.outer(m.inner(y).relu()))),
        stem=nn.Conv2d(3, 8, 3), inner=nn.Conv2d(8, 6, 1), outer=nn.Conv2d(6, 8, 1, bias=False), norm=nn.GroupNorm(1, 8), head=nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    model, x = randomise(net), torch.randn(2, 3, 5, 5)
    channels = secateur.watch(model, x)
    plan = secateur.plan(channels, secateur.score(model, channels, "l1"), remove=0.5)
    assert [change.group for change in plan.changes] == ["stem", "inner"]

    check_cut(model, x, plan)


def test_what_is_absent_is_absent_in_the_padding_too():
    """A map is padded before a norm over channels: padding of an absent channel is absent (Swin's odd maps were not comparable)."""
    net = Wired(
        lambda m, x: m.head(m.norm(nn.functional.pad(m.stem(x), (0, 1, 0, 1)).permute(0, 2, 3, 1))),
        stem=nn.Conv2d(3, 8, 3), norm=nn.LayerNorm(8), head=nn.Linear(8, 2),
    )  # fmt: skip
    model, x = randomise(net), torch.randn(2, 3, 5, 5)
    channels = secateur.watch(model, x)

    check_cut(model, x, secateur.plan(channels, secateur.score(model, channels, "l1"), remove=0.5))
