"""Tests of secateur.criteria.normalise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.criteria import Scores, normalised
from secateur.criteria.redundancy import similarity
from secateur.errors import SettingsError


def scores_of(seed: int, zeros: bool = False) -> Scores:
    source = torch.Generator().manual_seed(seed)
    values = {str(n): torch.rand(n, generator=source, dtype=torch.float64) * 10**n for n in (1, 3, 8)}
    return Scores("l1", {**values, "idle": torch.zeros(4, dtype=torch.float64)} if zeros else values)


@pytest.mark.parametrize(("by", "order"), [("l1", 1), ("l2", 2)])
@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_every_group_has_norm_one_and_its_order(by, order: int, seed: int) -> None:
    """After it every group's norm is 1, and no two units of a group have changed places."""
    before = scores_of(seed)

    after = normalised(before, by)

    for name, values in after.values.items():
        assert float(torch.linalg.vector_norm(values, order)) == pytest.approx(1, rel=1e-12)
        assert values.argsort().tolist() == before.values[name].argsort().tolist()


def test_a_group_of_zeros_stays() -> None:
    """There is no norm to divide by, and no NaN."""
    assert normalised(scores_of(0, zeros=True), "l2").values["idle"].tolist() == [0, 0, 0, 0]


def test_none_changes_nothing() -> None:
    """Without a norm the scores are the same value."""
    scores = scores_of(0)

    assert normalised(scores, None) is scores


@pytest.mark.parametrize("by", ["l1", "l2"])
def test_merges_stay_in_order(by) -> None:
    """Ties that merging has broken by small steps are not made again by the division."""
    values, merge = similarity(torch.ones(200, 2), torch.rand(200, 2))

    after = normalised(Scores("similarity", {"g": values}, {"g": merge}), by)

    assert after.merges["g"] is merge
    assert len(after.values["g"].unique()) == 200


def test_an_unknown_norm_is_refused() -> None:
    """The message lists what there is."""
    with pytest.raises(SettingsError, match="normalise is 'max'; it must be 'l1', 'l2' or None"):
        normalised(scores_of(0), "max")  # type: ignore[arg-type]
