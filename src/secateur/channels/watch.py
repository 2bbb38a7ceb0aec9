"""Watch one forward pass at the dispatcher: the only file that knows it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from secateur._model import left_as_found
from secateur.channels.groups import INPUT, Channels, MacsTerm
from secateur.channels.inputs import kept_inputs
from secateur.channels.nested import as_call, tensors_in, with_tensors
from secateur.channels.rules import ON_META, rule_for, unknown
from secateur.channels.ties import Axes, Call, Labels, Ties
from secateur.channels.units import Units
from secateur.errors import ModelError, WatchError

_META = torch.device("meta")
_CHUNKS = frozenset({torch.chunk, torch.Tensor.chunk, torch.unsafe_chunk, torch.Tensor.unsafe_chunk})
_WHOLE = (nn.MultiheadAttention,)
"""Modules whose own code divides their tensors at sizes that they keep as attributes."""


class _Watcher(TorchDispatchMode):
    """Runs every operator as it is and hands what it did to the operator's rule."""

    def __init__(self, ties: Ties, *, meta: bool) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType] - torch leaves its argument untyped
        self.ties, self.meta = ties, meta

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage] - rules are no part of the network
            out = self._run(func, args, kwargs)
            call = Call(str(func.overloadpacket), args, kwargs, out)
            try:
                rule_for(func)(self.ties, call)
            except Exception as error:  # a call that its rule does not foresee: left whole, and told
                self.ties.notes.append(f"{call.name} was left whole: {type(error).__name__}: {error}")
                unknown(self.ties, call)
        return out

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if not self.meta:
            return func(*args, **kwargs)
        if kwargs.get("device") is not None:  # what the network makes goes where its tensors are
            kwargs = {**kwargs, "device": _META}
        quick = ON_META.get(func.overloadpacket)
        if quick is not None:
            return quick(args, kwargs)
        out = func(*args, **kwargs)
        if func.overloadpacket is torch.ops.aten.lift_fresh and out.device != _META:
            return torch.empty_like(out, device=_META)
        return out


class _Functions(TorchFunctionMode):
    """Tells the rules what the dispatcher does not see any more."""

    def __init__(self, ties: Ties) -> None:
        super().__init__()
        self.ties = ties

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.max_pool1d:  # on the CPU it writes its result past the dispatcher
            return torch.max_pool1d_with_indices(*args, **kwargs)[0]
        if func not in _CHUNKS:
            return func(*args, **kwargs)
        self.ties.chunking = True  # a number of parts, not a size: it fits any width
        try:
            return func(*args, **kwargs)
        finally:
            self.ties.chunking = False


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, device=_META)


