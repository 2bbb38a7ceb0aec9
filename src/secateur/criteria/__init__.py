"""Criteria: how much each channel matters."""

from secateur.criteria.blocks import BlockCriterion, BlockScores, score_blocks
from secateur.criteria.criterion import CRITERIA, Criterion, GroupFunction, Kernel, criterion_named, lift
from secateur.criteria.normalise import Norm, normalised
from secateur.criteria.score import Data, HasBatches, score
from secateur.criteria.scores import Merge, Scores
from secateur.criteria.view import View, rows

__all__ = [
    "CRITERIA",
    "BlockCriterion",
    "BlockScores",
    "Criterion",
    "Data",
    "GroupFunction",
    "HasBatches",
    "Kernel",
    "Merge",
    "Norm",
    "Scores",
    "View",
    "criterion_named",
    "lift",
    "normalised",
    "rows",
    "score",
    "score_blocks",
]
