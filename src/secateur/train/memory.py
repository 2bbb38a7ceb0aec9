"""What a training step keeps in memory, the largest batch that fits, and the line that foretells it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_map_only  # pyright: ignore[reportUnknownVariableType]

from secateur._model import named_tensors
from secateur.errors import SettingsError
from secateur.train.conditions import own_randomness
from secateur.train.forward import device_of, mode
from secateur.train.state import restore, snapshot

Forward = Callable[[nn.Module, Any], object]


def kept_bytes(model: nn.Module, inputs: Any, *, forward: Forward | None = None) -> int:
    """How many bytes a forward pass keeps for the backward pass, beside the network's own tensors.

    Every storage that autograd saves is counted once. It is a count and not a reading of the process's memory, so that it is the same
    on every run. The network is left as it was, its running statistics and the caller's random numbers, too.

    Args:
        model: The network; it is run in training mode.
        inputs: A batch.
        forward: How it is run, where that is not ``model(inputs)``.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 2))
        >>> kept_bytes(net, torch.zeros(10, 4)) == 4 * 10 * (4 + 8)  # the inputs, and the sigmoid's outputs
        True
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in named_tensors(model).values()}
    part = {
        tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in tensors_in(inputs)
    }  # perhaps of a larger store
    kept: dict[int, tuple[Tensor, int]] = {}  # held, so that no place is given out twice

    def see(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place not in own:
            kept[place] = tensor, part.get(place, storage.nbytes())
        return tensor

    before = snapshot(model)
    try:
        with own_randomness(device_of(model), 0), mode(model, training=True), torch.enable_grad(), saved_tensors_hooks(see, _same):  # fmt: skip
            outputs = model(inputs) if forward is None else forward(model, inputs)
            del outputs
    finally:
        restore(model, before)
    return sum(size for _, size in kept.values())


def _same(tensor: Tensor) -> Tensor:
    return tensor


def fixed_bytes(
    model: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = (), averages: Iterable[nn.Module] = ()
) -> int:
    """How many bytes a training keeps whatever the batch: weights, buffers, gradients, the optimiser's memory, and averages.

    Args:
        model: The network.
        optimizers: What trains it. An optimiser that has not taken a step yet has nothing in its memory.
        averages: Running averages of its weights.

    Example:
        >>> fixed_bytes(nn.Linear(3, 2))  # eight weights, and a gradient for each
        64
    """
    held = [*model.parameters(), *model.buffers()]
    held += [
        parameter for parameter in model.parameters() if parameter.requires_grad
    ]  # as large as its gradient
    held += [
        value
        for optimizer in optimizers
        for entries in optimizer.state.values()
        for value in entries.values()
        if isinstance(value, Tensor)
    ]
    held += [tensor for average in averages for tensor in (*average.parameters(), *average.buffers())]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


def largest_batch(fits: Callable[[int], bool], *, first: int, limit: int, multiple: int = 1) -> int:
    """The largest batch that fits, found by doubling and then halving the rest.

    Args:
        fits: Whether a batch of so many examples does; a smaller one than one that fits does, too.
        first: Where the search begins: a multiple.
        limit: The largest batch that is wanted.
        multiple: The batch is a multiple of it.

    Returns:
        The batch, or 0 if not even ``multiple`` examples fit.

    Example:
        >>> largest_batch(lambda batch: batch <= 100, first=16, limit=512, multiple=8)
        96
    """
    most = limit // multiple
    good, bad = 0, most + 1
    guess = min(max(first // multiple, 1), most)
    while good + 1 < bad:
        if fits(guess * multiple):
            good = guess
            guess = min(2 * good, most) if bad > most else (good + bad) // 2
        else:
            bad = guess
            guess = (good + bad) // 2
    return good * multiple


def within_memory(
    model: nn.Module, example: Any, memory: int, *, fixed: int, forward: Forward | None = None
) -> Callable[[int], bool]:
    """Whether a training step on so many examples keeps no more than so many bytes, counted.

    Args:
        model: The network.
        example: An input of one example or several, which is repeated.
        memory: The bytes that there are.
        fixed: Those that are taken whatever the batch (`fixed_bytes`).
        forward: How the network is run.
    """
    return lambda batch: fixed + kept_bytes(model, repeated(example, batch), forward=forward) <= memory


def runs(model: nn.Module, example: Any, *, forward: Forward | None = None) -> Callable[[int], bool]:
    """Whether a forward and backward pass on so many examples runs on a GPU without exhausting its memory; it is tried.

    Gradients and running statistics are as before afterwards.

    Args:
        model: The network.
        example: An input of one example or several, which is repeated.
        forward: How the network is run.
    """

    def fits(batch: int) -> bool:
        before = snapshot(model)
        gradients = [parameter.grad for parameter in model.parameters()]
        try:
            for parameter in model.parameters():
                parameter.grad = None
            with own_randomness(device_of(model), 0), mode(model, training=True), torch.enable_grad():
                inputs = repeated(example, batch)
                outputs = model(inputs) if forward is None else forward(model, inputs)
                total = sum(tensor.float().square().mean() for tensor in tensors_in(outputs))
                cast("Tensor", total).backward()  # pyright: ignore[reportUnknownMemberType]
        except torch.OutOfMemoryError:
            return False
        finally:
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient
            restore(model, before)
            if device_of(model).type == "cuda":
                torch.cuda.empty_cache()
        return True

    return fits


def repeated(example: Any, batch: int) -> Any:
    """A batch of so many examples, made of one or several by repeating them.

    Example:
        >>> repeated(torch.tensor([[1.0], [2.0]]), 3)
        tensor([[1.],
                [2.],
                [1.]])
    """

    def rows(tensor: Tensor) -> Tensor:
        return tensor[torch.arange(batch, device=tensor.device) % len(tensor)]

    return cast("Any", tree_map_only)(Tensor, rows, example)


def tensors_in(outputs: Any) -> list[Tensor]:
    """The floating tensors that a network gives."""
    found: list[Tensor] = []
    cast("Any", tree_map_only)(Tensor, found.append, outputs)
    return [tensor for tensor in found if tensor.is_floating_point()]


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points, by least squares, and how sure it is.

    Attributes:
        slope: Of the line.
        intercept: Where it is at 0.
        r2: The share of the variance that it explains.
        p: Of the test that the slope is 0 (Wald, two-sided, Student's t).
        error: The slope's standard error.
        count: Points.
    """

    slope: float
    intercept: float
    r2: float
    p: float
    error: float
    count: int

    def at(self, x: float) -> float:
        """What the line says."""
        return self.intercept + self.slope * x


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """The line that foretells the largest batch of a network from its parameters, or from the bytes that an example keeps.

    Args:
        x: One number for each network of a family.
        y: The largest batch of each.

    Raises:
        SettingsError: There are fewer than three points, or all are at the same place.

    Example:
        >>> line = fit_line([1.0, 2.0, 3.0, 4.0], [90.0, 81.0, 69.0, 60.0])
        >>> round(line.at(5.0)), line.p < 0.01
        (50, True)

    Source:
        PruneTrain's adjustment of batches, Lym et al. 2019, arXiv:1901.09290, as foretold in a thesis (TU Dortmund, 2020) by a line over a
        family of networks. What an example keeps foretells better than parameters do: these need not grow with the maps.
    """
    if len(x) != len(y) or len(x) < 3 or len(set(x)) < 2:
        raise SettingsError(
            f"a line and its test need three points at two places at least, and there are {len(x)} and {len(y)} numbers; measure more networks"
        )
    from scipy import stats  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs] - takes a second to import

    found = cast("Any", stats).linregress(x, y)
    return Line(
        float(found.slope), float(found.intercept), float(found.rvalue) ** 2, float(found.pvalue), float(found.stderr), len(x)
    )  # fmt: skip
