"""PruneTrain on two processes: they reconfigure in step, stay equal to the bit, and end where one process ends with their batches joined."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import secateur
from secateur.errors import NotFiniteError, PlanError, SettingsError
from secateur.methods import PruneTrain, PruneTrainSettings
from secateur.networks import ResNet
from secateur.testing import randomise

EPOCHS = 4
X = torch.randn(32, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + 2 * (X[:, 1] > 0).long()
EAGER = PruneTrainSettings(penalty_ratio=0.6, threshold=0.3, every=1, rest=1)
"""A threshold so high that something goes within few steps."""

needs_processes = pytest.mark.skipif(
    not distributed.is_available(), reason="PyTorch was built without torch.distributed"
)


def network() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))
    return randomise(net.double(), 1)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def session_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> PruneTrain:
    return secateur.prunetrain(model, optimizer, X[:1], epochs=EPOCHS, settings=EAGER)


def epoch_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, session: PruneTrain, share: slice = slice(None)
) -> None:
    """Four steps on eight examples each, or on a share of these."""
    for x, y in zip(X.split(8), Y.split(8), strict=True):
        loss = F.cross_entropy(model(x[share]), y[share])
        loss = loss + session.penalty(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def trained(model: nn.Module, share: slice = slice(None)) -> tuple[PruneTrain, list[Tensor], list[Tensor]]:
    """The session, the weights and the momentum after all epochs."""
    optimizer = optimizer_of(model)
    session = session_of(model, optimizer)
    for epoch in range(EPOCHS):
        epoch_of(model, optimizer, session, share)
        session.step(epoch)
    weights = list(model.parameters())
    return session, weights, [optimizer.state[weight]["momentum_buffer"] for weight in weights]


def expect(told: str, *, is_true: bool) -> None:
    if not is_true:
        raise RuntimeError(told)


def expect_error(kind: type[Exception], words: str, call: Callable[[], object]) -> None:
    """Both processes raise it: one that did not would wait for the other."""
    try:
        call()
    except kind as error:
        expect(f"{words!r} in: {error}", is_true=words in str(error))
    else:
        raise RuntimeError(f"no {kind.__name__} with {words!r}")


def equal_on_both(tensors: list[Tensor]) -> bool:
    flat = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
    both = [torch.empty_like(flat), torch.empty_like(flat)]
    distributed.all_gather(both, flat)
    return torch.equal(both[0], both[1])


def in_step(rank: int) -> None:
    model = DistributedDataParallel(network())
    session, weights, momenta = trained(model, slice(rank, None, 2))

    alone, joint, its_momenta = trained(network())

    expect("the wrapper is the one that the loop holds", is_true=session.model is model)
    expect("something went", is_true=sum(one.units for one in session.reconfigurations) > 0)
    expect("the same widths", is_true=[w.shape for w in weights] == [w.shape for w in joint])
    expect("weights are equal to the bit", is_true=equal_on_both(weights))
    expect("momentum is equal to the bit", is_true=equal_on_both(momenta))
    told = [None, None]
    distributed.all_gather_object(told, (session.ratios, session.reconfigurations))  # times may differ
    expect("the sessions are equal", is_true=told[0] == told[1])
    expect(
        "λ follows from the loss on the examples of both",
        is_true=abs(session.strength / alone.strength - 1) < 1e-12,
    )
    near = zip([*weights, *momenta], [*joint, *its_momenta], strict=True)
    expect(
        "one process ends there, too",
        is_true=all(torch.allclose(a, b, rtol=1e-9, atol=1e-11) for a, b in near),
    )


def goes_on(rank: int) -> None:
    """Another two processes' session goes on from a state in the midst of it."""
    whole, weights, _ = trained(DistributedDataParallel(network()), slice(rank, None, 2))
    model = DistributedDataParallel(network())
    optimizer = optimizer_of(model)
    session = session_of(model, optimizer)
    for epoch in range(2):
        epoch_of(model, optimizer, session, slice(rank, None, 2))
        session.step(epoch)
    inner, state, kept = model.module, session.state(), optimizer.state_dict()

    again = DistributedDataParallel(inner)
    second = optimizer_of(again)
    second.load_state_dict(kept)
    on = secateur.prunetrain(again, second, X[:1], epochs=EPOCHS, settings=EAGER, state=state)
    for epoch in (2, 3):
        epoch_of(again, second, on, slice(rank, None, 2))
        on.step(epoch)

    expect("the same bits", is_true=all(map(torch.equal, again.parameters(), weights)))
    expect("the same reconfigurations", is_true=on.reconfigurations == whole.reconfigurations)


