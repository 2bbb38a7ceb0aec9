"""Knowledge distillation."""

import pytest
import torch
from torch import nn

from secateur.data import Split
from secateur.errors import DataError
from secateur.train import TrainSettings, distil_loss, fit, soften, teacher_logits
from secateur.train.distil import check_teacher


def test_loss_is_the_divergence_times_the_squared_temperature():
    """The loss equals T²·KL written out by its definition."""
    gen = torch.Generator().manual_seed(0)
    student = torch.randn(5, 4, generator=gen, dtype=torch.float64)
    teacher = torch.randn(5, 4, generator=gen, dtype=torch.float64)
    p, q = (torch.softmax(z / 3.0, dim=1) for z in (teacher, student))
    expected = 9.0 * (p * (p / q).log()).sum(dim=1).mean()

    torch.testing.assert_close(distil_loss(student, soften(teacher, 3.0), temperature=3.0), expected)


def test_high_temperature_matches_logits():
    """As T grows, the loss tends to half the mean square of the centred logits' difference (Hinton's limit)."""
    gen = torch.Generator().manual_seed(1)
    student = torch.randn(6, 5, generator=gen, dtype=torch.float64)
    teacher = torch.randn(6, 5, generator=gen, dtype=torch.float64)
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    limit = 0.5 * (centred**2).mean(dim=1).mean()

    loss = distil_loss(student, soften(teacher, 1e3), temperature=1e3)

    torch.testing.assert_close(loss, limit, rtol=1e-2, atol=0)


def test_teacher_is_left_as_found_and_answers_in_eval_mode(toy):
    """The teacher's answers are those of eval mode, and its modes stay as they were."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2)).train()
    data = toy(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))

    answers = teacher_logits(teacher, data, batch_size=3)

    torch.testing.assert_close(answers, teacher[1](data.inputs).detach())
    assert not answers.requires_grad
    assert teacher[0].training


def test_unfit_answers_are_refused():
    """A teacher of other classes, other examples or broken weights is refused."""
    with pytest.raises(DataError, match=r"\(4, 3\).*\(4, 2\)"):
        check_teacher(torch.zeros(4, 3), examples=4, classes=2)
    with pytest.raises(DataError, match="finite"):
        check_teacher(torch.full((4, 2), float("nan")), examples=4, classes=2)


@pytest.mark.parametrize("augment", ["shift", "flip-shift"])
def test_answers_given_beforehand_to_every_shift_are_those_of_the_moment(monkeypatch, augment: str) -> None:
    """With as many epochs as there are shifts the teacher answers to all of them at the start; training is the same."""
    generator = torch.Generator().manual_seed(0)
    data = Split(torch.randn(40, 1, 6, 6, generator=generator), torch.arange(40) % 3)
    settings = TrainSettings(epochs=18, augment=augment, shift=1, batch_size=16, distil_weight=0.8, lr=0.05)
    teacher = nn.Sequential(nn.Flatten(1), nn.Linear(36, 3)).eval()
    asked: list[int] = []
    teacher.register_forward_hook(lambda *call: asked.append(len(call[1][0])))

    def trained(most: int) -> torch.Tensor:
        monkeypatch.setattr("secateur.train.teacher.ANSWERS", most)
        torch.manual_seed(1)
        student = nn.Sequential(nn.Flatten(1), nn.Linear(36, 3))
        asked.clear()
        fit(student, data, None, settings, teacher=teacher, seed=0)
        return student[1].weight.detach().clone()

    at_once = trained(1 << 20)
    beforehand = sum(asked)
    one_by_one = trained(0)

    assert torch.allclose(at_once, one_by_one, atol=1e-6)
    variants = 9 if augment == "shift" else 18
    assert beforehand <= variants * 40 + 2
    assert sum(asked) >= 18 * 40
