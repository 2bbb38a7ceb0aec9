"""Replace layers as planned: by low rank, or by modules of a smaller kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, cast

from torch import Tensor, nn

from secateur._model import check_finite, copied, unwrapped
from secateur._options import expect
from secateur.channels import digest_of
from secateur.channels.pass_through import put_in
from secateur.criteria.score import HasBatches, batches_of
from secateur.errors import PlanError
from secateur.observe import Covariance, layer_inputs
from secateur.plan.decompose import balanced, decomposed
from secateur.plan.factor_plan import FactorPlan, Factors
from secateur.surgery.apply import SETTINGS
from secateur.surgery.modules import Layer, fill, fits, parts_of, stand_in
from secateur.surgery.nearest import nearest_on
from secateur.surgery.replaced import record_replaced
from secateur.surgery.wrappers import check_wrappers, cut_inside, forget_graphs

LayerData: TypeAlias = Iterable[tuple[Any, Any]] | HasBatches | Mapping[str, Covariance]


def factor(
    model: nn.Module, plan: FactorPlan, *, data: LayerData | None = None, inplace: bool = False
) -> nn.Module:
    """Replace layers by smaller ones as planned, beginning as near to the layers as they can be.

    A layer's place is taken by a sequence of its factors, whose names tell: ``first``, ``core`` and ``last`` of a low rank,
    ``depthwise`` or ``shift`` and ``pointwise``; or by a `secateur.surgery.Fire`. Window, strides and padding are the layer's, its bias is
    the last factor's, its mode, formats, device and ``requires_grad`` are all of theirs. What stands there is ordinary: it can be trained,
    watched, cut (its ranks are groups of channels like others), factored again, and saved. Optimisers of the network do not
    follow; make new ones.

    Args:
        model: The network that the plan was made for. It is left as it is unless ``inplace``.
        plan: What to replace, from `secateur.plan_factors` or `secateur.plan_replacements`.
        data: Batches of (inputs, targets), anything with ``.batches(size)``, or what `secateur.observe.layer_inputs` saw: factors are then those whose outputs are nearest
            to the layer's on what it reads there, and its bias takes the mean of what is lost. Without, those nearest to its weights.
            For each layer this keeps a matrix as wide as its window times its inputs.
        inplace: Change ``model`` itself.

    Returns:
        The network with smaller layers (``model`` itself if ``inplace``), wrapped as it was.

    Raises:
        PlanError: The plan was made for another network.
        ModelError: A weight is not finite, or a wrapper cannot be made again. Nothing has changed then.
        DataError: The data cannot be used.
        SettingsError: An argument is of another kind.

    Example:
        >>> import torch, secateur
        >>> net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
        >>> plan = secateur.plan_factors(net, torch.zeros(1, 64), rank=4)
        >>> factor(net, plan)[0]
        Sequential(
          (first): Linear(in_features=64, out_features=4, bias=False)
          (last): Linear(in_features=4, out_features=32, bias=True)
        )

    Source:
        As for `secateur.plan_factors` and `secateur.plan_replacements`. Factors that are nearest on a layer's inputs: Zhang et al. 2016,
        arXiv:1505.06798, there for one low-rank factor and through the ReLU; here for the layer's own outputs.
    """
    expect(
        "factor(model, plan), with a plan of plan_factors or plan_replacements",
        model=(model, nn.Module), plan=(plan, FactorPlan),
    )  # fmt: skip
    network = unwrapped(model)
    if digest_of(network) != plan.digest:
        raise PlanError(
            f"the plan was made for another network: {_difference(network, plan)}; make a plan for this network"
        )
    check_wrappers(model, plan)
    layers = {entry.name: _layer(network, entry) for entry in plan.layers}
    check_finite({f"{name}.weight": layer.weight for name, layer in layers.items()})
    seen = None if data is None else _seen(network, list(layers), data)
    made = {
        id(layers[entry.name]): _made(
            layers[entry.name], entry, None if seen is None else seen.get(entry.name)
        )
        for entry in plan.layers
    }
    records = [_record(entry, made[id(layers[entry.name])]) for entry in plan.layers]
    result = cut_inside(model, lambda inner: _put(inner, made, records, inplace=inplace), inplace=inplace)
    forget_graphs(model)
    return result


def _seen(model: nn.Module, layers: list[str], data: LayerData) -> Mapping[str, Covariance]:
    """What layers read on some data."""
    if isinstance(data, Mapping):
        return cast("Mapping[str, Covariance]", data)
    return layer_inputs(model, layers, batches_of(data))


def _difference(model: nn.Module, plan: FactorPlan) -> str:
    """Where a network differs from the one that a plan was made for, as far as the plan says."""
    modules = dict(cast("Iterable[tuple[str, nn.Module]]", model.named_modules()))
    for entry in plan.layers:
        if entry.name not in modules:
            return f"this one has no layer {entry.name!r}"
        count = sum(parameter.numel() for parameter in modules[entry.name].parameters())
        if count != entry.before.parameters:
            return f"{entry.name!r} had {entry.before.parameters:,} parameters in it and has {count:,} here"
    return "what it replaces is as large in this one, and the rest of the structure differs"


def _layer(model: nn.Module, entry: Factors) -> Layer:
    layer: Any = model.get_submodule(entry.name)
    if not fits(layer, entry.kind):
        raise PlanError(
            f"{entry.name!r} is a {type(layer).__name__}, for which {entry.kind} cannot stand; make a plan for this network"
        )
    return layer


def _made(layer: Layer, entry: Factors, seen: Covariance | None) -> nn.Module:
    """What stands for a layer, with its weights."""
    weight, bias = layer.weight.detach(), layer.bias
    kernel = weight.double().flatten(2) if weight.dim() > 2 else weight.double()[:, :, None]
    parts = decomposed(kernel, entry.kind, entry.sizes)
    shift: Tensor | None = None if bias is None else bias.detach()  # pyright: ignore[reportUnnecessaryComparison]
    if seen is not None:
        parts, shift = nearest_on(kernel, entry.kind, parts, seen, bias=shift)
    module = stand_in(layer, entry.kind, entry.sizes)
    fill(module, entry.kind, balanced(entry.kind, parts), shift)
    return module


def _record(entry: Factors, module: nn.Module) -> dict[str, Any]:
    parts = list(parts_of(module, entry.kind)) if entry.kind == "tucker" else []
    return {"name": entry.name, "kind": entry.kind, "parts": parts}


def _put(
    model: nn.Module, made: Mapping[int, nn.Module], records: list[dict[str, Any]], *, inplace: bool
) -> nn.Module:
    """The network with the new modules in their places, and the record of them."""
    if inplace:
        put_in(model, made)
        result = model
    else:
        result = copied(model, dict(made))
    record_replaced(result, records)
    names = {entry["name"] for entry in records}
    if hasattr(result, SETTINGS):
        setattr(result, SETTINGS, [one for one in getattr(result, SETTINGS) if one["module"] not in names])
    return result
