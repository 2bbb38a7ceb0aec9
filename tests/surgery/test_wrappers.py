"""Networks inside torch.compile and data parallelism are cut inside and come back wrapped as they were."""

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.strategies import random_plan
from torch import distributed, multiprocessing, nn
from torch.distributed import init_device_mesh
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import secateur
from secateur._model import is_compiled, unwrapped
from secateur.errors import ModelError, PlanError
from secateur.plan import Change, Plan, plan_for
from secateur.surgery.wrappers import check_wrappers
from secateur.testing import Wired, outputs_of, randomise, relative_error

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 4, (8,), generator=torch.Generator().manual_seed(1))


def network(seed: int = 0) -> nn.Module:
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Tanh(), nn.Flatten(),
            nn.Linear(96, 4),
        ),
        seed,
    )  # fmt: skip


def half(model: nn.Module, seed: int = 0) -> Plan:
    return random_plan(secateur.watch(model, X), ratio=0.5, seed=seed)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, times: int, rank: int = 0) -> list[float]:
    losses: list[float] = []
    for _ in range(times):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X[rank::2]), Y[rank::2])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(autouse=True)
def _compile_afresh() -> None:
    """Code that earlier tests compiled counts towards PyTorch's limit."""
    torch.compiler.reset()


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": partial(torch.compile, backend="eager"),
    "data parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "averaged compiled": lambda model: AveragedModel(torch.compile(model, backend="eager")),
}


def kinds(model: nn.Module) -> list[type[nn.Module]]:
    """The classes of a network and of what is around it."""
    return [type(module) for module in model.modules() if unwrapped(module) is unwrapped(model)]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_network_is_cut_inside(name, inplace):
    """The plan is that of the network; what comes back computes the same as the network cut alone, in the same wrapper."""
    model = WRAPPERS[name](network())
    plan = half(unwrapped(model))
    alone = secateur.apply(unwrapped(model), plan)
    whole = outputs_of(model, X)

    small = secateur.apply(model, plan, inplace=inplace)

    assert (small is model) == inplace
    assert kinds(small) == kinds(model)
    assert relative_error(outputs_of(small, X), outputs_of(alone, X)) < 1e-5
    if not inplace:
        assert relative_error(outputs_of(model, X), whole) == 0


