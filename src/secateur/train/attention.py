"""Attention transfer: layers that look where a teacher's look, whatever their channels."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import ModelError, SettingsError
from secateur.train.settings import TrainSettings


def attention_map(outputs: Tensor) -> Tensor:
    r"""Where a layer looks: the sum of squares over channels, of length one.

    :math:`Q = \sum_c A_c^2`, flattened, divided by its Euclidean norm. It has no channels, so that layers of other widths compare,
    and it stays the same when all outputs are scaled.

    Args:
        outputs: ``[n, channels, ...]``, at least one axis of positions.

    Returns:
        ``[n, positions]``.

    Example:
        >>> attention_map(torch.tensor([[[1.0, 2.0], [1.0, 0.0]]]))
        tensor([[0.4472, 0.8944]])
    """
    return F.normalize(outputs.square().sum(1).flatten(1), dim=1)


def attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    r"""How far layers look elsewhere than the teacher's: :math:`\sum_j \|Q_S^j - Q_T^j\|_2^2`, averaged over the examples.

    Args:
        student: Outputs of its layers, each ``[n, channels, ...]``.
        teacher: Outputs of the teacher's, of the same positions; no gradient flows to them.

    Returns:
        A number from 0, where all maps are the same, to 2 a layer.

    Example:
        >>> x = torch.rand(2, 3, 4, 4)
        >>> float(attention_loss([x], [10 * x])) < 1e-12
        True

    Source:
        Zagoruyko and Komodakis 2017, arXiv:1612.03928, equation 2 with p = 2, there with the norm of the difference, here with its
        square, as in the authors' program.
    """
    apart = [
        (attention_map(mine) - attention_map(theirs.detach())).square().sum(1).mean()
        for mine, theirs in zip(student, teacher, strict=True)
    ]
    return torch.stack(apart).sum()


class Watched:
    """The outputs of some layers of a network in its last pass."""

    def __init__(self, model: nn.Module, layers: Sequence[str], *, whose: str) -> None:
        """Choose the layers by the names of their modules.

        Raises:
            SettingsError: The network has no such module.
        """
        named = dict(cast("Iterator[tuple[str, nn.Module]]", model.named_modules()))
        for layer in layers:
            if layer not in named:
                raise SettingsError(
                    f"attention_layers names {layer!r}, and the {whose} has no module of that name; it has"
                    f" {', '.join(list(named)[1:]) or 'none'}"
                )
        self._modules = {layer: named[layer] for layer in layers}
        self._whose = whose
        self._seen: dict[str, Any] = {}

    @contextmanager
    def listening(self) -> Generator[None]:
        """While inside, note what the layers give; their hooks are gone afterwards, also after an error."""
        handles = [
            module.register_forward_hook(self._noting(layer)) for layer, module in self._modules.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._seen.clear()

    def _noting(self, layer: str) -> Any:
        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            self._seen[layer] = output

        return note

    def taken(self) -> list[Tensor]:
        """What the layers gave, and forget it.

        Raises:
            ModelError: A layer did not run, or gave no channels with positions.
        """
        found: list[Tensor] = []
        for layer in self._modules:
            output = self._seen.pop(layer, None)
            if not isinstance(output, Tensor) or output.dim() < 3:
                got = (
                    "did not run" if output is None
                    else f"gave a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor)
                    else f"gave a {type(output).__name__}"
                )  # fmt: skip
                raise ModelError(
                    f"the {self._whose}'s layer {layer!r} {got}; attention is compared on outputs [n, channels, positions...]:"
                    " name other layers in attention_layers"
                )
            found.append(output)
        return found


class Attention:
    """The layers of a network and of its teacher that are compared while the network trains."""

    def __init__(self, student: nn.Module, teacher: nn.Module | None, settings: TrainSettings) -> None:
        """Find the layers.

        Raises:
            SettingsError: There is no teacher, or one of the networks has no such module.
        """
        if teacher is None:
            raise SettingsError(
                "attention_weight compares layers with a teacher's; give a teacher (its answers do not tell), or set it to 0"
            )
        self._layers, self._weight = settings.attention_layers, settings.attention_weight
        self._student = Watched(student, self._layers, whose="network")
        self._teacher = Watched(teacher, self._layers, whose="teacher")

    @contextmanager
    def listening(self) -> Generator[None]:
        """While inside, note what the layers of both give."""
        with self._student.listening(), self._teacher.listening():
            yield

    def loss(self) -> Tensor:
        """What the last pass of both adds to the loss.

        Raises:
            ModelError: A layer did not run, or a pair has other positions.
        """
        student = self._student.taken()
        teacher = [
            theirs.to(mine.device, mine.dtype)
            for mine, theirs in zip(student, self._teacher.taken(), strict=True)
        ]
        for mine, theirs, layer in zip(student, teacher, self._layers, strict=True):
            if mine.shape[2:] != theirs.shape[2:]:
                raise ModelError(
                    f"layer {layer!r} has outputs of {tuple(mine.shape[2:])} positions, the teacher's of"
                    f" {tuple(theirs.shape[2:])}; attention is compared position by position: name other layers"
                )
        return self._weight * attention_loss(student, teacher)
