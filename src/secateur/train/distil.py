"""Knowledge distillation: learn from a teacher's answers as well as from the labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.train.forward import Examples, logits


def soften(teacher_logits: Tensor, temperature: float) -> Tensor:
    r"""The teacher's log-probabilities at a temperature: :math:`\log \mathrm{softmax}(z / T)`.

    Args:
        teacher_logits: ``[n, classes]``.
        temperature: T; 1 leaves the probabilities as they are, larger ones even them out.

    Returns:
        ``[n, classes]``.

    Example:
        >>> soften(torch.tensor([[0.0, 0.0]]), 4.0).exp()
        tensor([[0.5000, 0.5000]])
    """
    return F.log_softmax(teacher_logits / temperature, dim=1)


def distil_loss(student_logits: Tensor, teacher_log_probs: Tensor, *, temperature: float) -> Tensor:
    r"""How far the student's softened answers are from the teacher's.

    :math:`T^2 \, \mathrm{KL}(p^T_{teacher} \,\|\, p^T_{student})`, averaged over the examples. The factor keeps the
    gradient's size when T changes.

    Args:
        student_logits: ``[n, classes]``.
        teacher_log_probs: ``[n, classes]`` from :func:`soften` at the same temperature.
        temperature: T.

    Returns:
        A number, 0 where both agree.

    Example:
        >>> z = torch.tensor([[1.0, -2.0, 0.5]])
        >>> round(float(distil_loss(z, soften(z, 3.0), temperature=3.0)), 6)
        0.0

    Source:
        Hinton, Vinyals and Dean 2015, arXiv:1503.02531.
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher_log_probs, reduction="batchmean", log_target=True)


def teacher_logits(teacher: nn.Module, examples: Examples, *, batch_size: int = 512) -> Tensor:
    """The teacher's answers to all examples, to be computed once and used by many short trainings.

    Args:
        teacher: Left as found; run in eval mode without gradients.
        examples: What to answer.
        batch_size: Examples a pass.

    Returns:
        ``[n, classes]`` on the teacher's device.

    Raises:
        DataError: The teacher does not take the inputs.

    Example:
        >>> from types import SimpleNamespace
        >>> data = SimpleNamespace(inputs=torch.zeros(4, 3), targets=torch.zeros(4))
        >>> teacher_logits(nn.Linear(3, 2), data).shape
        torch.Size([4, 2])
    """
    return logits(teacher, examples.inputs, batch_size=batch_size)


def check_teacher(answers: Tensor, *, examples: int, classes: int) -> None:
    """Raise DataError unless the teacher's answers are ``[examples, classes]`` and finite.

    Example:
        >>> check_teacher(torch.zeros(4, 2), examples=4, classes=2)
    """
    if tuple(answers.shape) != (examples, classes):
        raise DataError(
            f"the teacher's answers have the shape {tuple(answers.shape)}, the training needs "
            f"({examples}, {classes}); the teacher must know the same classes and the same examples"
        )
    if not bool(torch.isfinite(answers).all()):
        raise DataError("the teacher's answers are not all finite; check the teacher's weights")
