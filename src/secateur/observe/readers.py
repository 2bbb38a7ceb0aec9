"""Where a group's channels are read, and how a reader's input becomes samples of its units.

Shape letters: n examples, p positions, w width of the group, b positions of one unit, f features of the layer's input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.channels.groups import Group, Member
from secateur.errors import ModelError

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """One weight that reads a group, and the modules that hold it.

    Attributes:
        group: Name of the group.
        tensor: Name of the weight.
        modules: The layers that hold the weight (several where it is shared).
        positions: Features of the layer's input that a unit owns, ``[width, block]``.
        features_last: Whether the features are the input's last axis (dense) or its second (convolution).
    """

    group: str
    tensor: str
    modules: tuple[nn.Module, ...]
    positions: Tensor
    features_last: bool

    def samples(self, x: Tensor, *, examples: int) -> Tensor:
        """View a layer's input as samples of the group's units.

        A dense layer behind a flattened map owns several features a unit: each is a position. So is every input channel
        that one column of a grouped convolution's weight reads. Where the input's first axis is a multiple of the batch
        (windows, patches), its surplus is positions, too.

        Args:
            x: The layer's input, ``[n, ..., f]`` if ``features_last``, else ``[n, f, ...]`` or ``[f, ...]``.
            examples: Examples in the batch.

        Returns:
            ``[n, p, w]``.

        Raises:
            ModelError: The first axis does not hold the examples.
        """
        if self.features_last:
            x_npf = x.reshape(x.shape[0] if x.dim() > 1 else 1, -1, x.shape[-1])
        else:
            spatial = self.modules[0].get_parameter("weight").dim() - 2
            batched = x if x.dim() == spatial + 2 else x.unsqueeze(0)
            x_npf = batched.flatten(2).transpose(1, 2)
        width, block = self.positions.shape
        chosen = x_npf.index_select(2, self.positions.reshape(-1).to(x.device))
        split = chosen.reshape(chosen.shape[0], -1, width, block)
        h_npw = split.transpose(2, 3).reshape(chosen.shape[0], -1, width)
        if h_npw.shape[0] % examples:
            raise ModelError(
                f"the input of {self.tensor!r} has {h_npw.shape[0]} rows for {examples} examples, so its first axis is"
                " not the batch"
            )
        return h_npw.reshape(examples, -1, width)


def readers_of(model: nn.Module, group: Group) -> tuple[Reader, ...]:
    """The readers of a group.

    Args:
        model: The model in which the group was found.
        group: The group.

    Raises:
        ModelError: Nothing reads the group, or a reader is not the ``weight`` of an ordinary dense or convolutional
            layer, so that what it reads cannot be seen at a layer's input.
    """
    readers = tuple(_reader(model, group, member) for member in group.by_role("read"))
    if not readers:
        raise ModelError("no layer reads it")
    return readers


def _reader(model: nn.Module, group: Group, member: Member) -> Reader:
    path, _, leaf = member.tensor.rpartition(".")
    try:
        module = model.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"{member.tensor} is not in this model") from error
    if leaf != "weight" or not isinstance(module, (*_CONV, *_TRANSPOSED, nn.Linear)):
        raise ModelError(
            f"{member.tensor} reads it and is not the weight of an ordinary dense or convolutional layer"
            f" (it belongs to a {type(module).__name__})"
        )
    expected = 0 if isinstance(module, _TRANSPOSED) else 1
    if member.axis != expected:
        raise ModelError(f"{member.tensor} reads it along axis {member.axis}, not along its input axis")
    holders = tuple(m for m in model.modules() if getattr(m, "weight", None) is module.weight)
    return Reader(
        group=group.name,
        tensor=member.tensor,
        modules=holders,
        positions=_input_positions(module, member),
        features_last=isinstance(module, nn.Linear),
    )


def _input_positions(module: nn.Module, member: Member) -> Tensor:
    """Channels of the layer's input that each unit owns, ``[width, block]``.

    Column j of a grouped convolution's weight reads channel j of every convolution group.
    """
    columns = torch.as_tensor(member.indices, dtype=torch.int64)
    if not isinstance(module, _CONV) or module.groups == 1:
        return columns
    offsets = torch.arange(module.groups) * (module.in_channels // module.groups)
    return (columns[:, None, :] + offsets[None, :, None]).flatten(1)
