"""What benchmarks/coverage.py does to one model, in a process of its own.

    python benchmarks/_coverage_cell.py 'timm:vgg11 timm.vgg 3x224x224 132863336' ARM FILE [--memory BYTES]

The model is a line of coverage_models.txt. FILE is the row as JSON, written anew before every stage: a crash or a time limit loses only the stage that it met.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import importlib.util
import json
import math
import resource
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import secateur
from _coverage_models import HUGGING_FACE, Entry, build, example_of
from secateur.channels import Channels
from secateur.cost import Cost
from secateur.errors import NothingToCutError
from secateur.networks import origin_of
from secateur.plan import Plan
from secateur.testing import LawError, cost_of, outputs_of, randomise, relative_error, unread

SHARE = 0.5
TOLERANCE = 1e-9
TURNS, REPEAT_BELOW_S = 3, 1.0
TWO_EXAMPLES_BELOW = 4e9
"""Multiply-adds up to which the law is checked on two examples; larger models are given one."""
REASONS = 5

Result = TypeVar("Result")


class Notes:
    """The row so far, and the CPU seconds of each stage."""

    def __init__(self, path: Path, **known: Any) -> None:
        self.path, self.row, self.stage = path, dict(known), ""
        self.seconds: dict[str, list[float]] = {}

    def begin(self, stage: str) -> None:
        """Say, on the disk too, what comes next."""
        self.stage = stage
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps({**self.row, "stage": stage}), encoding="utf-8")
        temporary.replace(self.path)

    def add(self, **figures: Any) -> None:
        """Note figures."""
        self.row |= figures

    def timed(self, stage: str, work: Callable[[], Result]) -> Result:
        """Do a stage's work and note its CPU seconds, which the writing of the row is no part of."""
        self.begin(stage)
        start = time.process_time()
        result = work()
        self.seconds.setdefault(stage, []).append(time.process_time() - start)
        return result

    def again(self) -> bool:
        """Whether another turn is due: none was run, or the first was short and there were too few."""
        turns = [sum(turn) for turn in zip(*self.seconds.values(), strict=True)]
        return not turns or (turns[0] < REPEAT_BELOW_S and len(turns) < TURNS)

    def medians(self) -> dict[str, float]:
        """The median of each stage's seconds, and of all of them together."""
        turns = [sum(turn) for turn in zip(*self.seconds.values(), strict=True)]
        stages = {f"{stage}_s": statistics.median(spent) for stage, spent in self.seconds.items()}
        figures = {**stages, "seconds": statistics.median(turns)}
        return {**{key: round(value, 4) for key, value in figures.items()}, "turns": len(turns)}


@contextmanager
def told(notes: Notes) -> Iterator[None]:
    """What is raised becomes the row's status and reason, with the stage and the line."""
    try:
        yield
    except NothingToCutError as error:
        notes.add(status="nothing to cut", reason=short(str(error)))
    except LawError as error:
        notes.add(status="law broken", reason=f"{notes.stage}: {short(str(error))}")
    except Exception as error:  # whatever a model, or the engine on it, raises is what is to be found out
        line = _line_of(error)
        notes.add(
            status="raises", reason=f"{notes.stage}: {type(error).__name__}: {short(str(error))} ({line})"
        )
    notes.begin("done")


def short(text: str) -> str:
    """The first line of a text, or so much of it as is told."""
    lines = text.strip().splitlines()
    return lines[0][:300] if lines else "no message"


def _line_of(error: BaseException) -> str:
    """File and line of the innermost frame that is not PyTorch's own."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/torch/" not in frame.filename] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}"


def warm_up() -> None:
    """Load what the first cut of a process loads, which is no model's own time."""
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 4))
    net, x = nn.Sequential(*layers, nn.LayerNorm(4), nn.Linear(4, 2)).eval(), torch.zeros(1, 3, 8, 8)
    channels = secateur.watch(net, x)
    secateur.apply(net, secateur.plan(channels, secateur.score(net, channels, "l1"), remove=SHARE))


def cut(model: nn.Module, example: Any, notes: Notes) -> tuple[Channels, Plan, nn.Module]:
    """One turn of the four stages."""
    gc.collect()
    channels = notes.timed("watch", lambda: secateur.watch(model, example))
    notes.add(**found_in(channels))
    scores = notes.timed("score", lambda: secateur.score(model, channels, "l1"))
    plan = notes.timed("plan", lambda: secateur.plan(channels, scores, remove=SHARE, scope="layer"))
    small = notes.timed("apply", lambda: secateur.apply(model, plan))
    return channels, plan, small