def _twice(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with its batch doubled: train mode norms refuse a batch of one."""
    return torch.cat([tensor, tensor]) if tensor.dim() else tensor


class _Pass:
    """One or two watched passes over the same labels."""

    def __init__(self, model: nn.Module, *, inputs: bool, meta: bool) -> None:
        self.model, self.inputs, self.meta = model, inputs, meta
        self.ties = Ties()
        self.tensors: dict[str, torch.Tensor] = {}
        self.features: Labels | None = None
        self._register()

    def _register(self) -> None:
        seen: dict[int, str] = {}
        state: dict[str, torch.Tensor] = dict(self.model.named_parameters(remove_duplicate=False))
        state |= dict(self.model.named_buffers(remove_duplicate=False))
        for name, tensor in state.items():
            if id(tensor) in seen:
                self.tensors[name] = self.tensors[seen[id(tensor)]]
                continue
            seen[id(tensor)] = name
            stand_in = _on_meta(tensor) if self.meta else tensor.detach()
            axes = tuple(self.ties.base(name, axis, size) for axis, size in enumerate(tensor.shape))
            self.ties.set(stand_in, axes, parameter=name)
            self.tensors[name] = stand_in

    def _inputs(self, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = as_call(with_tensors(example, _on_meta if self.meta else torch.Tensor.detach))
        first = next(tensors_in([*args, kwargs]), None)
        for tensor in tensors_in([*args, kwargs]):
            axes: Axes = (None,) * tensor.dim()
            removable = tensor is first and self.inputs
            if removable and tensor.dim() >= 2:
                axes = (None, self._feature_labels(tensor), *axes[2:])
            self.ties.set(tensor, axes, is_input=removable)
        return args, kwargs

    def _feature_labels(self, tensor: torch.Tensor) -> Labels:
        if self.features is None:
            if tensor.dim() > 2:
                self.ties.flat_input = self.ties.base(INPUT, -1, int(np.prod(tensor.shape[1:])))
            self.features = self.ties.base(INPUT, 1, tensor.shape[1])
        return self.features

    def run(self, example: Any, *, counting: bool) -> None:
        """Run the network once under watch, and fix what it returns."""
        self.ties.counting = counting
        args, kwargs = self._inputs(example)
        with torch.no_grad(), _Watcher(self.ties, meta=self.meta), _Functions(self.ties):
            out = functional_call(self.model, self.tensors, args, kwargs, tie_weights=False)
        for tensor in tensors_in(out):
            for labels in self.ties.axes(tensor):
                self.ties.fix(labels, "reaches the network's output")

    def run_in_train_mode(self, example: Any) -> None:
        """Run what only runs in train mode (auxiliary heads) under watch, too."""
        ties = self.ties
        idle = {base.tensor for base in ties.bases} - ties.used - {INPUT}
        idle = {name for name in idle if not name.endswith("num_batches_tracked")}
        if not idle:
            return
        self.model.train()
        try:
            self.run(with_tensors(example, _twice), counting=False)
        except Exception as error:  # the eval pass stands; what only train mode uses stays whole
            first = str(error).strip().split("\n")[0]
            ties.notes.append(
                f"{len(idle)} tensors are used in train mode only, which could not be watched: {first}"
            )
            for base in ties.bases:
                if base.tensor in idle:
                    ties.fix(ties.labels(base), "is used in train mode only, which could not be watched")

    def close(self) -> dict[str, str]:
        """Fix what the forward pass did not use or divides by its own code; the reason of each unused tensor."""
        ties = self.ties
        unused: dict[str, str] = {}
        whole = self._inside(_WHOLE)
        for base in ties.bases:
            if base.tensor == INPUT:
                flat = base.axis == -1
                if (flat and (ties.input_touched or not ties.flattened)) or (not flat and ties.flattened):
                    ties.fix(ties.labels(base), "the input is read in more than one form")
            elif base.tensor not in ties.used:
                unused[base.tensor] = "is not used by the forward pass"
                ties.fix(ties.labels(base), unused[base.tensor])
            elif base.tensor in whole:
                ties.fix(ties.labels(base), f"belongs to a {whole[base.tensor]}, which keeps its sizes")
        return unused

    def _inside(self, kinds: tuple[type[nn.Module], ...]) -> dict[str, str]:
        """The tensors of all modules of some classes."""
        found: dict[str, str] = {}
        for name in self.tensors:
            parts = name.split(".")
            for depth in range(len(parts)):
                module = self.model.get_submodule(".".join(parts[:depth]))
                if isinstance(module, kinds):
                    found[name] = type(module).__name__
        return found


def _batch_size(example: Any) -> int:
    args, kwargs = as_call(example)
    first = next(tensors_in([*args, kwargs]), None)
    return int(first.shape[0]) if first is not None and first.dim() else 1


def _watched(model: nn.Module, example: Any, *, inputs: bool, meta: bool) -> _Pass:
    """The eval pass, and one in train mode where parts of the network run only there."""
    with left_as_found(model, values=not meta):
        watched = _Pass(model, inputs=inputs, meta=meta)
        model.eval()
        watched.run(example, counting=True)
        watched.run_in_train_mode(example)
    return watched


def _told(error: Exception) -> str:
    """An error of somebody's forward in one line."""
    lines = str(error).strip().split("\n")
    text = next((line.strip() for line in lines if line.strip()), "without a message")
    return f"{type(error).__name__}: {text[:200]}"


def watch(model: nn.Module, example: Any, *, inputs: bool = False) -> Channels:
    """Find the channels of a network by watching one forward pass.

    The pass runs on meta tensors: no arithmetic is done. Every operator says which axes are the same axis; what is tied
    together becomes one unit. A network whose forward reads values is watched on real tensors instead. The network runs in
    eval mode (and once more in train mode, if some of its tensors are used only there) and is left as found.

    Args:
        model: The network.
        example: An input as the network takes it: a tensor with a batch axis, a tuple of arguments, or a dictionary of
            keyword arguments. Values do not matter, shapes do.
        inputs: Whether the features of the (first) input may be removed too: its channels, or single positions where the
            network flattens it at once.

    Returns:
        The groups of channels, what is fixed and why, the operators without a rule, and what everything costs.

    Raises:
        WatchError: The forward pass failed.
        ModelError: A tensor has no shape yet.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
        >>> watch(net, torch.zeros(1, 1, 8, 8)).groups
        (Group('0', width=4: 0.weight[0] write, 0.bias[0] carry, 3.weight[1] read),)
    """
    lazy = next((name for name, parameter in model.named_parameters() if is_lazy(parameter)), None)
    if lazy is not None:
        raise ModelError(f"{lazy!r} has no shape yet; run the network once on data, then watch it")
    example = _in_format_of(model, example)
    if inputs:
        example = _kept_features(model, example)
    try:
        watched = _watched(model, example, inputs=inputs, meta=True)
    except Exception as first:  # any error of the user's forward; told below if it stays
        try:
            watched = _watched(model, example, inputs=inputs, meta=False)
        except Exception as error:
            shapes = [tuple(tensor.shape) for tensor in tensors_in(list(as_call(example)))]
            raise WatchError(
                f"the network's forward pass failed on an input of shape {', '.join(map(str, shapes)) or 'none'}:"
                f" {_told(error)}; pass an example that the network takes"
            ) from error
        watched.ties.notes.append(f"watched on real tensors, because on meta tensors: {_told(first)}")
    return _channels(model, watched, _batch_size(example))


def _in_format_of(model: nn.Module, example: Any) -> Any:
    """The example in the network's number format, where it has a single one: only shapes matter."""
    formats = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if len(formats) != 1:
        return example
    (dtype,) = formats
    return with_tensors(example, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def _kept_features(model: nn.Module, example: Any) -> Any:
    """An example of the features that a network still reads, so that these can be cut further."""
    kept = kept_inputs(model)
    if kept is None or not isinstance(example, torch.Tensor):
        return example
    x = example.flatten(1) if kept.axis == -1 else example
    return x.narrow(1, 0, len(kept.indices)) if x.shape[1] == kept.size else x


def _kind_of(model: nn.Module) -> Callable[[str], str]:
    return lambda tensor: type(model.get_submodule(tensor.rpartition(".")[0])).__name__


def _channels(model: nn.Module, watched: _Pass, batch: int) -> Channels:
    unused = watched.close()
    ties = watched.ties
    units = Units(ties, _kind_of(model))
    tensors = {base.tensor for base in ties.bases} - {INPUT}
    own = {name: tensor for name, tensor in _state(model).items() if name in tensors or tensor.dim() == 0}
    macs = tuple(
        MacsTerm(product.count / batch, tuple(units.units(labels) for labels in product.factors))
        for product in ties.products
    )
    return Channels(
        groups=units.groups,
        fixed=units.fixed(unused),
        unknown_ops=dict(ties.unknown),
        shapes={name: tuple(tensor.shape) for name, tensor in own.items()},
        trainable=frozenset(name for name, _ in model.named_parameters()),
        bytes_per_item={name: tensor.element_size() for name, tensor in own.items()},
        macs=macs,
        biases=dict(ties.biases),
        digest=digest_of(model),
        notes=tuple(ties.notes),
    )


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def digest_of(model: nn.Module) -> str:
    """A short fingerprint of a network's class and of the names and shapes of its tensors."""
    lines = [type(model).__qualname__]
    lines += [f"{name} {tuple(tensor.shape)}" for name, tensor in _state(model).items()]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=12).hexdigest()