def block_goes(rank: int) -> None:
    """A whole block goes on both, whatever the statistics that each has seen, and training goes on."""
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(rank))
    net = randomise(ResNet(stages=2, blocks=2, convolutions=2, bottleneck=False, width=4, channels=1))
    with torch.no_grad():
        for name in ("conv1", "conv2"):
            net.get_parameter(f"stages.0.1.body.{name}.weight").zero_()
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    session = secateur.prunetrain(model, optimizer, images[:2], epochs=2, every=1, threshold=1e-9)

    for epoch in range(2):
        loss = model(images).square().mean()
        loss = loss + session.penalty(loss)
        loss.backward()
        if epoch:
            optimizer.step()
        optimizer.zero_grad()
        session.step(epoch)

    expect("the block is gone", is_true=session.reconfigurations[0].blocks == ("stages.0.1",))
    expect("weights are equal to the bit", is_true=equal_on_both(list(model.parameters())))


def other_weights(rank: int) -> None:
    model = DistributedDataParallel(network())
    optimizer = optimizer_of(model)
    session = session_of(model, optimizer)
    epoch_of(model, optimizer, session)
    with torch.no_grad():
        if rank:
            model.module[0].weight[3] = 0
            model.module[2].weight[:, 3] = 0
    widths = [tuple(weight.shape) for weight in model.parameters()]

    expect_error(PlanError, "would cut different units, since their weights differ", session.step)
    expect("nothing changed", is_true=[tuple(weight.shape) for weight in model.parameters()] == widths)


def other_options(rank: int) -> None:
    model = DistributedDataParallel(network())
    expect_error(
        SettingsError,
        "different networks, epochs, options or states",
        lambda: secateur.prunetrain(model, optimizer_of(model), X[:1], epochs=EPOCHS, every=1 + rank),
    )


def one_loss(rank: int) -> None:
    """A loss that only one of them sees to be NaN stops both at that step, with the weights of the start."""
    model = DistributedDataParallel(network())
    before = [weight.clone() for weight in model.parameters()]
    session = session_of(model, optimizer_of(model))
    session.penalty(torch.tensor(1.0))
    session.penalty(torch.tensor(float("nan") if rank else 1.0))
    with torch.no_grad():
        model.module[0].weight.zero_()

    expect_error(NotFiniteError, "epoch 1, step 2", session.step)
    expect("the weights of the start", is_true=all(map(torch.equal, model.parameters(), before)))


def one_weight(rank: int) -> None:
    """Nor does a weight that is not finite in one of them let the other go on alone."""
    model = DistributedDataParallel(network())
    session = session_of(model, optimizer_of(model))
    session.penalty(torch.tensor(1.0))
    with torch.no_grad():
        model.module[0].weight[0, 0] = float("inf") if rank else 1.0

    expect_error(NotFiniteError, "after epoch 1 the weights are no longer finite", session.step)


def joined(rank: int) -> None:
    """Where processes may run out of batches nothing can be agreed upon."""
    model = DistributedDataParallel(network())
    session = session_of(model, optimizer_of(model))
    with model.join():
        loss = model(X).square().mean()
        expect_error(SettingsError, "leave join out", lambda: session.penalty(loss))
        loss.backward()


CASES = (in_step, goes_on, block_goes, other_weights, other_options, one_loss, one_weight, joined)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for case in CASES:
        case(rank)
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # not Python's own end, for the reason told in tests/surgery/test_wrappers.py


@needs_processes
def test_two_processes_reconfigure_in_step_and_stay_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Widths, weights, momentum, λ; blocks; going on; and whatever one of them alone sees, both raise."""
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