def ours(entry: Entry, notes: Notes) -> None:
    """Cut half of all removable channels with Secateur and hold it to its laws."""
    notes.begin("build")
    example = example_of(entry)
    model = randomise(build(entry.spec))
    notes.add(params_before=sum(parameter.numel() for parameter in model.parameters()))
    notes.begin("warm up")
    warm_up()
    while notes.again():
        _, plan, small = cut(model, example, notes)
    notes.add(
        **notes.medians(), params_after=plan.after.parameters,
        macs_before=plan.before.macs, macs_after=plan.after.macs,
    )  # fmt: skip
    broken = facts(entry, small, plan, notes, wanted=shapes_of(model, example))
    del small
    notes.begin("memory")
    notes.add(**memory_of(model, example))
    del model
    notes.begin("law 1: cutting equals not reading")
    batch = 2 if plan.before.macs < TWO_EXAMPLES_BELOW else 1
    checked = example_of(entry, batch=batch)
    error = law_error(randomise(build(entry.spec)), checked, plan)
    if error > TOLERANCE:
        # numbers that grow from layer to layer leave nothing but rounding errors in the end
        notes.add(law_error_before_settling=error)
        error = law_error(settled(randomise(build(entry.spec)), checked), checked, plan)
    notes.add(law_error=error)
    if error > TOLERANCE:
        broken.append(f"law 1: outputs differ by {error:.2g} of the largest from not reading")
    notes.add(status="law broken" if broken else "ok", reason="; ".join(broken))


def facts(
    entry: Entry, small: nn.Module, plan: Plan, notes: Notes, *, wanted: list[tuple[int, ...]]
) -> list[str]:
    """Run the cut network, compare it with its forecast, and save and load it; what does not hold, in words."""
    example = example_of(entry)
    # before it first runs: ConViT's buffers grow with the input that they meet
    notes.begin("forecast")
    cost = counted(small, example)
    wrong = [
        f"{what} {getattr(plan.after, what):,}, counted {getattr(cost, what):,}"
        for what in ("parameters", "buffers", "macs", "bytes")
        if getattr(plan.after, what) != getattr(cost, what)
    ]
    notes.add(forecast_equal=not wrong)
    notes.begin("forward")
    outputs = outputs_of(small, example)
    shapes = [tuple(tensor.shape) for tensor in outputs]
    notes.add(shapes_equal=shapes == wanted)
    broken = [] if shapes == wanted else [f"outputs had shapes {wanted}, they have {shapes}"]
    broken += [f"law 2: forecast {', '.join(wrong)}"] if wrong else []
    notes.begin("save and load")
    same = _equal(outputs_of(saved_and_loaded(entry, small), example), outputs)
    notes.add(file_equal=same)
    return broken if same else [*broken, "law 6: saved and loaded, it gives other outputs"]


def counted(model: nn.Module, example: Any) -> Cost:
    """What a network costs while it runs; attention runs unfused, since PyTorch's counter sees no product inside."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            return cost_of(model, example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def shapes_of(model: nn.Module, example: Any) -> list[tuple[int, ...]]:
    """The shapes of all that a network returns."""
    return [tuple(tensor.shape) for tensor in outputs_of(model, example)]


def saved_and_loaded(entry: Entry, model: nn.Module) -> nn.Module:
    """A network after a round through a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        secateur.save(model, path)
        factory = None if origin_of(model) else lambda: build(entry.spec)
        return secateur.load(path, factory=factory)


def _equal(found: list[Tensor], wanted: list[Tensor]) -> bool:
    """Bit by bit, as far as numbers go: what is no number here must be none there."""
    return all(
        mine.shape == theirs.shape and bool(((mine == theirs) | (mine.isnan() & theirs.isnan())).all())
        for mine, theirs in zip(found, wanted, strict=True)
    )


def law_error(model: nn.Module, example: Any, plan: Plan) -> float:
    """How far the cut network is from the one that does not read; the model is used up, to spare memory."""
    model.double()
    exact = example if isinstance(example, dict) else example.double()
    silent = unread(model, plan)
    wanted = outputs_of(silent, exact)
    del silent
    return relative_error(outputs_of(secateur.apply(model, plan, inplace=True), exact), wanted)


@torch.no_grad()
def settled(model: nn.Module, example: Any) -> nn.Module:
    """A network whose batch norms expect about what comes: their statistics times random factors, in double precision."""
    generator = torch.Generator().manual_seed(2)

    def expect(norm: Any, args: tuple[Tensor, ...]) -> None:
        x = args[0].transpose(0, 1).flatten(1)
        for value, buffer in ((x.mean(1), norm.running_mean), (x.square().mean(1) + 1e-6, norm.running_var)):
            buffer.copy_(value * (torch.rand(value.shape, generator=generator) + 0.5))

    model.double().eval()
    hooks = [
        module.register_forward_pre_hook(expect)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]
    outputs_of(model, example if isinstance(example, dict) else example.double())
    for hook in hooks:
        hook.remove()
    return model


