"""How good a classifier is on data it was not trained on, with the conditions of every number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import DataError, ModelError, SettingsError
from secateur.train import Examples, check_fit, device_of, dtype_of, logits


@dataclass(frozen=True, slots=True)
class ClassAccuracy:
    """How many examples of one class were right.

    Attributes:
        name: The class.
        count: Examples of it.
        correct: Of these, how many were right.
    """

    name: str
    count: int
    correct: int

    @property
    def accuracy(self) -> float | None:
        """Percent; None where the class has no example."""
        return 100.0 * self.correct / self.count if self.count else None


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """A classifier's quality on one set of examples.

    Attributes:
        accuracy: Percent of examples whose highest output is the label's.
        top_k: Percent whose label is among the k highest outputs, by k.
        per_class: One entry a class, in the order of the labels.
        loss: Mean cross-entropy in nats.
        count: Number of examples.
        conditions: What the numbers depend on: device, number format, batch size, threads, torch version.
        correct: Which examples were right, bool ``[count]``, in the order of the data. Not serialised.
        targets: The labels, int64 ``[count]``. Not serialised.
        predicted: The class with the highest output, int64 ``[count]``. Not serialised.
    """

    accuracy: float
    top_k: Mapping[int, float]
    per_class: tuple[ClassAccuracy, ...]
    loss: float
    count: int
    conditions: Mapping[str, Any]
    correct: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    predicted: Tensor = field(repr=False)

    @property
    def worst_class(self) -> ClassAccuracy | None:
        """The class of which least is right, the first of equals; None where all are equally good."""
        known = [one for one in self.per_class if one.count]
        worst = min(known, key=lambda one: one.correct / one.count)
        best = max(one.correct / one.count for one in known)
        return worst if worst.correct / worst.count < best else None

    @property
    def error(self) -> float:
        """Percent wrong: 100 − accuracy."""
        return 100.0 - self.accuracy

    def as_dict(self) -> dict[str, Any]:
        """Everything but the per-example tensors, ready for JSON."""
        return {
            "accuracy": self.accuracy,
            "top_k": {str(k): value for k, value in self.top_k.items()},
            "per_class": [
                {"name": c.name, "count": c.count, "correct": c.correct, "accuracy": c.accuracy}
                for c in self.per_class
            ],
            "loss": self.loss,
            "count": self.count,
            "conditions": dict(self.conditions),
        }


def evaluate(
    model: nn.Module,
    split: Examples,
    *,
    batch_size: int = 512,
    device: torch.device | str | None = None,
    classes: Sequence[str] = (),
    top_k: Sequence[int] = (1, 3, 5),
) -> Evaluation:
    """Run a classifier over examples and count what it gets right.

    Args:
        model: Maps ``[n, ...]`` to ``[n, classes]``. Evaluated in eval mode, in its own number format, left as found.
        split: Inputs and labels.
        batch_size: Examples a pass.
        device: Where to compute. If the network is elsewhere, it is moved there and back.
        classes: Their names; by default their numbers.
        top_k: Which k to report; those above the number of classes are left out.

    Returns:
        The evaluation; its tensors are on the processor.

    Raises:
        DataError: The network does not take the inputs, or labels or names do not fit its outputs.
        ModelError: The outputs are not finite.
        SettingsError: ``batch_size`` or a k is below 1.

    Example:
        >>> from types import SimpleNamespace
        >>> class Two(SimpleNamespace):
        ...     def __len__(self): return len(self.targets)
        >>> data = Two(inputs=torch.eye(3), targets=torch.tensor([0, 1, 1]))
        >>> result = evaluate(nn.Identity(), data, classes=("a", "b", "c"))
        >>> round(result.accuracy, 2), result.per_class[1]
        (66.67, ClassAccuracy(name='b', count=2, correct=1))
    """
    if batch_size < 1 or any(k < 1 for k in top_k):
        raise SettingsError(f"batch_size ({batch_size}) and top_k ({tuple(top_k)}) must be at least 1")
    home = device_of(model)
    where = home if device is None else torch.device(device)
    try:
        model.to(where)
        width = check_fit(model, split, device=where)
        if classes and len(classes) != width:
            raise DataError(
                f"the network tells {width} classes apart, and there are {len(classes)} classes by name; take a network with"
                f" {len(classes)} outputs, or data whose classes are the network's"
            )
        answers = logits(model, split.inputs, batch_size=batch_size, device=where).cpu()
    finally:
        model.to(home)
    if not bool(torch.isfinite(answers).all()):
        raise ModelError("the network's outputs are not all finite; check its weights and the data's values")
    targets = split.targets.cpu().long()
    ranks = answers.topk(min(max(top_k, default=1), width), dim=1).indices == targets[:, None]
    predicted = answers.argmax(dim=1)
    correct = predicted == targets
    return Evaluation(
        accuracy=_percent(correct),
        top_k={
            k: _percent(correct if k == 1 else ranks[:, :k].any(dim=1))
            for k in sorted(set(top_k))
            if k <= width
        },
        per_class=_per_class(correct, targets, classes or [str(i) for i in range(width)]),
        loss=float(F.cross_entropy(answers.double(), targets)),
        count=len(targets),
        conditions=_conditions(model, where, batch_size=batch_size, count=len(targets)),
        correct=correct,
        targets=targets,
        predicted=predicted,
    )


def _percent(right: Tensor) -> float:
    """Share of True in percent, from whole counts."""
    return 100.0 * int(right.sum()) / len(right)


def _per_class(correct: Tensor, targets: Tensor, names: Sequence[str]) -> tuple[ClassAccuracy, ...]:
    """Counts by class."""
    counts = [int(n) for n in torch.bincount(targets, minlength=len(names))]
    right = [int(n) for n in torch.bincount(targets[correct], minlength=len(names))]
    return tuple(ClassAccuracy(*row) for row in zip(names, counts, right, strict=True))


def _conditions(model: nn.Module, device: torch.device, *, batch_size: int, count: int) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "dtype": str(dtype_of(model)).removeprefix("torch."),
        "count": count,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }
