"""One watched forward pass: the only file that knows the dispatcher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from secateur._model import named_tensors, tensors_in_place
from secateur.channels.groups import INPUT
from secateur.channels.nested import ForwardFn, outputs_in, run, tensors_in, with_tensors
from secateur.channels.rules import BEFORE, WHOLE, Rule, is_quiet, rule_for, unknown
from secateur.channels.rules.quick import ON_META
from secateur.channels.ties import Axes, Call, Labels, MisfitError, Ties, Whole
from secateur.errors import WatchError

_META = torch.device("meta")
_PRODUCTS = frozenset(f"aten.{name}" for name in ("addmm", "baddbmm", "bmm", "convolution", "linear", "mm"))
"""A product of two weights is an activation like any other, such as the queries that a network learns."""


class Recorder(Protocol):
    """Told of every operator once its rule has run."""

    def __call__(self, call: Call) -> None:
        """Note what was seen."""
        ...


class _Watcher(TorchDispatchMode):
    """Runs every operator as it is and hands what it did to the operator's rule."""

    def __init__(self, ties: Ties, *, meta: bool, recorder: Recorder | None = None) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType] - torch leaves its argument untyped
        self.ties, self.meta, self.recorder = ties, meta, recorder
        self._inside = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage] - rules are no part of the network
            if self._inside:
                return self._run(func, args, kwargs)
            self.ties.calls += 1
            out = self._run(func, args, kwargs)
            self._seen(rule_for(func), Call(str(func.overloadpacket), args, kwargs, out))
        return out

    def before(self, rule: Rule, call: Call) -> None:
        """Let what a function asks for be said before it runs."""
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
            rule(self.ties, call)

    def whole(self, whole: Whole, func: Any, args: Any, kwargs: Any) -> Any:
        """Run a function that is seen as one operator."""
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
            self.ties.calls += 1
            self._inside = True  # its parts are not looked at
            try:
                quick = whole.on_meta if self.meta else None
                out = func(*args, **kwargs) if quick is None else quick(args, kwargs)
            finally:
                self._inside = False
            self._seen(whole.rule, Call(whole.name, args, kwargs, out))
        return out

    def _seen(self, rule: Rule, call: Call) -> None:
        """Let a call's rule say what it did."""
        try:
            rule(self.ties, call)
        except MisfitError:
            raise
        except Exception as error:  # a call that its rule does not foresee: left whole, and told
            self.ties.notes.append(f"{call.name} was left whole: {type(error).__name__}: {error}")
            unknown(self.ties, call)
        if call.name not in _PRODUCTS:
            self.ties.hand_on(call)
        self.ties.note(call)
        if self.recorder is not None:
            self.recorder(call)

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if not self.meta:
            return func(*args, **kwargs)
        if kwargs.get("device") is not None:  # what the network makes goes where its tensors are
            kwargs = {**kwargs, "device": _META}
        quick = ON_META.get(func.overloadpacket)
        if quick is not None:
            return quick(func, args, kwargs)
        out = func(*args, **kwargs)
        if func.overloadpacket is torch.ops.aten.lift_fresh and out.device != _META:
            return torch.empty_like(out, device=_META)
        return out


class _Functions(TorchFunctionMode):
    """Tells the rules what the dispatcher does not see any more."""

    def __init__(self, watcher: _Watcher) -> None:
        super().__init__()
        self.watcher = watcher

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        whole = None if is_quiet() else WHOLE.get(func)
        if whole is not None:
            return self.watcher.whole(whole, func, args, kwargs)
        if func in BEFORE and not is_quiet():
            self.watcher.before(BEFORE[func], Call(func.__name__, args, kwargs, None))
        if func is torch.max_pool1d:  # on the CPU it writes its result past the dispatcher
            return torch.max_pool1d_with_indices(*args, **kwargs)[0]
        return func(*args, **kwargs)


class _Run(nn.Module):
    """A network as its user runs it, so that other tensors can stand in for its own meanwhile."""

    def __init__(self, model: nn.Module, forward_fn: ForwardFn | None) -> None:
        super().__init__()
        self.model, self.forward_fn = model, forward_fn

    def forward(self, example: Any) -> Any:
        return run(self.model, example, self.forward_fn)


def _kernels(model: nn.Module) -> set[str]:
    """The names of the weights of convolutions: what lies behind their first two axes are no channels.

    Under weight and spectral norm it is what they are computed from.
    """
    modules = cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
    convolution = nn.modules.conv._ConvNd  # pyright: ignore[reportPrivateUsage] - the class of all of them
    return {
        f"{name}.{tensor}".lstrip(".")
        for name, module in modules
        if isinstance(module, convolution)
        for tensor, value in module.named_parameters()
        if value.dim() > 2
    }


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, device=_META)


