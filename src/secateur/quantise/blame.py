"""Which layers lose by rounding, and which few must stay in floating point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from torch import Tensor, nn

from secateur._options import expect
from secateur.errors import SettingsError
from secateur.quantise.simulate import Simulated, sqnr
from secateur.train import Examples, logits
from secateur.train.forward import check_examples

Judge: TypeAlias = Callable[[Simulated], float]
"""The accuracy in percent of a network with its ``keep_float`` in floating point, for instance of a file that is made of it."""


@dataclass(frozen=True, slots=True)
class LayerLoss:
    """What rounding one layer or operator alone costs.

    Attributes:
        name: The layer's or operator's name.
        sqnr: Signal-to-quantisation-noise ratio of the network's outputs, in decibels: the lower, the more it loses.
        drop: Points of accuracy that are lost.
    """

    name: str
    sqnr: float
    drop: float


def blame(simulated: Simulated, examples: Examples) -> tuple[LayerLoss, ...]:
    """Round one layer or operator at a time, and see what becomes of the outputs.

    What is rounded are a layer's weights and what it gives, or what an operator gives.

    Args:
        simulated: The rounded network; it is left as found.
        examples: Inputs and labels; held-out ones.

    Returns:
        One entry for each that is rounded, the one that loses most first.

    Raises:
        DataError: The network does not take the inputs.

    Example:
        >>> from secateur import data, networks
        >>> from secateur.quantise import simulate
        >>> digits = data.load("digits", limit=100)
        >>> made = simulate(networks.build("digits-net", seed=0), digits.train.inputs)
        >>> sorted(loss.name for loss in blame(made, digits.validation))
        ['conv1', 'conv2', 'conv3', 'dense1', 'out']
    """
    expect("blame(simulate(model, calibration), data.validation)", simulated=(simulated, Simulated))
    check_examples(examples=examples)
    wanted = logits(simulated.network, examples.inputs)
    whole = accuracy_of(wanted, examples.targets)
    found: list[LayerLoss] = []
    for name in simulated.names:
        if name in simulated.keep_float:
            continue
        answers = logits(simulated.only(name), examples.inputs)
        found.append(LayerLoss(name, sqnr(wanted, answers), whole - accuracy_of(answers, examples.targets)))
    return tuple(sorted(found, key=lambda loss: loss.sqnr))


def accuracy_of(answers: Tensor, targets: Tensor) -> float:
    """Percent of rows whose greatest number is the label's."""
    return 100.0 * int((answers.argmax(1) == targets.to(answers.device)).sum()) / len(targets)


@dataclass(frozen=True, slots=True)
class Fallback:
    """The layers and operators that stay in floating point.

    Attributes:
        keep_float: Their names, as for ``export(..., keep_float=...)``; none where none need stay.
        accuracy: Percent, with these in floating point.
        before: Percent, with everything rounded.
        reference: Percent, that losses are counted from.
        within: Whether the bound holds with these; where it does not, all layers together cannot restore it.
        tried: How many sets were judged.
    """

    keep_float: tuple[str, ...]
    accuracy: float
    before: float
    reference: float
    within: bool
    tried: int


def _is_leaf(name: str, simulated: Simulated) -> bool:
    """Whether a name is that of a module in which nobody else rounds: files know layers by their modules."""
    modules = dict(cast("Iterator[tuple[str, nn.Module]]", simulated.network.named_modules()))
    return name in modules and not any(one.startswith(f"{name}.") for one in simulated.names)


def float_fallback(
    simulated: Simulated,
    validation: Examples,
    *,
    max_drop: float = 1.0,
    reference: float | None = None,
    judge: Judge | None = None,
    losses: Sequence[LayerLoss] | None = None,
) -> Fallback:
    """Find few layers that restore the bound when they stay in floating point.

    The layers are ranked by what each alone loses. Bisection finds the shortest beginning of that list that is within the bound; then each of it,
    from the end, is rounded again where the bound allows it. More need not stay; a smaller set of others is not ruled out. Only modules are
    named, since files know layers by them: an operator that a module with other operators calls is rounded in any case.

    Args:
        simulated: The rounded network; it is left as found.
        validation: Examples that the accuracy is of. Not the test examples: it is chosen by them.
        max_drop: Points of accuracy that may be lost.
        reference: The accuracy in percent that they are counted from; by default that of the network with nothing rounded. Where
            biases were corrected, it is that of the network before.
        judge: How accurate a network is with some of its layers in floating point, for instance by its file; by default as simulated.
        losses: The ranking; by default that of :func:`blame`.

    Raises:
        SettingsError: ``max_drop`` is negative.

    Example:
        >>> from secateur import data, networks
        >>> from secateur.quantise import simulate
        >>> digits = data.load("digits", limit=100)
        >>> made = simulate(networks.build("digits-net", seed=0), digits.train.inputs)
        >>> float_fallback(made, digits.validation, max_drop=100.0).keep_float
        ()
    """
    expect("float_fallback(simulate(model, calibration), data.validation)", simulated=(simulated, Simulated))
    check_examples(validation=validation)
    if not max_drop >= 0:
        raise SettingsError(f"max_drop is {max_drop}; give points of accuracy that may be lost, at least 0")
    judged: dict[tuple[str, ...], float] = {}

    def accuracy(keep: tuple[str, ...]) -> float:
        if keep not in judged:
            made = simulated.but(keep_float=keep)
            judged[keep] = (
                accuracy_of(logits(made, validation.inputs), validation.targets)
                if judge is None
                else judge(made)
            )
        return judged[keep]

    always = tuple(sorted(simulated.keep_float))
    if reference is None:
        reference = accuracy_of(logits(simulated.network, validation.inputs), validation.targets)
    before = accuracy(always)

    def within(keep: tuple[str, ...]) -> bool:
        return reference - accuracy(keep) <= max_drop + 1e-9

    if within(always):
        return Fallback(always, before, before, reference, within=True, tried=len(judged))
    found = blame(simulated, validation) if losses is None else losses
    ranked = [loss.name for loss in found if _is_leaf(loss.name, simulated)]
    low, high = 0, len(ranked)  # the first is outside the bound; the last is asked about at the end
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if within((*always, *ranked[:middle])) else (middle, high)
    keep = (*always, *ranked[:high])
    for name in reversed(ranked[: high - 1]):
        fewer = tuple(one for one in keep if one != name)
        keep = fewer if within(fewer) else keep
    return Fallback(keep, accuracy(keep), before, reference, within=within(keep), tried=len(judged))
