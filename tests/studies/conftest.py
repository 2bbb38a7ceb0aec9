"""A small study that is run in seconds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from secateur.studies import Study

SMALL: dict[str, Any] = {
    "networks": "digits-net",
    "data": "digits",
    "seeds": [0, 1],
    "train": {"epochs": 2},
    "judge_examples": 100,
    "experiment": [
        {"name": "criteria", "criterion": ["l1", "random"], "step": 0.3},
        {
            "name": "retraining", "compare": "retrain", "criterion": "l1", "retrain": ["none", "network"],
            "iterations": [0, 3], "step": 0.3, "max_drop": 30.0,
        },
    ],
}  # fmt: skip


@pytest.fixture(scope="session")
def small() -> Callable[..., Study]:
    """The study with some of it changed."""

    def made(**changes: Any) -> Study:
        return Study(**{**copy.deepcopy(SMALL), **changes})

    return made
