"""Law 1, cutting equals not reading, and law 2, forecast equals fact, over random networks and named constructs."""

import pytest
from hypothesis import HealthCheck, given, settings
from tests.strategies import nets_and_plans, random_plan

import secateur
from secateur.testing import CONSTRUCTS, EXOTIC, Construct, check_cut, randomise

_ALL = {**CONSTRUCTS, **EXOTIC}
_QUIET = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@_QUIET
@given(case=nets_and_plans())
def test_cutting_equals_not_reading(case):
    """Whatever goes, the cut network computes what the full one does when nobody reads it; costs are as forecast."""
    net, ratio, seed = case
    channels = secateur.watch(net.model, net.x)
    assert not channels.notes
    assert not channels.unknown_ops
    assert all(group.exact for group in channels.groups)

    check_cut(net.model, net.x, random_plan(channels, ratio=ratio, seed=seed))


@_QUIET
@given(case=nets_and_plans(across_channels=True))
def test_norms_over_channels_see_the_kept_ones_only(case):
    """With layer and group norm the law is: the same network whose norms take statistics over the kept channels."""
    net, ratio, seed = case
    channels = secateur.watch(net.model, net.x)
    assert not channels.notes
    assert any(not group.exact for group in channels.groups)

    check_cut(net.model, net.x, random_plan(channels, ratio=ratio, seed=seed))


@pytest.mark.parametrize("name", _ALL)
@pytest.mark.parametrize("ratio", [0.3, 0.9])
def test_constructs_are_cut_exactly(name: str, ratio: float):
    """Each construct is cut exactly where it is cut at all, and what is not understood stays whole."""
    construct: Construct = _ALL[name]
    model = randomise(construct.build(), seed=1)
    example = construct.example(seed=2).to(next(model.parameters()).dtype)
    channels = secateur.watch(model, example)

    for seed in range(3):
        plan = random_plan(channels, ratio=ratio, seed=seed)
        check_cut(model, example, plan, forecast=construct.counted)
