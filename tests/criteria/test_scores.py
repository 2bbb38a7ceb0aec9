"""Tests of secateur.criteria.scores."""

import numpy as np
import pytest
import torch

from secateur.criteria import Merge, Scores
from secateur.errors import ModelError, SettingsError


def merge(into: list[int], scale: list[float] | None = None, shift: list[float] | None = None) -> Merge:
    n = len(into)
    return Merge(np.array(into), np.array(scale or [1.0] * n), np.array(shift or [0.0] * n))


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_do_not_exist(bad: float) -> None:
    """The group and the unit are named."""
    with pytest.raises(ModelError, match=r"'l1' gives unit 1 of group 'conv' the score (nan|inf)"):
        Scores("l1", {"conv": doubles(1, bad)})


@pytest.mark.parametrize("values", [torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2)])
def test_scores_are_vectors_of_float64(values: torch.Tensor) -> None:
    """Another shape or type is refused."""
    with pytest.raises(SettingsError, match="must be float64 with one value a unit"):
        Scores("l1", {"conv": values})


def test_a_merge_goes_into_a_unit_that_is_alive() -> None:
    """Scores by which the target goes before the merged unit are refused; the last unit may point at itself."""
    Scores("similarity", {"conv": doubles(1, 2, 3)}, {"conv": merge([1, 2, 2])})

    with pytest.raises(SettingsError, match="merges unit 1 into unit 0, which is removed before it"):
        Scores("similarity", {"conv": doubles(1, 2, 3)}, {"conv": merge([1, 0, 2])})
    with pytest.raises(SettingsError, match="merges of group 'conv' have no scores of the same width"):
        Scores("similarity", {"conv": doubles(1, 2)}, {"conv": merge([1, 2, 2])})


@pytest.mark.parametrize(
    ("into", "scale", "message"),
    [
        ([0, 2], [1.0, 1.0], "goes into unit 2"),
        ([0, 1], [1.0], "three vectors of one length"),
        ([0, 1], [1.0, np.nan], "must be finite"),
    ],
)
def test_merges_check_themselves(into: list[int], scale: list[float], message: str) -> None:
    """Lengths, targets and numbers are checked at birth."""
    with pytest.raises(SettingsError, match=message):
        merge(into, scale)


def test_the_table_is_aligned() -> None:
    """The representation is a short table with one row a group."""
    title, *table = repr(Scores("l1", {"a": doubles(1, 2, 3), "longer name": doubles(0.25)})).splitlines()

    assert title == "Scores by l1"
    assert [line.split() for line in table] == [
        ["group", "width", "lowest", "median", "highest"],
        ["a", "3", "1", "2", "3"],
        ["longer", "name", "1", "0.25", "0.25", "0.25"],
    ]
    assert len({len(line) for line in table}) == 1
