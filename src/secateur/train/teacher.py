"""When a teacher is asked: once about all examples, once about every change of all examples, or at each step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.train.augment import Augmenter, Moves
from secateur.train.distil import check_teacher, soften
from secateur.train.forward import device_of, dtype_of, logits
from secateur.train.settings import TrainSettings

ANSWERS = 1 << 28
"""Bytes of answers that are stored at most, where they pay: to every shift of every example."""

ANSWERED = 4096
"""Examples that are answered to at a time."""


class Teacher:
    """What a teacher says of each batch, asked as seldom as can be."""

    def __init__(
        self,
        teacher: nn.Module | None,
        answers: Tensor | None,
        *,
        inputs: Tensor,
        classes: int,
        augment: Augmenter | None,
        each_step: bool,
        settings: TrainSettings,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        """Ask what can be asked beforehand.

        Args:
            teacher: The network, or None where its answers are given.
            answers: Its logits for the unchanged examples.
            inputs: All training inputs, where the training runs.
            classes: Outputs of the network that is trained.
            augment: How examples are changed.
            each_step: Whether the teacher must run at each step anyhow, so that its layers can be looked at.
            settings: Temperature, and for how many epochs its answers serve.
            autocast: The precision in which it answers.

        Raises:
            DataError: The teacher or its answers do not fit the examples or the classes.
        """
        self._temperature, self._autocast = settings.distil_temperature, autocast
        self._asked: nn.Module | None = None
        self._known: Tensor | None = None
        if teacher is not None and (augment is not None or each_step):
            check_teacher(logits(teacher, inputs[:1]), examples=1, classes=classes)
            held = inputs.element_size() * len(inputs) * classes
            moves = augment if isinstance(augment, Moves) and augment.count <= settings.epochs else None
            if moves is not None and not each_step and held * moves.count <= ANSWERS:
                self._known = torch.stack(
                    [self._to_all(teacher, inputs, moves, number) for number in range(moves.count)]
                )
            else:
                self._asked = teacher
            return
        answers = logits(teacher, inputs) if teacher is not None else answers
        if answers is not None:
            check_teacher(answers, examples=len(inputs), classes=classes)
            self._known = self._soft(answers, inputs)[None]

    def of(self, rows: Tensor, inputs: Tensor, drawn: Tensor | None) -> Tensor | None:
        """Its softened log-probabilities for one batch: ``[n, classes]``.

        Args:
            rows: Which examples these are.
            inputs: The examples, changed.
            drawn: The number of each one's change, where there are finitely many.
        """
        if self._asked is not None:
            with torch.no_grad(), self._autocast():
                said: Tensor = self._asked(inputs.to(device_of(self._asked), dtype_of(self._asked)))
            return self._soft(said, inputs)
        if self._known is None:
            return None
        if drawn is None or len(self._known) == 1:
            return self._known[0, rows]
        return self._known[drawn.to(rows.device), rows]

    def _to_all(self, teacher: nn.Module, inputs: Tensor, moves: Moves, number: int) -> Tensor:
        """What it says of one change of all examples."""
        parts: list[Tensor] = []
        for first in range(0, len(inputs), ANSWERED):
            some = inputs[first : first + ANSWERED]
            with self._autocast():
                parts.append(logits(teacher, moves.apply(some, torch.full((len(some),), number))))
        return self._soft(torch.cat(parts), inputs)

    def _soft(self, answers: Tensor, like: Tensor) -> Tensor:
        return soften(answers.to(like.device, like.dtype), self._temperature)
