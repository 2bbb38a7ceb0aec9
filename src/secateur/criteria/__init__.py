"""Criteria: how much each channel matters."""

from secateur.criteria.blocks import BlockCriterion, BlockScores, score_blocks
from secateur.criteria.criterion import CRITERIA, Criterion, GroupFunction, Kernel, criterion_named, lift
from secateur.criteria.normalise import Norm, normalised
from secateur.criteria.relevance import certainty
from secateur.criteria.score import Data, HasBatches, score
from secateur.criteria.scores import Merge, Scores
from secateur.criteria.single_weights import (
    WEIGHT_CRITERIA,
    FineGrain,
    WeightCriterion,
    WeightScores,
    score_weights,
    weight_criterion_named,
)
from secateur.criteria.view import View, rows

__all__ = [
    "CRITERIA",
    "WEIGHT_CRITERIA",
    "BlockCriterion",
    "BlockScores",
    "Criterion",
    "Data",
    "FineGrain",
    "GroupFunction",
    "HasBatches",
    "Kernel",
    "Merge",
    "Norm",
    "Scores",
    "View",
    "WeightCriterion",
    "WeightScores",
    "certainty",
    "criterion_named",
    "lift",
    "normalised",
    "rows",
    "score",
    "score_blocks",
    "score_weights",
    "weight_criterion_named",
]
