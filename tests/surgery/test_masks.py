"""Masks: single weights at zero, held there, and the same as a cut where they say what a plan says."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.strategies import nets_and_plans, random_plan
from torch import nn

import secateur
from secateur.errors import ModelError, PlanError, SettingsError
from secateur.plan import change_of, compensate, plan_for
from secateur.surgery import Masks, holding, mask, masks_of
from secateur.testing import CONSTRUCTS, randomise
from secateur.testing.laws import outputs_of, relative_error

_QUIET = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
}


def dense(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def some(model, seed=0, share=0.5):
    """Masks of every weight of more than one axis, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    return Masks(
        {
            name: torch.rand(p.shape, generator=generator) >= share
            for name, p in model.named_parameters()
            if p.dim() > 1
        }
    )


def zeros_stay(model, masks):
    return all(bool((dict(model.named_parameters())[n][~kept] == 0).all()) for n, kept in masks.kept.items())


@_QUIET
@given(case=nets_and_plans())
def test_a_masked_plan_computes_what_the_cut_network_does(case):
    """Masking the readers of what goes equals cutting it, whatever the network."""
    net, ratio, seed = case
    plan = random_plan(secateur.watch(net.model, net.x), ratio=ratio, seed=seed)
    cut = secateur.apply(net.model, plan).double()
    masked = mask(net.model, masks_of(net.model, plan)).double()

    assert relative_error(outputs_of(masked, net.x.double()), outputs_of(cut, net.x.double())) < 1e-10


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_constructs_are_masked_exactly_or_refused(name):
    """Each construct computes the same masked and cut; where a norm runs over the units, no mask could."""
    construct = CONSTRUCTS[name]
    model = randomise(construct.build(), seed=1).double()
    x = construct.example(seed=2).double()
    channels = secateur.watch(model, x)
    plan = random_plan(channels, ratio=0.5, seed=3)
    if not all(group.exact for group in plan.groups):
        with pytest.raises(PlanError, match="norm takes statistics"):
            masks_of(model, plan)
        return
    masked = mask(model, masks_of(model, plan))

    assert relative_error(outputs_of(masked, x), outputs_of(secateur.apply(model, plan), x)) < 1e-10


@_QUIET
@given(case=nets_and_plans(), drawn=st.integers(0, 99))
def test_masks_follow_a_cut(case, drawn):
    """Masked and then cut has its zeros exactly where the masks after the plan say, and nowhere else."""
    net, ratio, seed = case
    plan = random_plan(secateur.watch(net.model, net.x), ratio=ratio, seed=seed)
    masks = some(net.model, drawn)

    cut = secateur.apply(mask(net.model, masks), plan)
    after = masks.after(plan)

    after.check(cut)
    for name, kept in after.kept.items():
        assert torch.equal(dict(cut.named_parameters())[name] != 0, kept)


def test_masks_follow_merges_and_widening():
    """A weight that a merge or a compensation makes of several stays if one of them does; copies are masked alike."""
    model, x = dense(), torch.randn(40, 6, dtype=torch.float64)
    channels = secateur.watch(model, x)
    batches = [(x, torch.randint(3, (40,)))]
    seen = secateur.observe.observe(model, channels, batches, needs={secateur.observe.Need.COVARIANCE})
    planned = secateur.plan(channels, secateur.score(model, channels, "l1"), remove=0.4)
    wide = plan_for(channels, [change_of(channels.group("0"), [0, 1, 2, 3, 4, 5, 5, 6, 7, 7])])
    masks = some(model, 3, share=0.7)

    for plan in (compensate(planned, seen, method="least-squares"), wide):
        cut = secateur.apply(mask(model, masks), plan)
        after = masks.after(plan)
        after.check(cut)
        assert zeros_stay(cut, after)


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_cut_weights_stay_zero_through_training(rule):
    """Neither momentum from before, nor weight decay, nor the rule itself brings a cut weight back, not by a bit."""
    model, x, y = dense(), torch.randn(30, 6, dtype=torch.float64), torch.randint(3, (30,))
    optimizer = OPTIMIZERS[rule](model.parameters())

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            yield

    list(train(5))
    masks = some(model)
    with holding(model, masks, optimizer):
        assert zeros_stay(model, masks)
        for _ in train(10):
            assert zeros_stay(model, masks)
    assert all(bool((p[masks.kept[n]] != 0).all()) for n, p in model.named_parameters() if n in masks.kept)
    assert not model[0].weight._post_accumulate_grad_hooks  # given back as found
    list(train(1))
    assert not zeros_stay(model, masks)


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_training_masked_equals_training_cut(rule):
    """What is left learns the same whether the rest is masked or cut away, also where gradients are clipped."""
    model, x, y = dense(), torch.randn(30, 6, dtype=torch.float64), torch.randint(3, (30,))
    plan = random_plan(secateur.watch(model, x), ratio=0.5, seed=1)
    cut, masks = secateur.apply(model, plan), masks_of(model, plan)

    def train(net):
        optimizer = OPTIMIZERS[rule](net.parameters())
        with holding(net, masks, optimizer) if net is model else torch.enable_grad():
            for _ in range(6):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x), y).backward()
                nn.utils.clip_grad_norm_(net.parameters(), 0.1)
                optimizer.step()
        return net

    assert relative_error(outputs_of(train(model), x), outputs_of(train(cut), x)) < 1e-9


