"""A network that computes as int8 runtimes do, in floating point: what a file would answer, before there is one."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur._model import copied
from secateur._options import expect
from secateur.errors import DataError, ModelError
from secateur.quantise.calibrate import Observer, activations, calibrate
from secateur.quantise.flow import Pass, flow
from secateur.quantise.fold import fold
from secateur.quantise.grid import Range, round_bias, round_weight, weight_steps
from secateur.quantise.scheme import INNER, Layer, Scheme, scheme_of


class Simulated(nn.Module):
    """A network whose weights and activations are rounded as int8 runtimes round them, while it runs.

    The network inside keeps its floating-point weights; what is rounded is what its functions are called with and what they give, so that its
    code may be any. Gradients pass through the rounding (straight-through), so that it can be trained.

    Attributes:
        network: The network, with its norms folded.
        scheme: Where it is rounded.
        limits: The ends of the range at each place, float ``[places, 2]``.
        keep_float: Names of layers and operators that are not rounded.
        follow: In training, by how much a range follows that of a batch; 0 keeps it.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> made = simulate(net, torch.linspace(-1, 1, 40).reshape(10, 4))
        >>> made.names, list(made.ranges)
        (('0', '2'), ['input', '0', '2'])
    """

    limits: Tensor

    def __init__(
        self,
        network: nn.Module,
        scheme: Scheme,
        ranges: Collection[Range],
        *,
        keep_float: Collection[str] = (),
        follow: float = 0.0,
    ) -> None:
        super().__init__()
        self.network, self.scheme, self.follow = network, scheme, follow
        self.keep_float = scheme.check(keep_float)
        self._places = scheme.rounded_places(self.keep_float)
        device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        limits = torch.tensor([[one.low, one.high] for one in ranges], dtype=torch.float64, device=device)
        self.register_buffer("limits", limits)
        self.training = network.training

    @property
    def names(self) -> tuple[str, ...]:
        """The layers and operators that are rounded, and those that could be."""
        return self.scheme.names

    @property
    def ranges(self) -> Mapping[str, Range]:
        """The range at each place by its name."""
        grids = _ranges(self.limits)
        return dict(zip(self.scheme.places, grids, strict=True))

    def but(self, *, keep_float: Collection[str]) -> Simulated:
        """The same network, not a copy, rounded everywhere but by some.

        Args:
            keep_float: Names of layers and operators, or of modules with all that is in them.

        Raises:
            SettingsError: One is the name of nobody.
        """
        ranges = _ranges(self.limits)
        return Simulated(self.network, self.scheme, ranges, keep_float=keep_float, follow=self.follow)

    def only(self, name: str) -> Simulated:
        """The same network, not a copy, of which one layer or operator alone is rounded.

        Args:
            name: The layer or operator: its weights, and what it gives.

        Raises:
            SettingsError: It is the name of nobody.
        """
        self.scheme.check([name])
        made = self.but(keep_float=())
        made.keep_float = frozenset(self.names) - {name}
        writers = self.scheme.writers
        made._places = frozenset(place for place, names in enumerate(writers) if name in names)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """What the network answers with its numbers rounded."""
        return Rounding(self).answer(x)

    def activations(self, inputs: Tensor) -> Mapping[str, tuple[Tensor, ...]]:
        """What is at each place while nothing is rounded, by the place's name.

        By these values a place can be found again in a file that was made of the same network.

        Args:
            inputs: Examples, ``[n, ...]``.
        """
        return dict(zip(self.scheme.places, activations(self.network, self.scheme, inputs), strict=True))

    def grids(self) -> list[Range | None]:
        """The grid at each place; None where nothing is rounded."""
        return [grid if place in self._places else None for place, grid in enumerate(_ranges(self.limits))]

    def on(self, network: nn.Module) -> Simulated:
        """Another network of the same structure, with other weights, rounded at the same places to the same grids.

        Args:
            network: The other network.
        """
        ranges = _ranges(self.limits)
        return Simulated(network, self.scheme, ranges, keep_float=self.keep_float, follow=self.follow)

    def settle(self) -> nn.Module:
        """A copy of the network with its weights and biases on their grids.

        Files that are made of it with the same ranges hold these weights, without another rounding error.

        Raises:
            ModelError: A weight is computed from others, so that it cannot be set.
        """
        grids = self.grids()
        settled = copied(self.network, {})
        with torch.no_grad():
            for layer in self.scheme.layers.values():
                if layer.name in self.keep_float:
                    continue
                if layer.weight is None:
                    raise ModelError(
                        f"the weight of {layer.name!r} is computed from others, so that it cannot be put on a grid; make it a"
                        " plain parameter, or keep that layer float"
                    )
                module = cast("Any", settled.get_submodule(layer.weight.rpartition(".")[0]))
                weight, bias = rounded(layer, grids, module.weight, module.bias)
                module.weight.copy_(weight)
                if bias is not None:
                    module.bias.copy_(bias)
        return settled


def rounded(
    layer: Layer, grids: Sequence[Range | None], weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """A layer's weight and bias on their grids; the bias's step is the input's times the weight's.

    Args:
        layer: The layer.
        grids: The grid at each place; None where nothing is rounded.
        weight: ``[channels, ...]``.
        bias: ``[channels]``.
    """
    steps = weight_steps(weight)
    taken = grids[layer.takes]
    if bias is not None and taken is not None:
        bias = round_bias(bias, steps * taken.step)
    return round_weight(weight, steps), bias


class Rounding(Pass):
    """Rounds what layers are called with and what operators give."""

    def __init__(self, made: Simulated) -> None:
        super().__init__(made.network)
        self._made, self._scheme = made, made.scheme
        self._grids = made.grids()

    def answer(self, x: Tensor) -> Tensor:
        """What the network answers."""
        return self.run(self._round(0, x))

    def step(
        self, key: str, function: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Round what a layer is called with, and what comes of it."""
        layer = self._scheme.layers.get(key)
        if layer is not None and layer.name not in self._made.keep_float:
            args, kwargs = self._with_rounded(layer, args, kwargs)
        place = self._scheme.rounds.get(key)
        inner = self._scheme.inner.get(key)
        if inner is not None and self._grids[inner] is not None:
            first, second = INNER[function]
            x: Tensor = args[0] if args else kwargs["input"]
            given: Any = second(x, self._round(inner, first(x)))
        else:
            given = call(*args, **kwargs)
        if layer is not None:
            self.see(key, given)
        if place is None:
            return given
        if isinstance(given, (tuple, list)):
            several = cast("list[Any]", given)
            return type(several)(
                self._round(place, one) if isinstance(one, Tensor) else one for one in several
            )
        return self._round(place, given)

    def see(self, key: str, given: Tensor) -> None:
        """Look at what a layer gave, before it is rounded; by default nothing is done."""

    def _with_rounded(
        self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        weight, bias = rounded(layer, self._grids, weight, bias)
        rest = {name: value for name, value in kwargs.items() if name not in ("weight", "bias")}
        first = args[:1] if args else ()
        return (*first, weight, bias, *args[3:]), rest

    def _round(self, place: int, x: Tensor) -> Tensor:
        grid = self._grids[place]
        if grid is None or not x.is_floating_point():
            return x
        if self._made.training and self._made.follow and place not in self._scheme.fixed:
            grid = self._followed(place, x)
        return grid.round(x)

    @torch.no_grad()
    def _followed(self, place: int, x: Tensor) -> Range:
        """The range, moved a little towards that of a batch."""
        limits = self._made.limits
        now = torch.stack([x.detach().min(), x.detach().max()]).to(limits)
        limits[place] += self._made.follow * (now - limits[place])
        self._grids[place] = grid = _ranges(limits[place : place + 1])[0]
        return grid


def _ranges(limits: Tensor) -> list[Range]:
    return [Range(low, high) for low, high in cast("Any", limits).tolist()]


def simulate(
    model: nn.Module,
    calibration: Tensor,
    *,
    observer: Observer = "minmax",
    keep_float: Collection[str] = (),
) -> Simulated:
    """A network as int8 runtimes would compute it.

    Norms are folded into the layers before. Weights are rounded symmetrically, from -127 to 127, with a step for each output channel;
    activations asymmetrically to 256 steps, one grid a tensor on which zero lies exactly; biases to 32 bits, with the input's step times the
    weight's. As in LiteRT's files, activations are rounded behind an activation function where one follows a layer, an addition or a product;
    pooling keeps the grid, tensors that are put side by side share one, and a sigmoid's and softmax's step is 1/256. What PyTorch
    computes in a single function (such as attention) is rounded at its end only.

    Args:
        model: The network; it is left as found.
        calibration: Examples to learn ranges from, ``[n, ...]``: about a hundred from the training data.
        observer: How ranges are made of what is seen.
        keep_float: Names of layers and operators that are not to be rounded, or of modules with all that is in them.

    Returns:
        The simulated network, a copy.

    Raises:
        SettingsError: There is no such observer, or a name is nobody's.
        DataError: There are no calibration examples, or they are no tensor.

    Example:
        >>> from secateur import data, networks
        >>> digits = data.load("digits", limit=100)
        >>> made = simulate(networks.build("digits-net", seed=0), digits.train.inputs)
        >>> made(digits.validation.inputs[:2]).shape
        torch.Size([2, 10])

    Source:
        Jacob et al. 2018, arXiv:1712.05877; weights by channel: Krishnamoorthi 2018, arXiv:1806.08342, section 3. Range and grid are those of
        LiteRT's quantiser. Intermediate sums are in floating point here, in whole numbers there: answers can differ by a step.
    """
    call = "simulate(model, data.train.inputs[:100])"
    expect(call, model=(model, nn.Module), calibration=(calibration, Tensor))
    if not len(calibration):
        raise DataError("there are no calibration examples; give about a hundred training examples")
    network = fold(model, calibration[:1]).model
    scheme = scheme_of(flow(network, calibration[:1]))
    ranges = calibrate(network, scheme, calibration, observer=observer)
    return Simulated(network, scheme, ranges, keep_float=keep_float).eval()


def sqnr(reference: Tensor, found: Tensor) -> float:
    r"""The signal-to-quantisation-noise ratio in decibels: :math:`10 \log_{10} (\sum y^2 / \sum (y - \hat y)^2)`.

    Args:
        reference: What is right.
        found: What was found instead.

    Returns:
        Infinity where both are the same, minus infinity where all that is right is zero and something else was found.

    Example:
        >>> round(sqnr(torch.ones(10), torch.full((10,), 1.1)), 2)
        20.0
    """
    right = reference.detach().double()
    noise, signal = float((right - found.detach().double()).square().sum()), float(right.square().sum())
    if noise == 0:
        return math.inf
    ratio = signal / noise
    return 10 * math.log10(ratio) if ratio else -math.inf