def _twice(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with its batch doubled: train mode norms refuse a batch of one."""
    return torch.cat([tensor, tensor]) if tensor.dim() else tensor


class Pass:
    """One or two watched passes over the same labels."""

    def __init__(
        self,
        model: nn.Module,
        *,
        inputs: bool,
        meta: bool,
        forward_fn: ForwardFn | None = None,
        ties: Ties | None = None,
        recorder: Recorder | None = None,
        tensors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Give every tensor of the network its labels: new ones, or those that the ties know of.

        Others stand in for the network's own tensors, unless these are given: then they are used, and may be changed.
        """
        self.model, self.inputs, self.meta, self.recorder = model, inputs, meta, recorder
        self.forward_fn = forward_fn
        self.ties = Ties() if ties is None else ties
        self.stand_ins: dict[str, torch.Tensor] = {}
        self.features: Labels | None = None
        self._register(named_tensors(model) if tensors is None else tensors, own=tensors is not None)

    def _register(self, tensors: Mapping[str, torch.Tensor], *, own: bool) -> None:
        made: dict[int, torch.Tensor] = {}
        kernels = self.ties.kernels = _kernels(self.model)
        for name, tensor in tensors.items():
            if id(tensor) not in made:
                stand_in = tensor if own else _on_meta(tensor) if self.meta else tensor.detach()
                many = 2 if name in kernels else tensor.dim()  # a kernel's positions are no channels
                axes = (
                    self.ties.base(name, axis, size, buffer=not isinstance(tensor, nn.Parameter))
                    if axis < many
                    else None
                    for axis, size in enumerate(tensor.shape)
                )
                self.ties.set(stand_in, tuple(axes), parameter=name)
                made[id(tensor)] = stand_in
        if not own:
            places = tensors_in_place(self.model)
            self.stand_ins = {f"model.{name}": made[id(tensor)] for name, tensor in places.items()}

    def _inputs(self, example: Any) -> Any:
        """The example with tensors that carry labels."""
        labelled = with_tensors(example, _on_meta if self.meta else torch.Tensor.detach)
        first = next(tensors_in(labelled), None)
        for tensor in tensors_in(labelled):
            axes: Axes = (None,) * tensor.dim()
            removable = tensor is first and self.inputs
            if removable and tensor.dim() >= 2:
                axes = (None, self._feature_labels(tensor), *axes[2:])
            self.ties.set(tensor, axes, is_input=removable)
        return labelled

    def _feature_labels(self, tensor: torch.Tensor) -> Labels:
        if self.features is None:
            if tensor.dim() > 2:
                self.ties.flat_input = self.ties.base(INPUT, -1, int(np.prod(tensor.shape[1:])))
            self.features = self.ties.base(INPUT, 1, tensor.shape[1])
        return self.features

    def run(self, example: Any, *, counting: bool) -> None:
        """Run the network once under watch, and fix what it returns."""
        self.ties.counting = counting
        labelled, network = self._inputs(example), _Run(self.model, self.forward_fn)
        watcher = _Watcher(self.ties, meta=self.meta, recorder=self.recorder)
        with torch.no_grad(), watcher, _Functions(watcher):
            if self.stand_ins:
                out = functional_call(network, self.stand_ins, (labelled,), tie_weights=False)
            else:
                out = network(labelled)
        outputs = outputs_in(out)
        if not outputs:
            raise WatchError(
                f"the network's forward pass returned a {type(out).__name__} in which there is no tensor, so that it is not known which"
                " channels must stay; return tensors, or pass a forward_fn that does"
            )
        for tensor in outputs:
            for labels in self.ties.axes(tensor):
                self.ties.fix(labels, "reaches the network's output")

    def run_in_train_mode(self, example: Any) -> None:
        """Run what only runs in train mode (auxiliary heads) under watch, too."""
        ties = self.ties
        idle = {base.tensor for base in ties.bases} - ties.used.keys() - {INPUT}
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
        for base in ties.bases:
            if base.tensor == INPUT:
                flat = base.axis == -1
                if (flat and (ties.input_touched or not ties.flattened)) or (not flat and ties.flattened):
                    ties.fix(ties.labels(base), "the input is read in more than one form")
            elif base.tensor not in ties.used:
                unused[base.tensor] = "is not used by the forward pass"
                ties.fix(ties.labels(base), unused[base.tensor])
        return unused
