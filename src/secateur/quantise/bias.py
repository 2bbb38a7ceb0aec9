"""Bias correction: rounding shifts what layers give on average, and the bias takes the shift back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur._model import copied, left_as_found
from secateur._options import expect
from secateur.errors import DataError
from secateur.quantise.calibrate import batches_of
from secateur.quantise.flow import placed
from secateur.quantise.simulate import Rounding, Simulated, rounded


@dataclass(frozen=True, slots=True, eq=False)
class Corrected:
    """A network whose biases make up for rounding.

    Attributes:
        simulated: The network, rounded at the same places to the same grids.
        shifts: By the name of each layer the greatest shift of a channel that was taken back, in what the layer gives.
    """

    simulated: Simulated
    shifts: Mapping[str, float]


def correct_bias(simulated: Simulated, calibration: Tensor, *, batch_size: int = 128) -> Corrected:
    r"""Correct the bias of each layer by how much rounding shifts its mean.

    :math:`b \leftarrow b - (\mathbb{E}[\tilde y] - \mathbb{E}[y])` for each channel, where :math:`y` is what the layer gives in floating point and
    :math:`\tilde y` what it gives in the rounded network, before the activation function; layer by layer, so that each is corrected with the
    ones before it corrected already.

    Args:
        simulated: The rounded network; it is left as found.
        calibration: Examples over which means are taken, ``[n, ...]``.
        batch_size: Examples a pass.

    Returns:
        A copy with other biases. A layer without one gets one. Layers that are kept in floating point are corrected, too: what they are given is
        rounded. Those that are called several times are not.

    Raises:
        DataError: There are no examples.

    Example:
        >>> from secateur.quantise import simulate
        >>> x = torch.linspace(-1, 1, 40).reshape(10, 4)
        >>> corrected = correct_bias(simulate(nn.Sequential(nn.Linear(4, 3)), x), x)
        >>> list(corrected.shifts)
        ['0']

    Source:
        Nagel et al. 2019, arXiv:1906.04721, section 4.2 and appendix D: the empirical form.
    """
    expect(
        "correct_bias(simulate(model, calibration), calibration)",
        simulated=(simulated, Simulated),
        calibration=(calibration, Tensor),
    )
    if not len(calibration):
        raise DataError("there are no calibration examples; give about a hundred training examples")
    wanted = layer_means(simulated.but(keep_float=simulated.names), calibration, batch_size=batch_size)
    network = copied(simulated.network, {})
    made = simulated.on(network)
    layers = simulated.scheme.layers
    uses = Counter(layer.weight for layer in layers.values())
    shifts: dict[str, float] = {}
    for key, layer in layers.items():
        if layer.weight is None or uses[layer.weight] > 1:
            continue
        module = cast("Any", network.get_submodule(layer.weight.rpartition(".")[0]))
        _with_bias(module)
        shift = layer_means(made, calibration, batch_size=batch_size, until=key)[key] - wanted[key]
        start: Tensor = module.bias
        if layer.name not in made.keep_float:  # what the shift was measured with
            start = cast("Tensor", rounded(layer, made.grids(), module.weight, module.bias)[1])
        with torch.no_grad():
            module.bias.copy_(start - shift.to(module.bias))
        shifts[layer.name] = float(shift.abs().max())
    return Corrected(made, shifts)


def layer_means(
    simulated: Simulated, inputs: Tensor, *, batch_size: int = 128, until: str | None = None
) -> dict[str, Tensor]:
    """The mean of what each layer gives, before it is rounded, for each channel.

    Args:
        simulated: The rounded network; it is left as found.
        inputs: Examples, ``[n, ...]``.
        batch_size: Examples a pass.
        until: The key of the last layer that is of interest.

    Returns:
        By the keys of the layers' steps, float64 ``[channels]``.
    """
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    with left_as_found(simulated), torch.no_grad():
        simulated.eval()
        for batch in batches_of(inputs, batch_size):
            try:
                _Adding(simulated, sums, counts, until).answer(placed(simulated.network, batch))
            except _Enough:
                continue
    return {key: total / counts[key] for key, total in sums.items()}


class _Enough(Exception):  # noqa: N818 - not an error
    """What lies behind is of no interest."""


class _Adding(Rounding):
    """Adds up what layers give."""

    def __init__(
        self, made: Simulated, sums: dict[str, Tensor], counts: Counter[str], until: str | None
    ) -> None:
        super().__init__(made)
        self._sums, self._counts, self._until = sums, counts, until

    def see(self, key: str, given: Tensor) -> None:
        last = key.rpartition(":")[2].startswith("linear")
        rows = (given if last else given.movedim(1, -1)).reshape(-1, given.shape[-1 if last else 1])
        total = rows.double().sum(0)
        self._sums[key] = self._sums[key] + total if key in self._sums else total
        self._counts[key] += len(rows)
        if key == self._until:
            raise _Enough


def _with_bias(module: Any) -> None:
    """Give a layer a bias of zeros, where it has none."""
    if module.bias is None:
        weight = module.weight
        bias = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        module.bias = nn.Parameter(bias, requires_grad=weight.requires_grad)
