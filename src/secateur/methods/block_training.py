"""Block training within a search: the block of each cut, found once, and what it should give, stored once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

from torch import Tensor, nn

from secateur.channels import Attention, Channels, Group, Visits, visits, watch
from secateur.data import Split
from secateur.errors import NoBlockError
from secateur.train import (
    EpochRecord,
    Examples,
    FitResult,
    TrainingBlock,
    TrainSettings,
    block_around,
    block_outputs,
    fit_block,
)

MEMORY = 1 << 30
"""Bytes that are stored of what blocks should give; as many again may be taken by the pairs of the training that runs."""


class BlockTraining:
    """The blocks of one unreduced network, by which networks that are cut from it are retrained.

    Attributes:
        whole: Why there is no block, by the names of the groups that were cut together.
    """

    def __init__(
        self,
        unreduced: nn.Module,
        train: Split,
        *,
        inputs: bool = False,
        attention: Attention = "heads",
        memory: int = MEMORY,
    ) -> None:
        """Look for nothing yet.

        Args:
            unreduced: The network whose results are to be met; it is left as found.
            train: Training examples.
            inputs: As the network is watched.
            attention: As the network is watched.
            memory: Bytes that may be stored.
        """
        self._unreduced, self._train, self._memory = unreduced, train, memory
        self._inputs = inputs
        self._attention: Attention = attention
        self.whole: dict[tuple[str, ...], str] = {}
        self._blocks: dict[tuple[str, ...], TrainingBlock | None] = {}
        self._outputs: dict[str, Tensor] = {}

    @cached_property
    def _channels(self) -> Channels:
        return watch(self._unreduced, self._example, inputs=self._inputs, attention=self._attention)

    @cached_property
    def _seen(self) -> Visits:
        return visits(self._unreduced, self._example, inputs=self._inputs, attention=self._attention)

    @property
    def _example(self) -> Tensor:
        return self._train.inputs[:1]

    def of(self, groups: Iterable[Group]) -> TrainingBlock | None:
        """The block around some groups of a network that was cut from the unreduced one; None where there is none.

        A group of a cut network may have another name than what it was: it is known by the tensors that it runs through.
        """
        touched = {(member.tensor, member.axis) for group in groups for member in group.members}
        names = tuple(
            group.name
            for group in self._channels.groups
            if any((member.tensor, member.axis) in touched for member in group.members)
        )
        if not names:
            self.whole[names] = "what was cut is no group of the unreduced network; train the whole network"
            return None
        if names not in self._blocks:
            try:
                self._blocks[names] = block_around(
                    self._unreduced, self._channels, names, self._example, seen=self._seen
                )
            except NoBlockError as reason:
                self._blocks[names], self.whole[names] = None, str(reason)
        return self._blocks[names]

    def fit(
        self,
        candidate: nn.Module,
        block: TrainingBlock,
        train: Split,
        settings: TrainSettings,
        *,
        seed: int,
        chosen: Tensor | None = None,
        validation: Examples | None = None,
        stop_when: Callable[[EpochRecord], bool] | None = None,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> FitResult:
        """Train the block of a candidate in place.

        Args:
            candidate: A network that was cut from the unreduced one.
            block: What is trained.
            train: What it learns from.
            settings: How.
            seed: What is random follows from it.
            chosen: Which of the training examples these are, so that what was stored for all can be used.
            validation: As for :func:`secateur.train.fit_block`.
            stop_when: Likewise.
            on_batch: Likewise.
        """
        known = settings.augment == "none" and (train is self._train or chosen is not None)
        outputs = self._given(block) if known else None
        return fit_block(
            candidate, self._unreduced, block, train, settings,
            validation=validation,
            seed=seed,
            outputs=outputs if outputs is None or chosen is None else outputs[chosen.to(outputs.device)],
            memory=self._memory,
            stop_when=stop_when,
            on_batch=on_batch,
        )  # fmt: skip

    def _given(self, block: TrainingBlock) -> Tensor | None:
        """What a block gives for all training examples; None where that is too much to be stored."""
        last = block.modules[-1]
        if last not in self._outputs:
            each = block_outputs(self._unreduced, block, self._example).nbytes
            if each * len(self._train) > self._memory:
                return None
            held = sum(tensor.nbytes for tensor in self._outputs.values())
            if held + each * len(self._train) > self._memory:
                self._outputs.clear()
            self._outputs[last] = block_outputs(self._unreduced, block, self._train.inputs)
        return self._outputs[last]
