"""Which weights a pass uses, whether or not their layers are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from torch import Tensor
from torch.overrides import TorchFunctionMode


class Uses(TorchFunctionMode):
    """While active, notes which of the given tensors are handed to a torch function.

    A layer that is never called reads nothing, if nothing else uses its weight either: an auxiliary head in evaluation.

    Example:
        >>> import torch
        >>> one, two = torch.ones(1), torch.ones(1)
        >>> with Uses({"one": one, "two": two}) as uses:
        ...     _ = torch.stack([one])
        >>> uses.used
        {'one'}
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.used: set[str] = set()
        self._names = {id(tensor): name for name, tensor in tensors.items()}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Note the arguments, also those in a list, and call the function."""
        given = kwargs or {}
        for value in (*args, *given.values()):
            entries = cast("Iterable[Any]", value if isinstance(value, (list, tuple)) else (value,))
            for entry in entries:
                name = self._names.get(id(entry))
                if name is not None:
                    self.used.add(name)
        return func(*args, **given)