def test_a_compiled_network_keeps_its_backend_mode_and_hooks():
    """What was compiled comes back compiled by the same backend, and hooks around it are there."""
    graphs, calls = [], []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    model = torch.compile(network().eval(), backend=backend)
    model.register_forward_hook(lambda module, args, out: calls.append(out.shape))
    model(X)
    before = len(graphs)

    small = secateur.apply(model, half(unwrapped(model)))
    small(X)

    assert is_compiled(small)
    assert len(graphs) > before
    assert len(calls) == 2
    assert [m.training for m in small.modules()] == [False] * len(list(model.modules()))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_compiled_network_is_cut_again_and_again(inplace):
    """However often a compiled network is cut, it is compiled anew and computes what the network inside does."""
    graphs = itertools.count()
    inner = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4))
    model = torch.compile(
        randomise(inner), backend=lambda graph, inputs: (next(graphs), graph.forward)[1], fullgraph=True
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    for round_ in range(10):
        train(model, optimizer, 1)
        plan = random_plan(secateur.watch(unwrapped(model), X), ratio=0.1, seed=round_)
        model = secateur.apply(model, plan, optimizer=optimizer, inplace=inplace)
        assert relative_error(outputs_of(model, X), outputs_of(unwrapped(model), X)) < 1e-6

    assert unwrapped(model)[0].out_channels < 12
    assert next(graphs) >= 20  # each round once for training and once without gradients


def test_what_compiles_itself_goes_on_in_place():
    """`Module.compile` stays in force where the network is cut in place."""
    compiled: list[int] = []
    model = Wired(
        lambda m, x: m.inner(x), inner=network()
    ).eval()  # PyTorch compiles no frame of its own modules
    model.compile(backend=lambda graph, inputs: (compiled.append(1), graph.forward)[1])
    model(X)
    plan = half(model)
    alone = secateur.apply(model, plan)
    before = len(compiled)

    secateur.apply(model, plan, inplace=True)

    assert relative_error(outputs_of(model, X), outputs_of(alone, X)) < 1e-5
    assert len(compiled) > before > 0


def _join(rank: int, folder: str) -> None:
    """What every test process begins with."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)


def _leave() -> None:
    """What every test process ends with: without Python's own end, in which it may be killed.

    A gloo thread that still holds a tensor of its last message wants Python's lock to let it go; when Python is ending, that
    aborts the process (https://github.com/pytorch/pytorch/pull/179291), now and then, after everything was proved.
    """
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)


def _equal_on_both(tensors: list[torch.Tensor]) -> bool:
    """Whether both processes hold the same numbers."""
    flat = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
    both = [torch.empty_like(flat), torch.empty_like(flat)]
    distributed.all_gather(both, flat)
    return torch.equal(both[0], both[1])


def _state(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [state["momentum_buffer"] for state in optimizer.state.values()]


def _expect(told: str, *, is_true: bool) -> None:
    if not is_true:
        raise RuntimeError(told)


def _train_cut_train(rank: int) -> None:
    for inplace in (False, True):
        model = DistributedDataParallel(network(), bucket_cap_mb=0.001, gradient_as_bucket_view=True)
        model.register_comm_hook(None, fp16_compress_hook)
        model.register_forward_hook(lambda module, args, out: out * 1.0)
        backward: list[int] = []
        model.register_full_backward_hook(
            lambda module, before, after, seen=backward: seen.append(len(after))
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        train(model, optimizer, 3, rank)
        plan = half(model.module)

        small = secateur.apply(model, plan, optimizer=optimizer, inplace=inplace)
        _expect(
            "started from the same numbers", is_true=_equal_on_both([*small.parameters(), *small.buffers()])
        )
        done = len(backward)
        losses = train(small, optimizer, 15, rank)

        _expect("in place means the same module", is_true=(small is model) == inplace)
        _expect("the network inside was cut", is_true=small.module[0].out_channels == 4)
        _expect("the same options", is_true=small.bucket_bytes_cap == int(0.001 * 1024 * 1024))
        _expect("the same options", is_true=small.gradient_as_bucket_view)
        _expect("the same group", is_true=small.process_group is model.process_group)
        _expect("the same hooks", is_true=len(small._forward_hooks) == 1)
        _expect("hooks of the whole backward pass", is_true=len(backward) == done + 15)
        _expect("of the same kind", is_true=small._is_full_backward_hook is True)
        _expect("the same communication", is_true=small._comm_hooks == [(fp16_compress_hook, None)])
        _expect("every parameter was trained", is_true=set(optimizer.state) == set(small.parameters()))
        _expect("weights stay equal", is_true=_equal_on_both(list(small.parameters())))
        _expect("momenta stay equal", is_true=_equal_on_both(_state(optimizer)))
        _expect(f"the loss falls: {losses}", is_true=losses[-1] < 0.8 * losses[0])


def _cut_nothing(rank: int) -> None:
    curves: list[list[float]] = []
    for cut in (False, True):
        model: Any = DistributedDataParallel(network())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        losses = train(model, optimizer, 3, rank)
        if cut:
            channels = secateur.watch(model.module, X)
            every = tuple(Change(g.name, g.width, np.arange(g.width)) for g in channels.groups)
            plan = replace(plan_for(channels, []), groups=channels.groups, changes=every)
            model = secateur.apply(model, plan, optimizer=optimizer)
        curves.append(losses + train(model, optimizer, 3, rank))
    _expect(f"the curves are the same to the bit: {curves}", is_true=curves[0] == curves[1])


def _different_plans(rank: int) -> None:
    model = DistributedDataParallel(network())
    own = half(model.module, seed=rank)
    try:
        secateur.apply(model, own, inplace=True)
    except PlanError as error:
        _expect("the message says what to do", is_true="broadcast_object_list" in str(error))
    else:
        raise RuntimeError("different plans were accepted")
    _expect("nothing has changed", is_true=model.module[0].out_channels == 8)

    sent = [own.to_json()]
    distributed.broadcast_object_list(sent, src=0)
    small = secateur.apply(model, Plan.from_json(sent[0]))
    _expect("one plan for all fits", is_true=_equal_on_both(list(small.parameters())))


def _own_statistics(rank: int) -> None:
    torch.manual_seed(rank)
    model = DistributedDataParallel(network())
    model.forward_sync_buffers = model.broadcast_buffers = False  # an option, under its two names
    model(torch.randn(4, 3, 8, 8) + rank)
    small = secateur.apply(model, half(unwrapped(model)))
    kept = [b for name, b in small.named_buffers() if name.endswith("running_mean")]
    _expect("each process keeps its own statistics", is_true=not _equal_on_both(kept))
    _expect("the option stays", is_true=not small.forward_sync_buffers)
    small(X).sum().backward()


def _sharded(rank: int) -> None:
    model = network()
    plan = half(model)
    mesh = init_device_mesh("cpu", (2,))
    model[6].weight = nn.Parameter(distribute_tensor(model[6].weight, mesh, [Shard(0)]))
    try:
        secateur.apply(model, plan)
    except ModelError as error:
        _expect("the message names the tensor", is_true="'6.weight' is spread over processes" in str(error))
    else:
        raise RuntimeError("a sharded network was accepted")


def _all(rank: int, folder: str) -> None:
    _join(rank, folder)
    for work in (_train_cut_train, _cut_nothing, _different_plans, _own_statistics, _sharded):
        work(rank)
    _leave()


def _compiled_inside(rank: int, folder: str) -> None:
    _join(rank, folder)
    for inplace in (False, True):
        model: nn.Module = DistributedDataParallel(torch.compile(network(), backend="eager"))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        train(model, optimizer, 2, rank)
        plan = half(unwrapped(model))
        model = secateur.apply(model, plan, optimizer=optimizer, inplace=inplace)
        losses = train(model, optimizer, 15, rank)
        _expect("compiled inside", is_true=is_compiled(model.module))
        _expect("weights stay equal", is_true=_equal_on_both(list(model.parameters())))
        _expect(f"the loss falls: {losses}", is_true=losses[-1] < 0.8 * losses[0])
    _leave()


needs_processes = pytest.mark.skipif(
    not distributed.is_available(), reason="PyTorch was built without torch.distributed"
)


@pytest.fixture
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started find the tests."""
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))


@needs_processes
@pytest.mark.usefixtures("_importable")
def test_two_processes_stay_equal(tmp_path: Path):
    """Cut on two processes, a DDP network is wrapped again as it was, both go on with equal weights, and one plan is asked for."""
    multiprocessing.spawn(_all, args=(str(tmp_path),), nprocs=2)


@needs_processes
@pytest.mark.slow
@pytest.mark.usefixtures("_importable")
def test_two_processes_with_a_compiled_network_stay_equal(tmp_path: Path):
    """A network that is compiled inside of DDP comes back compiled inside of DDP."""
    multiprocessing.spawn(_compiled_inside, args=(str(tmp_path),), nprocs=2)


def test_a_wrapper_that_cannot_be_made_again_is_refused(monkeypatch):
    """DDP's own mixed precision rewrites the network inside: the message says to cut first."""
    wrapper = object.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = network()
    wrapper.mixed_precision = SimpleNamespace(param_dtype=torch.float16)

    with pytest.raises(ModelError, match=r"with mixed_precision .* cut the network first"):
        check_wrappers(wrapper, half(wrapper.module))