def found_in(channels: Channels) -> dict[str, Any]:
    """What can go, what was left alone and why."""
    sizes = {name: math.prod(channels.shapes[name]) for name in channels.trainable}
    free: Counter[tuple[str, int]] = Counter()
    for group in channels.groups:
        for member in group.members:
            free[member.tensor, member.axis] += member.indices.size
    stay = sum(
        count
        * math.prod(1 - free[name, axis] / size for axis, size in enumerate(channels.shapes[name]) if size)
        for name, count in sizes.items()
    )
    axes = Counter(fixed.reason for fixed in channels.fixed)
    reason_of = {fixed.tensor: fixed.reason for fixed in reversed(channels.fixed)}
    whole: Counter[str] = Counter()
    for name in sizes.keys() - {tensor for tensor, _ in free}:
        whole[reason_of.get(name, "is one number")] += sizes[name]
    reasons = sorted(axes | whole, key=lambda reason: (-whole[reason], -axes[reason], reason))
    return {
        "groups": len(channels.groups),
        "channels": channels.units(),
        "removable_share": round(1 - stay / max(sum(sizes.values()), 1), 4),
        "left": [
            {"reason": short(reason), "axes": axes[reason], "parameters": whole[reason]}
            for reason in reasons[:REASONS]
        ],
        "unknown_ops": dict(channels.unknown_ops),
        "notes": [short(note) for note in dict.fromkeys(channels.notes)][:REASONS],
    }


def memory_of(model: nn.Module, example: Any) -> dict[str, Any]:
    """Memory that watching, scoring, planning and cutting in place need beside the model; the model is used up.

    Empty where the system does not tell the peak (it is read, and set back, as Linux has it).
    """
    if not PEAK_RESET.exists():
        return {}
    own = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier stages freed goes back, so that it hides nothing
    PEAK_RESET.write_text("5", encoding="ascii")
    before = _resident("VmRSS")
    channels = secateur.watch(model, example)
    plan = secateur.plan(channels, secateur.score(model, channels, "l1"), remove=SHARE)
    secateur.apply(model, plan, inplace=True)
    extra = max(_resident("VmHWM") - before, 0)
    return {
        "model_mb": round(own / 1e6, 1),
        "peak_extra_mb": round(extra / 1e6, 1),
        "memory_ratio": round(1 + extra / max(own, 1), 2),
    }


def _resident(key: str) -> int:
    """Bytes of this process that are, or at most were, in memory."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def theirs(entry: Entry, notes: Notes) -> None:
    """The same with Torch-Pruning, the classifier left alone: does it cut, does the network run, are shapes the same?"""
    import torch_pruning

    notes.begin("build")
    example = example_of(entry)
    model = randomise(build(entry.spec))
    before = sum(parameter.numel() for parameter in model.parameters())
    outputs = outputs_of(model, example)
    notes.add(params_before=before)
    while notes.again():
        fresh = copy.deepcopy(model)
        ignored = classifiers(fresh, outputs)
        gc.collect()
        pruner = notes.timed(
            "build",
            lambda fresh=fresh, ignored=ignored: torch_pruning.pruner.BasePruner(
                fresh,
                example,
                importance=torch_pruning.importance.MagnitudeImportance(p=1),
                pruning_ratio=SHARE,
                ignored_layers=ignored,
            ),
        )
        notes.timed("prune", pruner.step)
    after = sum(parameter.numel() for parameter in fresh.parameters())
    notes.add(**notes.medians(), params_after=after)
    if after == before:
        raise NothingToCutError("it returned the network unchanged")
    notes.begin("forward")
    shapes, wanted = shapes_of(fresh, example), [tuple(tensor.shape) for tensor in outputs]
    same = shapes == wanted
    reason = "" if same else f"outputs had shapes {wanted}, they have {shapes}"
    notes.add(status="ok" if same else "law broken", reason=reason, shapes_equal=same)


def classifiers(model: nn.Module, outputs: list[Tensor]) -> list[nn.Module]:
    """The layers that write as many channels as an output has, which must keep their width."""
    widths = {tensor.shape[-1 if tensor.dim() == 3 else 1] for tensor in outputs if tensor.dim() > 1}
    return [
        module
        for module in model.modules()
        if (isinstance(module, nn.Linear) and module.out_features in widths)
        or (isinstance(module, nn.modules.conv._ConvNd) and module.out_channels in widths)
    ]


ARMS: dict[str, Callable[[Entry, Notes], None]] = {"secateur": ours, "torch-pruning": theirs}
PEAK_RESET = Path("/proc/self/clear_refs")


def main(arguments: list[str]) -> None:
    """Do one cell and leave its row in a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Entry.of)
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--memory", type=int, help="bytes that the process may take")
    options = parser.parse_args(arguments)
    if options.memory:
        resource.setrlimit(resource.RLIMIT_DATA, (options.memory, options.memory))
    torch.set_num_threads(1)
    notes = Notes(options.file)
    if options.model.spec in HUGGING_FACE and importlib.util.find_spec("transformers") is None:
        notes.add(status="skipped", reason="transformers is not installed; pip install 'secateur[bench]'")
        notes.begin("done")
        return
    with told(notes):
        ARMS[options.arm](options.model, notes)


if __name__ == "__main__":
    main(sys.argv[1:])
