"""Plans: what to cut, decided before anything moves."""

from secateur.plan.blocks import plan_blocks
from secateur.plan.budget import Budget, Bytes, Macs, Parameters
from secateur.plan.change import ALL_READERS, Change, Mix, Plan
from secateur.plan.compensate import compensate
from secateur.plan.factor_plan import FactorPlan, Factors
from secateur.plan.factors import Replacement, plan_factors, plan_replacements
from secateur.plan.left import Left, why_nothing
from secateur.plan.limits import GRAINS, Minimum, RoundTo, check_limits, limits
from secateur.plan.schedule import Schedule, ScheduleKind
from secateur.plan.select import change_of, plan, plan_for

__all__ = [
    "ALL_READERS",
    "GRAINS",
    "Budget",
    "Bytes",
    "Change",
    "FactorPlan",
    "Factors",
    "Left",
    "Macs",
    "Minimum",
    "Mix",
    "Parameters",
    "Plan",
    "Replacement",
    "RoundTo",
    "Schedule",
    "ScheduleKind",
    "change_of",
    "check_limits",
    "compensate",
    "limits",
    "plan",
    "plan_blocks",
    "plan_factors",
    "plan_for",
    "plan_replacements",
    "why_nothing",
]