def test_a_running_average_that_begins_inside_stays_zero():
    """PyTorch's own averaged model of a held network has the same zeros."""
    model, x = dense(), torch.randn(9, 6, dtype=torch.float64)
    optimizer, masks = torch.optim.SGD(model.parameters(), lr=0.1), some(model)
    with holding(model, masks, optimizer):
        average = torch.optim.swa_utils.AveragedModel(model)
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
            average.update_parameters(model)

    assert zeros_stay(average.module, masks)
    masks.check(average)


def test_masking_copies_unless_asked():
    """A network is left as it is, or changed itself, in its wrappers too."""
    model = dense()
    masks, before = some(model), copy.deepcopy(model.state_dict())
    masked = mask(model, masks)
    wrapped = mask(nn.DataParallel(model), masks)

    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert zeros_stay(masked, masks)
    assert isinstance(wrapped, nn.DataParallel)
    assert zeros_stay(wrapped.module, masks)
    assert mask(model, masks, inplace=True) is model
    assert zeros_stay(model, masks)


def test_counts_and_combination():
    """Counts are those of the tensors; both masks together keep what both keep, and know what either does."""
    a = Masks({"x": torch.tensor([True, False, True, True])})
    b = Masks({"x": torch.tensor([True, True, False, True]), "y": torch.tensor([[False], [True]])})
    both = a & b

    assert (a.left, a.total, a.share) == (3, 4, 0.25)
    assert both.kept["x"].tolist() == [True, False, False, True]
    assert both.kept["y"].tolist() == [[False], [True]]
    assert (both.left, both.total, both.share) == (3, 6, 0.5)
    assert both.digest == (b & a).digest != a.digest
    assert Masks.from_tensors(both.tensors()).digest == both.digest


def test_masks_are_values():
    """What a caller does to a tensor later does not change the masks."""
    given_ = torch.tensor([True, True])
    masks = Masks({"x": given_})
    given_[0] = False

    assert masks.left == 2


@pytest.mark.parametrize("kept", [{}, {"x": torch.ones(2)}, {"x": torch.ones(0, dtype=torch.bool)}])
def test_what_is_no_mask_is_refused(kept):
    """Numbers, nothing, and tensors without weights are no masks."""
    with pytest.raises(SettingsError):
        Masks(kept)


def test_foreign_networks_are_refused_and_left_alone():
    """A network without the parameter, or of another shape, is told so, and which name is near."""
    model = dense()
    before = copy.deepcopy(model.state_dict())
    wrong = Masks(
        {"0.weight": torch.zeros(8, 6, dtype=torch.bool), "0.weigth": torch.ones(1, dtype=torch.bool)}
    )
    with pytest.raises(PlanError, match=r"did you mean '0\.weight'"):
        mask(model, wrong, inplace=True)
    with pytest.raises(PlanError, match=r"\(2, 2\).*\(8, 6\)"):
        Masks({"0.weight": torch.ones(2, 2, dtype=torch.bool)}).check(model)
    with (
        pytest.raises(ModelError, match="none of the network's parameters"),
        holding(model, some(model), torch.optim.SGD(dense().parameters(), lr=0.1)),
    ):
        pass
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    with pytest.raises(SettingsError, match="combine masks of one network"):
        Masks({"x": torch.ones(2, dtype=torch.bool)}) & Masks({"x": torch.ones(3, dtype=torch.bool)})


def test_plans_that_masks_cannot_follow_are_refused():
    """Merging, widening, and plans of other networks or for other masks are told what to do instead."""
    model, x = dense(), torch.randn(4, 6, dtype=torch.float64)
    channels = secateur.watch(model, x)
    plan = random_plan(channels, ratio=0.5, seed=0)
    wide = plan_for(channels, [change_of(channels.group("0"), [0, 1, 1, 2])])
    with pytest.raises(PlanError, match="widens '0'"):
        masks_of(model, wide)
    with pytest.raises(PlanError, match="made for another network"):
        masks_of(secateur.apply(model, plan), plan)
    with pytest.raises(PlanError, match="does not fit the masks"):
        Masks({"2.weight": torch.ones(2, 2, dtype=torch.bool)}).after(plan)
