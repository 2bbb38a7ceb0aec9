"""Watch one forward pass at the dispatcher: the only file that knows it."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from secateur._model import left_as_found
from secateur.channels.groups import INPUT, Channels, MacsTerm
from secateur.channels.inputs import kept_inputs
from secateur.channels.nested import as_call, tensors_in, with_tensors
from secateur.channels.rules import rule_for
from secateur.channels.ties import Axes, Call, Labels, Ties, Track
from secateur.channels.units import Units
from secateur.errors import WatchError


class _Watcher(TorchDispatchMode):
    """Runs every operator as it is and hands what it did to the operator's rule."""

    def __init__(self, ties: Ties) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType] - torch leaves its argument untyped
        self.ties = ties

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        rule_for(func)(self.ties, Call(str(func.overloadpacket), args, kwargs, out))
        return out


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, device="meta")


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
            stand_in = torch.empty_like(tensor, device="meta") if self.meta else tensor.detach()
            axes = tuple(self.ties.base(name, axis, size) for axis, size in enumerate(tensor.shape))
            self.ties.set(stand_in, axes, parameter=name)
            self.tensors[name] = stand_in

    def _inputs(self, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = as_call(with_tensors(example, _on_meta) if self.meta else example)
        first = next(tensors_in([*args, kwargs]), None)
        for tensor in tensors_in([*args, kwargs]):
            axes: Axes = (None,) * tensor.dim()
            if tensor is first and self.inputs and tensor.dim() >= 2:
                axes = (None, self._feature_labels(tensor), *axes[2:])
            tensor._secateur_axes = Track(axes, is_input=tensor is first and self.inputs)  # type: ignore[attr-defined]
        return args, kwargs

    def _feature_labels(self, tensor: torch.Tensor) -> Any:
        if self.features is None:
            if tensor.dim() > 2:
                self.ties.flat_input = self.ties.base(INPUT, -1, int(np.prod(tensor.shape[1:])))
            self.features = self.ties.base(INPUT, 1, tensor.shape[1])
        return self.features

    def run(self, example: Any, *, counting: bool) -> None:
        """Run the network once under watch, and fix what it returns."""
        self.ties.counting = counting
        args, kwargs = self._inputs(example)
        with torch.no_grad(), _Watcher(self.ties), _default_device("meta" if self.meta else None):
            out = functional_call(self.model, self.tensors, args, kwargs, tie_weights=False)
        for tensor in tensors_in(out):
            for labels in self.ties.axes(tensor):
                self.ties.fix(labels, "reaches the network's output")

    def close(self) -> dict[str, str]:
        """Fix what the forward pass did not use; the reason of each such tensor."""
        ties = self.ties
        unused: dict[str, str] = {}
        for base in ties.bases:
            labels = np.arange(base.start, base.start + base.size, dtype=np.int64)
            if base.tensor == INPUT:
                flat = base.axis == -1
                if (flat and (ties.input_touched or not ties.flattened)) or (not flat and ties.flattened):
                    ties.fix(labels, "the input is read in more than one form")
            elif base.tensor not in ties.used:
                unused[base.tensor] = "is not used by the forward pass"
                ties.fix(labels, unused[base.tensor])
        return unused


@contextmanager
def _default_device(device: str | None) -> Generator[None]:
    if device is None:
        yield
        return
    with torch.device(device):
        yield


def _batch_size(example: Any) -> int:
    args, kwargs = as_call(example)
    first = next(tensors_in([*args, kwargs]), None)
    return int(first.shape[0]) if first is not None and first.dim() else 1


def _watched(model: nn.Module, example: Any, *, inputs: bool, meta: bool) -> tuple[_Pass, list[str]]:
    """The eval pass, and one in train mode where parts of the network run only there (auxiliary heads)."""
    watched = _Pass(model, inputs=inputs, meta=meta)
    notes: list[str] = []
    model.eval()
    watched.run(example, counting=True)
    parameters = {base.tensor for base in watched.ties.bases} - {INPUT}
    idle = {name for name in parameters - watched.ties.used if not name.endswith("num_batches_tracked")}
    if idle and meta:
        model.train()
        try:
            watched.run(with_tensors(with_tensors(example, _on_meta), _twice), counting=False)
        except Exception as error:  # the eval pass stands; what only train mode uses stays whole
            notes.append(
                f"{len(idle)} tensors are not used in eval mode, and train mode could not be watched: {error}"
            )
    return watched, notes


def watch(model: nn.Module, example: Any, *, inputs: bool = False) -> Channels:
    """Find the channels of a network by watching one forward pass.

    The pass runs on meta tensors: no arithmetic is done. Every operator says which axes are the same axis; what is tied
    together becomes one unit. A network whose forward reads values is watched on real tensors instead. The network runs in
    eval mode and is left as found.

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

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
        >>> watch(net, torch.zeros(1, 1, 8, 8)).groups
        (Group('0', width=4: 0.weight[0] write, 0.bias[0] carry, 3.weight[1] read),)
    """
    if inputs:
        example = _kept_features(model, example)
    with left_as_found(model):
        try:
            watched, notes = _watched(model, example, inputs=inputs, meta=True)
        except Exception as first:  # any error of the user's forward; told below if it stays
            try:
                watched, notes = _watched(model, example, inputs=inputs, meta=False)
            except Exception as error:
                shapes = [tuple(tensor.shape) for tensor in tensors_in(list(as_call(example)))]
                raise WatchError(
                    f"the network's forward pass failed on an input of shape {shapes}: {type(error).__name__}: {error}."
                    " Pass an example that the network takes."
                ) from error
            notes.append(f"watched on real tensors, because on meta tensors: {type(first).__name__}: {first}")
    return _channels(model, watched, notes, _batch_size(example))


def _kept_features(model: nn.Module, example: Any) -> Any:
    """An example of the features that a network still reads, so that these can be cut further."""
    kept = kept_inputs(model)
    if kept is None or not isinstance(example, torch.Tensor):
        return example
    x = example.flatten(1) if kept.axis == -1 else example
    return x.narrow(1, 0, len(kept.indices)) if x.shape[1] == kept.size else x


def _channels(model: nn.Module, watched: _Pass, notes: list[str], batch: int) -> Channels:
    unused = watched.close()
    ties = watched.ties

    def kind_of(tensor: str) -> str:
        return type(model.get_submodule(tensor.rpartition(".")[0])).__name__

    units = Units(ties, kind_of)
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
        notes=tuple(notes),
    )


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def digest_of(model: nn.Module) -> str:
    """A short fingerprint of a network's class and of the names and shapes of its tensors."""
    lines = [type(model).__qualname__]
    lines += [f"{name} {tuple(tensor.shape)}" for name, tensor in _state(model).items()]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=12).hexdigest()
