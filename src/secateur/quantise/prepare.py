"""All that is done about int8 without training, in its order, and what each step brought."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from secateur._options import expect
from secateur.errors import SettingsError
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
        losses: What each layer alone loses, before biases are corrected.
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

    Equalisation and bias correction are each kept only where the outputs come no farther from the float network's. If layers must stay in floating
    point, they are found in the network before its biases were corrected, and biases are then corrected anew, for what is still rounded.

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
    if not max_drop >= 0:
        raise SettingsError(f"max_drop is {max_drop}; give points of accuracy that may be lost, at least 0")
    work = _Work(model, validation, judge=judge, max_drop=max_drop)
    plain = simulate(model, calibration, observer=observer, keep_float=keep_float)
    work.add("plain", plain)
    equal = equalise(model, calibration[:1], replace_relu6=replace_relu6)
    work.add("equalise", simulate(equal.model, calibration, observer=observer, keep_float=keep_float))
    rounded = work.best
    work.add("bias", correct_bias(rounded, calibration).simulated)
    losses = blame(rounded, validation)
    before = work.judged(work.best)
    if work.within(before):
        always = tuple(sorted(rounded.keep_float))
        fallback = Fallback(always, before, before, work.reference, within=True, tried=1)
    else:  # biases that make up for rounding are wrong where nothing is rounded: they are corrected anew
        fallback = float_fallback(
            rounded, validation, max_drop=max_drop, reference=work.reference, judge=judge, losses=losses
        )
        work.set("fallback", rounded.but(keep_float=fallback.keep_float))
        again = correct_bias(work.best, calibration).simulated
        accuracy = work.judged(again)
        if accuracy >= fallback.accuracy and work.add("bias", again):
            fallback = replace(fallback, accuracy=accuracy)
    return Prepared(work.best, tuple(work.steps), fallback, losses, equal.skipped)


class _Work:
    """The best network so far, and what brought it there."""

    def __init__(
        self,
        model: nn.Module,
        validation: Examples,
        *,
        judge: Judge | None,
        max_drop: float,
    ) -> None:
        self.best: Simulated
        self.steps: list[Brought] = []
        self._validation, self._judge, self._max_drop = validation, judge, max_drop
        self._wanted = logits(model, validation.inputs)
        self._ratio = float("-inf")
        self.reference = accuracy_of(self._wanted, validation.targets)

    def add(self, step: str, made: Simulated) -> bool:
        """Take a step if it does not lower the ratio; whether it was taken."""
        accuracy, ratio = self._looked_at(made)
        kept = ratio >= self._ratio
        self.steps.append(Brought(step, accuracy, ratio, kept))
        if kept:
            self.best, self._ratio = made, ratio
        return kept

    def set(self, step: str, made: Simulated) -> None:
        """Take a step in any case."""
        accuracy, self._ratio = self._looked_at(made)
        self.steps.append(Brought(step, accuracy, self._ratio, kept=True))
        self.best = made

    def judged(self, made: Simulated) -> float:
        """The accuracy that counts."""
        if self._judge is not None:
            return self._judge(made)
        return self._looked_at(made)[0]

    def within(self, accuracy: float) -> bool:
        """Whether an accuracy is within the bound."""
        return self.reference - accuracy <= self._max_drop + 1e-9

    def _looked_at(self, made: Simulated) -> tuple[float, float]:
        answers = logits(made, self._validation.inputs)
        return accuracy_of(answers, self._validation.targets), sqnr(self._wanted, answers)
