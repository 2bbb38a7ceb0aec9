"""An invented report with realistic values. A test fixture: nothing in it was measured."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from secateur.report import (
    Accuracy,
    Bound,
    Change,
    ClassChange,
    Data,
    Figures,
    FixedAxis,
    Iteration,
    Layer,
    Method,
    OutputFile,
    Report,
)

WIDTHS = {"conv1": 6, "conv2": 16, "fc1": 120, "fc2": 84}
CUTS = (
    # group, share, width after, accepted, validation accuracy
    ("fc1", 0.64, 43, True, 98.98),
    ("fc2", 0.64, 30, True, 98.97),
    ("fc1", 0.64, 15, True, 98.90),
    ("conv2", 0.64, 6, False, 98.31),
    ("conv2", 0.32, 11, True, 98.88),
    ("fc1", 0.64, 5, False, 96.40),
    ("fc1", 0.32, 10, True, 98.86),
    ("fc2", 0.64, 11, True, 98.84),
    ("conv2", 0.32, 7, False, 98.42),
    ("conv2", 0.16, 9, True, 98.85),
    ("conv1", 0.64, 2, False, 91.27),
    ("fc1", 0.32, 7, False, 98.05),
    ("conv1", 0.32, 4, True, 98.81),
    ("fc1", 0.16, 8, False, 98.37),
    ("fc1", 0.08, 9, True, 98.80),
    ("conv2", 0.16, 8, True, 98.79),
    ("fc2", 0.64, 4, False, 95.02),
    ("fc2", 0.32, 7, False, 98.22),
    ("fc2", 0.16, 9, True, 98.82),
    ("conv1", 0.32, 3, False, 98.33),
    ("conv2", 0.16, 7, False, 98.44),
    ("fc1", 0.08, 8, False, 98.40),
    ("conv2", 0.08, 7, False, 98.45),
    ("fc2", 0.16, 8, True, 98.77),
    ("conv1", 0.16, 3, False, 98.30),
    ("fc2", 0.16, 7, False, 98.41),
    ("conv1", 0.08, 3, False, 98.35),
    ("fc2", 0.08, 7, False, 98.43),
    ("conv2", 0.08, 7, False, 98.46),
    ("fc1", 0.08, 8, False, 98.41),
)
REFERENCE, MAX_DROP = 99.02, 0.5
SPLITS = {"training": 50_000, "validation": 10_000, "test": 10_000}


def parameters(w: dict[str, int]) -> int:
    """Parameters of a LeNet-5 with these widths."""
    dense = (25 * w["conv2"] + 1) * w["fc1"] + (w["fc1"] + 1) * w["fc2"] + (w["fc2"] + 1) * 10
    return 26 * w["conv1"] + (25 * w["conv1"] + 1) * w["conv2"] + dense


def macs(w: dict[str, int]) -> int:
    """Multiply-adds of a LeNet-5 with these widths."""
    convolutions = 28 * 28 * 25 * w["conv1"] + 100 * 25 * w["conv1"] * w["conv2"]
    return convolutions + 25 * w["conv2"] * w["fc1"] + w["fc1"] * w["fc2"] + w["fc2"] * 10


def _iterations() -> tuple[Iteration, ...]:
    widths = dict(WIDTHS)
    steps: list[Iteration] = []
    for number, (group, share, after, accepted, accuracy) in enumerate(CUTS, start=1):
        candidate = widths | {group: after}
        drop = round(REFERENCE - accuracy, 2)
        upper = round(drop + 1.645 * math.sqrt((0.6 + abs(drop)) / 100), 2)
        upper = min(upper, 0.5) if accepted else upper
        reason = f"the drop is at most {upper:.2f} points, {'within' if accepted else 'outside'} 0.5"
        steps.append(
            Iteration(
                iteration=number, group=group, share=share, width_before=widths[group], width_after=after,
                removed=widths[group] - after, accepted=accepted, reason=reason, accuracy=accuracy, drop=drop,
                drop_upper=upper, parameters=parameters(candidate), macs=macs(candidate),
                epochs=5 if number % 3 else 2, seconds=31.4 + 1.7 * (number % 7),
            )
        )  # fmt: skip
        widths = candidate if accepted else widths
    return tuple(steps)


def _layer(name: str, after: int, final: dict[str, int]) -> Layer:
    kind = "Conv2d" if name.startswith("conv") else "Linear"
    none_before, none_after = WIDTHS | {name: 0}, final | {name: 0}
    return Layer(
        name=name, kind=kind, width_before=WIDTHS[name], width_after=after,
        parameters_before=parameters(WIDTHS) - parameters(none_before),
        parameters_after=parameters(final) - parameters(none_after),
        macs_before=macs(WIDTHS) - macs(none_before), macs_after=macs(final) - macs(none_after),
    )  # fmt: skip


def _classes() -> tuple[ClassChange, ...]:
    counts = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    changes = (-0.10, 0.0, -0.19, -0.20, 0.10, -0.22, -0.31, -0.39, -0.41, -1.09)
    before = (99.59, 99.65, 99.13, 99.31, 98.98, 98.88, 98.85, 98.74, 98.77, 98.22)
    return tuple(
        ClassChange(
            name=str(digit), count=count, before=was, after=round(was + change, 2), change=change,
            low=round(change - 0.38 - abs(change) / 3, 2), high=round(change + 0.38 + abs(change) / 3, 2),
        )
        for digit, (count, change, was) in enumerate(zip(counts, changes, before, strict=True))
    )  # fmt: skip


def untouched() -> dict[str, object]:
    """The fields of a report of the same network when every candidate was rejected."""
    report = sample()
    zero = Change(points=0.0, low=0.0, high=0.0)
    refused = tuple(step.model_copy(update={"accepted": False}) for step in report.iterations)
    bound = Bound.judge(max_drop=MAX_DROP, reference=REFERENCE, validation=zero, test=zero, unchanged=True)
    same = tuple(one.model_copy(update={"after": one.before, "change": 0.0}) for one in report.classes)
    changes = {"validation_change": zero, "test_change": zero, "classes": same}
    return {"after": report.before, "iterations": refused, "bound": bound, **changes}


def sample(**changes: object) -> Report:
    """A LeNet-5 on MNIST reduced over 30 iterations, as it might look; ``changes`` replace fields."""
    steps = _iterations()
    last = [step for step in steps if step.accepted][-1]
    final = dict(WIDTHS)
    for step in steps:
        if step.accepted:
            final[step.group] = step.width_after
    validation = Change.of_drop(last.drop, upper=last.drop_upper)
    test = Change.of_drop(0.28, upper=0.46)
    fields: dict[str, object] = {
        "title": "LeNet-5 on MNIST, reduced within 0.5 points",
        "created": datetime(2025, 3, 14, 15, 9, tzinfo=UTC),
        "network": "LeNet-5",
        "data": Data(
            name="MNIST",
            splits=SPLITS,
            notes={
                "split": "the last 10,000 training images are the validation split",
                "normalisation": "mean 0.1307, deviation 0.3081",
            },
        ),
        "method": Method(
            name="SNARE",
            settings={"criterion": "taylor", "beta": 1.0, "gamma": 1.0, "sizes": [0.64, 0.32, 0.16, 0.08], "epochs": 5,
                      "distil": True, "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9}},
            source="Score-based reduction of neural networks, master's thesis, KIT, 2020",
        ),
        "seed": 3,
        "bound": Bound.judge(max_drop=MAX_DROP, reference=REFERENCE, validation=validation, test=test),
        "before": Figures(
            parameters=parameters(WIDTHS), macs=macs(WIDTHS), bytes=248_824,
            validation=Accuracy(accuracy=REFERENCE, top_k={3: 99.93}, count=10_000, loss=0.0342),
            test=Accuracy(accuracy=99.01, top_k={3: 99.95}, count=10_000, loss=0.0311),
        ),
        "after": Figures(
            parameters=parameters(final), macs=macs(final), bytes=4 * parameters(final) + 1_996,
            validation=Accuracy(accuracy=last.accuracy, top_k={3: 99.91}, count=10_000, loss=0.0407),
            test=Accuracy(accuracy=98.73, top_k={3: 99.90}, count=10_000, loss=0.0419),
        ),
        "validation_change": validation,
        "test_change": test,
        "layers": tuple(_layer(name, width, final) for name, width in final.items()),
        "fixed": (
            FixedAxis(tensor="conv1.weight", axis=1, count=1, reason="the network's input"),
            FixedAxis(tensor="out.weight", axis=0, count=10, reason="the network's output"),
            FixedAxis(tensor="out.bias", axis=0, count=10, reason="the network's output"),
            FixedAxis(tensor="conv1.weight", axis=2, count=5, reason="the height or width of a kernel"),
            FixedAxis(tensor="conv1.weight", axis=3, count=5, reason="the height or width of a kernel"),
            FixedAxis(tensor="conv2.weight", axis=2, count=5, reason="the height or width of a kernel"),
            FixedAxis(tensor="conv2.weight", axis=3, count=5, reason="the height or width of a kernel"),
        ),
        "unknown_ops": {"example::fused_gate": 2},
        "iterations": steps,
        "classes": _classes(),
        "classes_split": "test",
        "conditions": {
            "commit": "0123abc", "versions": {"secateur": "0.1.0", "torch": "2.13.0", "python": "3.12"},
            "machine": "2 cores, x86-64", "threads": 1, "seconds": 1093.5,
            "command": "secateur reduce lenet5.safetensors --data mnist --max-drop 0.5",
        },
        "files": (
            OutputFile(name="model.safetensors", what="the reduced network", bytes=4 * parameters(final) + 1_996),
            OutputFile(name="report.json", what="this report for programs", bytes=21_408),
            OutputFile(name="journal.jsonl", what="every step, for resuming", bytes=18_233),
        ),
        "notes": ("This page shows invented values from the test suite; nothing on it was measured.",),
    }  # fmt: skip
    return Report.model_validate(fields | changes)
