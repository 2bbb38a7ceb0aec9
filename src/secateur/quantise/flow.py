"""Which functions a forward pass calls, in which modules, and which tensors go from one to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from secateur._model import left_as_found
from secateur.channels.nested import tensors_in
from secateur.channels.watch import in_format_of
from secateur.errors import WatchError
from secateur.train import device_of

LAYERS = frozenset({"conv1d", "conv2d", "conv3d", "linear"})
"""Functions that multiply by weights of which each row gives one channel."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a function in a forward pass.

    Attributes:
        key: The module, the function and how often that module called it before: the same in every pass.
        function: The function's name.
        module: The innermost module that called it.
        takes: Numbers of the tensors that it took and that depend on the network's input.
        gives: Numbers of the tensors that it gave.
        weight: Name of the parameter that it multiplies by, where it is a layer.
        bound: The two numbers it cuts values off at, where it is such a function.
    """

    key: str
    function: str
    module: str
    takes: tuple[int, ...]
    gives: tuple[int, ...]
    weight: str | None = None
    bound: tuple[float | None, float | None] | None = None

    @property
    def is_layer(self) -> bool:
        """Whether it multiplies by weights."""
        return self.function in LAYERS


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """One forward pass: its steps in their order, tensors by number.

    Attributes:
        steps: The steps that depend on the input.
        inputs: Numbers of the network's inputs.
        outputs: Numbers of what it gave.
        calls: How often each module was called.
        values: The tensors by number, where they were to be kept.
    """

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    calls: Mapping[str, int]
    values: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor], repr=False)

    def readers(self, number: int) -> tuple[Step, ...]:
        """The steps that take a tensor."""
        return tuple(step for step in self.steps if number in step.takes)

    def writer(self, number: int) -> Step | None:
        """The step that gave a tensor; None for an input."""
        return next((step for step in self.steps if number in step.gives), None)

    @property
    def layers(self) -> tuple[Step, ...]:
        """The steps that multiply by weights."""
        return tuple(step for step in self.steps if step.is_layer)


class Pass(TorchFunctionMode):
    """Runs a network and looks at every function that it calls.

    What a subclass returns from :meth:`step` is what the network goes on with.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls: Counter[str] = Counter()
        named = cast("Iterator[tuple[str, nn.Module]]", network.named_modules())
        self._names = {id(module): name for name, module in named}
        self._stack = [""]
        self._counts: Counter[str] = Counter()

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The network's outputs."""
        with (
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
            self,
        ):
            return self.network(*args, **kwargs)

    def step(
        self, key: str, function: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Do one step: by default what was called, and nothing else."""
        del key, function
        return call(*args, **kwargs)

    @property
    def module(self) -> str:
        """The innermost module that is running."""
        return self._stack[-1]

    def _enter(self, module: nn.Module, _args: Any) -> None:
        name = self._names.get(id(module), self._stack[-1])
        self._stack.append(name)
        self.calls[name] += 1

    def _leave(self, _module: nn.Module, _args: Any, _outputs: Any) -> None:
        self._stack.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Give the call its key, and hand it on."""
        function = _name(func)
        base = f"{self._stack[-1]}:{function}"
        self._counts[base] += 1
        return self.step(f"{base}#{self._counts[base]}", function, func, tuple(args), dict(kwargs or {}))


def _name(func: Callable[..., Any]) -> str:
    name = getattr(func, "__name__", type(func).__name__)
    if name == "__get__":  # a property of tensors, such as their transpose
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name.strip("_")


class _Recording(Pass):
    """Notes the steps."""

    def __init__(self, network: nn.Module, *, keep: bool) -> None:
        super().__init__(network)
        self.steps: list[Step] = []
        self.numbers: dict[tuple[int, int], int] = {}
        self.values: dict[int, Tensor] = {}
        self._alive: list[Tensor] = []
        self._keep = keep
        self._parameters = {id(parameter): name for name, parameter in network.named_parameters()}

    def number(self, tensor: Tensor) -> int:
        """The number of what is in a tensor now; it is kept, so that no other takes its identity."""
        key = id(tensor), tensor._version
        if key not in self.numbers:
            self.numbers[key] = len(self.numbers)
            self._alive.append(tensor)
            if self._keep:
                self.values[self.numbers[key]] = tensor.detach().clone()
        return self.numbers[key]

    def step(
        self, key: str, function: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        takes = tuple(
            self.numbers[id(one), one._version]
            for one in tensors_in((args, kwargs))
            if (id(one), one._version) in self.numbers
        )
        given = call(*args, **kwargs)
        outputs = [one for one in tensors_given(given) if one.is_floating_point()]
        if takes and outputs:
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            self.steps.append(
                Step(
                    key,
                    function,
                    self.module,
                    takes,
                    tuple(self.number(one) for one in outputs),
                    self._parameters.get(id(weight)) if function in LAYERS else None,
                    _bound(function, args, kwargs),
                )
            )
        return given


def tensors_given(given: object) -> list[Tensor]:
    """What a function gave: a tensor, or several."""
    if isinstance(given, Tensor):
        return [given]
    if isinstance(given, (tuple, list)):
        return [one for one in cast("Sequence[object]", given) if isinstance(one, Tensor)]
    return []


def _bound(
    function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[float | None, float | None] | None:
    """Where a function cuts values off; for padding the value, twice."""
    if function == "pad":
        constant = (args[2] if len(args) > 2 else kwargs.get("mode", "constant")) == "constant"
        value = float((args[3] if len(args) > 3 else kwargs.get("value")) or 0.0)
        return (value, value) if constant else (0.0, 0.0)  # what else is padded are the tensor's own values
    if function in ("relu", "relu6"):
        return 0.0, 6.0 if function == "relu6" else None
    names = {"hardtanh": ("min_val", "max_val"), "clamp": ("min", "max"), "clip": ("min", "max")}.get(
        function
    )
    if names is None:
        return None
    default = (-1.0, 1.0) if function == "hardtanh" else (None, None)
    low, high = (
        args[place] if len(args) > place else kwargs.get(name, other)
        for place, (name, other) in enumerate(zip(names, default, strict=True), start=1)
    )
    number = (int, float, type(None))
    return (low, high) if isinstance(low, number) and isinstance(high, number) else None


def placed(network: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs where the network is, and in its number format.

    Args:
        network: The network.
        inputs: Examples, ``[n, ...]``.
    """
    return in_format_of(network, inputs.to(device_of(network)))


def flow(network: nn.Module, example: Tensor, *, keep: bool = False) -> Flow:
    """Run a network once in eval mode and note which functions it calls.

    Args:
        network: The network; it is left as found.
        example: An input with a batch axis.
        keep: Whether all tensors are kept, too.

    Raises:
        WatchError: The forward pass failed.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> [(step.function, step.module, step.takes, step.gives) for step in flow(net, torch.zeros(1, 4)).steps]
        [('linear', '0', (0,), (1,)), ('relu', '1', (1,), (2,)), ('linear', '2', (2,), (3,))]
    """
    example = placed(network, example)
    with left_as_found(network), torch.no_grad():
        network.eval()
        recording = _Recording(network, keep=keep)
        inputs = (recording.number(example),)
        try:
            outputs = recording.run(example)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = str(error).split("\n", maxsplit=1)[0]
            raise WatchError(
                f"the network's forward pass failed on an input of shape {tuple(example.shape)}: {reason}; pass an example that"
                " the network takes"
            ) from error
        given = tuple(recording.number(one) for one in tensors_given(outputs))
    return Flow(tuple(recording.steps), inputs, given, dict(recording.calls), recording.values)
