"""All that is done about int8 without training, in its order, and what each step brought."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from secateur._options import expect
from secateur.quantise.bias import correct_bias
from secateur.quantise.blame import Fallback, Judge, LayerLoss, accuracy_of, blame, float_fallback
from secateur.quantise.calibrate import Observer
from secateur.quantise.equalise import equalise
from secateur.quantise.simulate import Simulated, simulate, sqnr
from secateur.train import Examples, logits
from secateur.train.forward import check_examples


@dataclass(frozen=True, slots=True)
class Brought:
    """What one step brought.

    Attributes:
        step: ``plain``, ``equalise``, ``bias`` or ``fallback``.
        accuracy: Percent of the validation examples that the rounded network gets right after it.
        sqnr: Of its outputs against the float network's, in decibels.
        kept: Whether the step was kept: where it did not lower the ratio.
    """

    step: str
    accuracy: float
    sqnr: float
    kept: bool


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A network that is ready for an int8 file.

    Attributes:
        simulated: The network as int8 runtimes would compute it, with its ranges.
        steps: What each step brought, in their order.
        fallback: What stays in floating point, and the accuracy with it.
        losses: What each layer alone loses in the network as it is now.
        skipped: The layers that could not be equalised, and why.
    """

    simulated: Simulated
    steps: tuple[Brought, ...]
    fallback: Fallback
    losses: tuple[LayerLoss, ...]
    skipped: Mapping[str, str]

    @property
    def model(self) -> nn.Module:
        """The network to export: in floating point, its norms folded."""
        return self.simulated.network

    @property
    def keep_float(self) -> tuple[str, ...]:
        """The layers and operators that stay in floating point."""
        return self.fallback.keep_float


def prepare(
    model: nn.Module,
    calibration: Tensor,
    validation: Examples,
    *,
    max_drop: float = 1.0,
    observer: Observer = "minmax",
    keep_float: Collection[str] = (),
    replace_relu6: bool = False,
    judge: Judge | None = None,
) -> Prepared:
    """Equalise ranges across layers, correct biases, and leave few layers in floating point if the bound asks for it.

    Equalisation and bias correction are each kept only where the outputs come no farther from the float network's.

    Args:
        model: The network; it is left as found.
        calibration: Examples to learn ranges and means from, ``[n, ...]``: about a hundred from the training data.
        validation: Examples that steps are judged by.
        max_drop: Points of accuracy that may be lost against the float network.
        observer: How ranges are made of what is seen.
        keep_float: Names of layers and operators that stay in floating point in any case.
        replace_relu6: As for :func:`equalise`.
        judge: As for :func:`float_fallback`.

    Raises:
        SettingsError: An option is out of its range.
        DataError: There are no calibration examples, or the network does not take the inputs.

    Example:
        >>> from secateur import data, networks
        >>> digits = data.load("digits", limit=100)
        >>> net = networks.build("digits-net", seed=0)
        >>> found = prepare(net, digits.train.inputs, digits.validation)
        >>> [brought.step for brought in found.steps], found.keep_float
        (['plain', 'equalise', 'bias'], ())

    Source:
        The order is that of Nagel et al. 2021, arXiv:2106.08295, figure 4.
    """
    expect(
        "prepare(model, data.train.inputs[:100], data.validation)",
        model=(model, nn.Module),
        calibration=(calibration, Tensor),
    )
    check_examples(validation=validation)
    wanted = logits(model, validation.inputs)

    def judged(made: Simulated) -> tuple[float, float]:
        answers = logits(made, validation.inputs)
        return accuracy_of(answers, validation.targets), sqnr(wanted, answers)

    best = simulate(model, calibration, observer=observer, keep_float=keep_float)
    accuracy, ratio = judged(best)
    steps = [Brought("plain", accuracy, ratio, kept=True)]
    equal = equalise(model, calibration[:1], replace_relu6=replace_relu6)
    for step in ("equalise", "bias"):
        made = (
            simulate(equal.model, calibration, observer=observer, keep_float=keep_float)
            if step == "equalise"
            else correct_bias(best, calibration).simulated
        )
        accuracy, found = judged(made)
        kept = found >= ratio
        steps.append(Brought(step, accuracy, found, kept))
        if kept:
            best, ratio = made, found
    losses = blame(best, validation)
    fallback = float_fallback(best, validation, max_drop=max_drop, judge=judge, losses=losses)
    if frozenset(fallback.keep_float) != best.keep_float:
        best = best.but(keep_float=fallback.keep_float)
        steps.append(Brought("fallback", *judged(best), kept=True))
    return Prepared(best, tuple(steps), fallback, losses, equal.skipped)
