"""What the loss says of each single weight, example by example: one pass over the batches, the model left as found."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from secateur._model import check_finite, left_as_found, named_tensors, unwrapped
from secateur._options import did_you_mean
from secateur.channels.nested import ForwardFn, tensors_in, with_tensors
from secateur.errors import DataError, ModelError, SettingsError
from secateur.observe.batch import run_batch
from secateur.observe.derivatives import Loss, cross_entropy, gradients
from secateur.observe.layers import LAYERS as NOT_TRANSPOSED

WeightNeed: TypeAlias = Literal["gradient", "curvature"]
"""The mean size of the gradient, or the Gauss-Newton diagonal."""

_AT_ONCE = 1 << 24
"""Numbers of single examples' gradients that are held at a time."""


LAYERS: Final = (
    *NOT_TRANSPOSED, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
"""The layers whose weights take part."""


@dataclass(frozen=True, eq=False)
class WeightObservations:
    r"""What one pass over the batches found of single weights.

    With :math:`C_n` the loss of example n, :math:`z_n` the network's outputs for it, and :math:`H_n` the Hessian of its loss for
    these outputs:

    Attributes:
        examples: Examples seen, N.
        gradients: :math:`\frac{1}{N} \sum_n |\partial C_n/\partial w|` by parameter, float64, of its shape.
        curvature: :math:`\frac{1}{N} \sum_n (\partial z_n/\partial w)^T H_n (\partial z_n/\partial w)` likewise.
    """

    examples: int
    gradients: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    curvature: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __repr__(self) -> str:
        held = [
            name for name, found in (("gradients", self.gradients), ("curvature", self.curvature)) if found
        ]
        return f"WeightObservations({', '.join(held)}; {self.examples} examples)"


def weights_of(model: nn.Module) -> dict[str, str]:
    """The weights of a network's dense and convolutional layers: the name of the parameter by that of its layer.

    A weight that several layers share is the first one's. One that is computed (weight norm) is no parameter, and left out.

    Example:
        >>> weights_of(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)))
        {'0': '0.weight', '3': '3.weight'}
    """
    found: dict[str, str] = {}
    seen: set[int] = set()
    for name, module in cast("Iterable[tuple[str, nn.Module]]", unwrapped(model).named_modules()):
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if isinstance(module, LAYERS) and weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            found[name] = f"{name}.weight".lstrip(".")
    return found


def observe_weights(
    model: nn.Module,
    layers: Collection[str],
    batches: Iterable[tuple[Any, Any]],
    *,
    needs: Collection[WeightNeed],
    loss: Loss | None = None,
    forward_fn: ForwardFn | None = None,
) -> WeightObservations:
    r"""Observe the weights of dense and convolutional layers: how strongly, and how curved, the loss depends on each.

    The curvature is the Gauss-Newton matrix's diagonal, without sampling: the Hessian's without what the outputs' own second
    derivative adds. Where every activation is piecewise linear (ReLU, max pooling) a weight's output has no second derivative,
    so that it is the diagonal of the Hessian itself. It is never negative. It takes as many backward passes as there are outputs.

    Args:
        model: The network, which is run in eval mode.
        layers: Names of the layers. Their inputs' first axis counts the examples.
        batches: Pairs of inputs and targets, as for `secateur.observe.observe`.
        needs: ``gradient``, ``curvature``, or both.
        loss: From output and targets to the mean loss over the batch, in which examples do not interact; cross entropy by default.
        forward_fn: How a batch's inputs are run, where that is not ``model(inputs)``.

    Raises:
        SettingsError: Nothing is needed, or something else.
        DataError: There is no batch, or its inputs are not finite.
        ModelError: A layer is never called, or not with an example a row, or something is not finite.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> batches = [(torch.tensor([[3.0, 1.0]]), torch.tensor([0]))]
        >>> seen = observe_weights(model, [""], batches, needs=["curvature"])
        >>> (seen.curvature["weight"][:, 0] / seen.curvature["weight"][:, 1]).round()
        tensor([9., 9.], dtype=torch.float64)

    Source:
        The diagonal of the generalised Gauss-Newton matrix: Schraudolph 2002, Neural Computation 14(7); by back-propagating a
        root of the loss's Hessian: Dangel, Kunstner, Hennig 2020, BackPACK, arXiv:1912.10985.
    """
    wanted = frozenset(needs)
    if not wanted or not wanted <= frozenset(get_args(WeightNeed)):
        raise SettingsError(
            f"needs={sorted(wanted)} must name what to observe of weights: {', '.join(get_args(WeightNeed))}"
        )
    model = unwrapped(model)
    check_finite(named_tensors(model))
    seeing = _Pass(_layers(model, layers), wanted)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with left_as_found(model), torch.enable_grad():
        model.eval()
        seeing.attach()
        for inputs, targets in batches:
            placed = with_tensors(inputs, lambda tensor: _finite(tensor).to(device))
            first = next(tensors_in(placed), None)
            if first is None or not len(first):
                raise DataError("a batch's inputs hold no tensor, or no example; leave such batches out")
            outputs = seeing.forward(lambda placed=placed: run_batch(model, placed, forward_fn))
            target = targets.to(device) if isinstance(targets, Tensor) else targets
            found = (loss or cross_entropy)(outputs, target)
            seeing.learn(outputs, found, len(first), known=loss is None and _is_plain(outputs, target))
    return seeing.result()


def _layers(model: nn.Module, names: Collection[str]) -> dict[str, list[nn.Module]]:
    """Each layer with those that share its weight."""
    known = weights_of(model)
    result: dict[str, list[nn.Module]] = {}
    for name in names:
        if name not in known:
            raise ModelError(
                f"{name!r} is no dense or convolutional layer of the network; {did_you_mean(name, known)}"
            )
        weight = model.get_parameter(known[name])
        result[name] = [
            module for module in model.modules() if any(p is weight for p in module.parameters(recurse=False))
        ]
        other = next((module for module in result[name] if not isinstance(module, LAYERS)), None)
        if other is not None:
            raise ModelError(
                f"the weight of layer {name!r} is shared with another module ({type(other).__name__}), where what it does is not seen; leave the"
                " layer out (layers=), or score it by 'magnitude'"
            )
    return result


def _finite(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise DataError(
            "a batch of inputs holds values that are NaN or infinite; clean the data, e.g. with torch.nan_to_num"
        )
    return tensor


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a layer: what it took in and gave."""

    name: str
    module: nn.Module
    x: Tensor
    out: Tensor


class _Pass:
    """What the layers take in and give in one batch, and the running sums."""

    def __init__(self, layers: Mapping[str, list[nn.Module]], needs: frozenset[WeightNeed]) -> None:
        self.layers, self.needs = layers, needs
        self.weights = {name: cast("nn.Parameter", modules[0].weight) for name, modules in layers.items()}
        self.sums = {
            need: {
                name: torch.zeros(weight.shape, dtype=torch.float64) for name, weight in self.weights.items()
            }
            for need in needs
        }
        self.calls: list[_Call] = []
        self.recording = False
        self.examples = 0

    def attach(self) -> None:
        """Hook the layers; their weights take part in the graph though they may be frozen."""
        for name, modules in self.layers.items():
            self.weights[name].requires_grad_(True)
            for module in modules:
                module.register_forward_hook(self._note(name), with_kwargs=True)

    def _note(self, name: str) -> Any:
        def note(module: nn.Module, args: Any, kwargs: Any, out: Tensor) -> Tensor | None:
            if not self.recording:
                return None
            x: Tensor = args[0] if args else kwargs["input"]
            self.calls.append(_Call(name, module, x.detach(), out))
            return out.clone()  # what comes after may write into it

        return note

    def forward(self, go: Callable[[], Any]) -> Any:
        """Run one batch."""
        self.calls.clear()
        self.recording = True
        try:
            return go()
        finally:
            self.recording = False

    def learn(self, outputs: Any, loss: Tensor, examples: int, *, known: bool) -> None:
        """Add what one batch shows: the loss is a mean, so that an example's own is ``examples`` times as large.

        Args:
            outputs: What the network gave.
            loss: The mean over the batch.
            examples: How many there are.
            known: Whether the loss is cross entropy, whose curvature need not be looked for.
        """
        called = {call.name for call in self.calls}
        for name in self.layers:
            if name not in called:
                raise ModelError(
                    f"layer {name!r} is not called by the forward pass, so that nothing is seen of its weights; leave it out"
                    " (layers=), or score it by 'magnitude'"
                )
        for call in self.calls:
            if len(call.x) != examples:
                raise ModelError(
                    f"layer {call.name!r} takes in {len(call.x)} rows for a batch of {examples} examples, so that it is not known which"
                    " belong to which; leave it out (layers=), or score it by 'magnitude'"
                )
        if not bool(torch.isfinite(loss).all()):
            raise ModelError(
                "the loss is not finite, though weights and data are; check the loss function and the targets"
            )
        made = [call.out for call in self.calls]
        self.examples += examples
        if "gradient" in self.needs:
            found = _grads(loss, made) if "curvature" in self.needs else gradients(loss, made, twice=False)
            self._add("gradient", found, lambda g: g.abs(), scale=examples)
        if "curvature" not in self.needs:
            return
        for root in _roots_of_cross_entropy(outputs) if known else _roots(loss, outputs):
            self._add("curvature", _grads(outputs, made, root), lambda g: g.square(), scale=examples)

    def _add(
        self,
        need: WeightNeed,
        at_outputs: Iterable[Tensor],
        size: Callable[[Tensor], Tensor],
        *,
        scale: float,
    ) -> None:
        by_layer: dict[str, list[tuple[_Call, Tensor]]] = {}
        for call, g in zip(self.calls, at_outputs, strict=True):
            by_layer.setdefault(call.name, []).append((call, g.detach()))
        for name, pairs in by_layer.items():
            total = _summed(self.weights[name].detach(), pairs, size)
            if not bool(torch.isfinite(total).all()):
                raise ModelError(
                    f"the {need} of the weights of layer {name!r} is not finite, though the loss is; use the criterion 'magnitude'"
                )
            self.sums[need][name] += scale * total.cpu().double()

    def result(self) -> WeightObservations:
        """The observations, once every batch was seen."""
        if not self.examples:
            raise DataError("there is no batch to observe; an iterator that was used up gives none")
        means = {
            str(need): {f"{name}.weight".lstrip("."): total / self.examples for name, total in sums.items()}
            for need, sums in self.sums.items()
        }
        return WeightObservations(self.examples, means.get("gradient", {}), means.get("curvature", {}))


def _grads(of: Tensor, wanted: list[Tensor], along: Tensor | None = None) -> tuple[Tensor, ...]:
    """Gradients that can be taken again."""
    return torch.autograd.grad(
        of, wanted, along, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def _is_plain(outputs: Any, targets: Any) -> bool:
    """Whether each example has one vector of logits and one label."""
    plain = all(isinstance(each, Tensor) for each in (outputs, targets))
    return plain and outputs.dim() == 2 and targets.dim() == 1 and outputs.requires_grad


def _roots_of_cross_entropy(outputs: Tensor) -> Iterable[Tensor]:
    r"""As `_roots`, of which the Hessian is known: :math:`\sum_j p_j (e_j - p)(e_j - p)^T`, over the examples of the mean."""
    chances = outputs.detach().softmax(1)
    for label in range(chances.shape[1]):
        away = -chances
        away[:, label] += 1
        yield (chances[:, label, None] / len(chances)).sqrt() * away


def _roots(loss: Tensor, outputs: Any) -> Iterable[Tensor]:
    r"""Vectors :math:`s_{jn}` with :math:`\sum_j s_{jn} s_{jn}^T` the Hessian of the loss for the outputs of example n."""
    if not isinstance(outputs, Tensor) or not outputs.requires_grad:
        raise ModelError(
            "curvature needs a network that gives one tensor that depends on its weights; use the criterion 'taylor' or 'magnitude'"
        )
    (first,) = torch.autograd.grad(
        loss, outputs, create_graph=True, allow_unused=True, materialize_grads=True
    )
    if not first.requires_grad:
        return  # the loss is linear in the outputs
    each = first.flatten(1)
    rows = [_grads(each[:, place].sum(), [outputs])[0].flatten(1) for place in range(each.shape[1])]
    eigh = cast("Callable[[Tensor], tuple[Tensor, Tensor]]", vars(torch.linalg)["eigh"])
    values, vectors = eigh(torch.stack(rows, 1).double())
    size = values.clamp_min(0).sqrt()  # a Hessian that is not convex loses what is negative
    for place in range(size.shape[1]):
        if bool((size[:, place] > 0).any()):
            yield (vectors[:, :, place] * size[:, place, None]).reshape(outputs.shape).to(outputs.dtype)


def _summed(weight: Tensor, pairs: list[tuple[_Call, Tensor]], size: Callable[[Tensor], Tensor]) -> Tensor:
    """Over examples, the sum of the size of each one's gradient; those of several calls are added first."""
    if len(pairs) == 1 and isinstance(pairs[0][0].module, nn.Linear) and pairs[0][0].x.dim() == 2:
        call, g = pairs[
            0
        ]  # an example's gradient is an outer product, whose size is the product of the sizes
        return size(g).T @ size(call.x)
    at_once = max(1, _AT_ONCE // weight.numel())
    total = torch.zeros_like(weight, dtype=torch.float64)
    for start in range(0, len(pairs[0][1]), at_once):
        part = slice(start, start + at_once)
        first, *others = (_each(call.module, weight, call.x[part], g[part]) for call, g in pairs)
        total += size(sum(others, first)).sum(0)
    return total


def _each(layer: nn.Module, weight: Tensor, x: Tensor, g: Tensor) -> Tensor:
    """Each example's gradient for the weight of a layer, ``[n, *weight]``."""
    if (
        isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    ):  # as below, several times faster
        seen = functional.unfold(x, weight.shape[2:], layer.dilation, layer.padding, layer.stride)
        return torch.bmm(g.flatten(2), seen.transpose(1, 2)).reshape(len(x), *weight.shape)

    def product(w: Tensor, x_one: Tensor, g_one: Tensor) -> Tensor:
        out: Tensor = functional_call(layer, {"weight": w}, (x_one.unsqueeze(0),))
        return (out * g_one.unsqueeze(0)).sum()

    made: Any = vmap(grad(product), (None, 0, 0))
    return made(weight, x, g)
