"""The training loop."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from secateur.errors import DataError, ModelError, SettingsError
from secateur.train import TrainSettings, distil_loss, fit, logits, snapshot, soften, teacher_logits
from secateur.train.conditions import batches, channels_last, derived_seed

QUICK = TrainSettings(epochs=3, lr=0.05, batch_size=64)


def same(first, second):
    one, two = snapshot(first), snapshot(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def accuracy(model, examples):
    return 100 * float((logits(model, examples.inputs).argmax(1) == examples.targets).double().mean())


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_learns_digits(name, digits, network):
    """Every optimiser takes a small network above 90 % on digits it has not seen (chance: 10 %)."""
    model = network()
    settings = TrainSettings(
        epochs=8, batch_size=32, optimizer=name, lr=0.05 if name == "sgd" else 0.003, schedule="cosine"
    )
    result = fit(model, *digits, settings)

    assert accuracy(model, digits[1]) > 90
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert result.stopped == "epochs"


def test_equals_a_loop_written_out(digits, network):
    """Plain SGD with label smoothing ends in exactly the weights of the loop written out with torch's own SGD."""
    train = digits[0]
    settings = TrainSettings(epochs=2, batch_size=64, lr=0.05, label_smoothing=0.1, keep="last")
    model, other = network(), network().train()
    model[5] = other[5] = nn.Identity()
    fit(model, train, None, settings, seed=7)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9, fused=True)
    for epoch in (1, 2):
        order = torch.randperm(600, generator=torch.Generator().manual_seed(derived_seed(7, epoch, 0)))
        for rows in batches(order, 64):
            loss = F.cross_entropy(other(train.inputs[rows]), train.targets[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    assert same(model, other)


def test_same_seed_same_network(digits, network):
    """The seed decides the result to the last bit, whatever the global random state is."""
    results = []
    for seed, noise in ((1, 0), (1, 99), (2, 0)):
        model = network()
        torch.manual_seed(noise)
        fit(model, *digits, QUICK.but(augment="shift"), seed=seed)
        results.append(model)

    assert same(results[0], results[1])
    assert not same(results[0], results[2])


@pytest.mark.parametrize("fails", [False, True])
def test_world_is_left_as_found(fails, digits, network):
    """Random state, modes, hooks and attributes are as before, the gradients cleared, also after an error."""
    model = network().eval()
    model[5].train()
    seen = []
    handle = model[0].register_forward_hook(lambda *_: seen.append(1))
    keys = {name: set(vars(module)) for name, module in model.named_modules()}
    before = torch.get_rng_state()

    def stop(record):
        if fails:
            raise RuntimeError("told to")
        return False

    if fails:
        with pytest.raises(RuntimeError, match="told to"):
            fit(model, *digits, QUICK, stop_when=stop)
    else:
        fit(model, *digits, QUICK, stop_when=stop)

    assert torch.equal(torch.get_rng_state(), before)
    assert [m.training for m in model] == [False] * 5 + [True, False]
    assert all(p.grad is None for p in model.parameters())
    assert {name: set(vars(module)) for name, module in model.named_modules()} == keys
    assert len(model[0]._forward_hooks) == 1
    assert seen
    handle.remove()


def test_best_epoch_is_returned(digits, network):
    """With keep='best' the network has the accuracy of the best record; with 'last', that of the last."""
    settings = TrainSettings(epochs=6, lr=1.0, momentum=0.0, batch_size=64)
    best, last = network(), network()
    result = fit(best, *digits, settings)
    other = fit(last, *digits, settings.but(keep="last"))
    top = max(record.validation_accuracy for record in result.history)

    assert result.history == other.history
    assert top > result.history[-1].validation_accuracy
    assert accuracy(best, digits[1]) == pytest.approx(top)
    assert result.history[result.best_epoch - 1].validation_accuracy == top
    assert accuracy(last, digits[1]) == pytest.approx(other.history[-1].validation_accuracy)
    assert other.best_epoch == 6


def test_average_follows_weights_and_buffers(digits, network):
    """With ema the network gets the running average of weights and batch norm's statistics, by its recursion."""
    model, mirror = network(), network()
    seen = []
    settings = TrainSettings(epochs=1, batch_size=100, lr=0.1, ema=0.5, keep="last")
    fit(model, digits[0], None, settings, on_batch=lambda *_: seen.append(snapshot(model)))
    average = seen[0]
    for after in seen[1:]:
        average = {n: 0.5 * average[n] + 0.5 * t if t.is_floating_point() else t for n, t in after.items()}

    for name, tensor in snapshot(model).items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, average[name], msg=name)
    assert not same(model, mirror)


def test_early_stopping_waits_its_patience(digits, network):
    """Training ends exactly `patience` epochs after the best one."""
    settings = TrainSettings(epochs=40, lr=2.0, momentum=0.0, early_stopping=2)
    result = fit(network(), *digits, settings)

    assert result.stopped == "early_stopping"
    assert len(result.history) == result.best_epoch + 2


def test_stop_when_ends_after_that_epoch(digits, network):
    """`stop_when` sees each record with its per-example outcome and ends the run."""
    seen = []

    def enough(record):
        seen.append(record)
        return record.epoch == 2

    result = fit(network(), *digits, QUICK, stop_when=enough)

    assert result.stopped == "stop_when"
    assert len(result.history) == 2
    assert 100 * float(seen[1].correct.double().mean()) == pytest.approx(seen[1].validation_accuracy)
    assert result.history[1].correct is None


def test_progress_counts_every_step(digits, network):
    """`on_batch` counts up to the total by ones; `on_epoch` is told of every epoch."""
    steps, epochs = [], []
    fit(
        network(),
        *digits,
        TrainSettings(epochs=2, batch_size=128),
        on_batch=lambda done, total: steps.append((done, total)),
        on_epoch=epochs.append,
    )

    assert steps == [(i, 10) for i in range(1, 11)]
    assert [record.epoch for record in epochs] == [1, 2]


def test_last_single_example_joins_its_neighbour(toy):
    """Batch norm trains although one example is left over."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    data = toy(torch.randn(9, 3), torch.arange(9) % 2)

    assert fit(model, data, None, TrainSettings(epochs=1, batch_size=4)).history[0].epoch == 1


def test_answers_stand_in_for_the_teacher(digits, network):
    """Precomputed answers give bit for bit what the teacher gives."""
    teacher, first, second = network(5), network(), network()
    answers = teacher_logits(teacher, digits[0])
    fit(first, *digits, QUICK, teacher=teacher)
    fit(second, *digits, QUICK, teacher_answers=answers)

    assert same(first, second)


@pytest.mark.parametrize("augment", ["none", "shift"])
def test_student_learns_from_the_teacher_alone(augment, digits, network, toy):
    """With the whole weight on the teacher and wrong labels, the student comes to agree with the teacher."""
    teacher = network(5)
    fit(teacher, *digits, TrainSettings(epochs=5, batch_size=32, lr=0.05))
    frozen = copy.deepcopy(teacher)
    wrong = toy(digits[0].inputs, (digits[0].targets + 1) % 10)
    student = network()
    settings = TrainSettings(
        epochs=6, batch_size=32, lr=0.02, distil_weight=1.0, distil_temperature=2.0, augment=augment, shift=1
    )
    fit(student, wrong, None, settings, teacher=teacher)
    agree = logits(student, digits[1].inputs).argmax(1) == logits(teacher, digits[1].inputs).argmax(1)

    assert float(agree.double().mean()) > 0.85
    assert same(teacher, frozen)


def test_loss_mixes_labels_and_teacher(digits, network):
    """The recorded loss of one step is (1−w)·CE + w·T²·KL plus the penalty, by hand."""
    model, teacher = network(), network(5)
    model[5] = nn.Identity()
    mirror = copy.deepcopy(model).train()
    train = digits[0]
    settings = TrainSettings(epochs=1, batch_size=600, distil_weight=0.3, distil_temperature=3.0, keep="last")
    penalty = lambda net: 0.01 * net[6].weight.abs().sum()  # noqa: E731
    record = fit(model, train, None, settings, teacher=teacher, penalty=penalty).history[0]
    outputs = mirror(train.inputs)
    soft = soften(teacher_logits(teacher, train), 3.0)
    by_hand = 0.7 * F.cross_entropy(outputs, train.targets) + 0.3 * distil_loss(
        outputs, soft, temperature=3.0
    )

    assert record.train_loss == pytest.approx(float((by_hand + penalty(mirror)).detach()), rel=1e-5)


def test_clipping_bounds_the_step(digits, network):
    """With plain SGD one step moves the weights by at most lr·clip."""
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    settings = TrainSettings(epochs=1, batch_size=600, lr=1.0, momentum=0.0, clip=0.01, keep="last")
    fit(model, digits[0], None, settings)
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)])

    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("precision", "dtype"), [("auto", torch.float64), ("bf16", torch.float32)])
def test_number_format(precision, dtype, digits, network):
    """A float64 network trains in float64; bfloat16 is mixed in while the weights stay as they are."""
    model = network().to(dtype)
    seen = []
    handle = model[6].register_forward_hook(lambda m, _, out: seen.append(out.dtype) if m.training else None)
    fit(model, *digits, QUICK.but(precision=precision, epochs=4))
    handle.remove()

    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float64}
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert accuracy(model, digits[1]) > 60


def test_optimizer_goes_on(digits, network):
    """Two runs that share an optimiser equal neither two with fresh ones nor lose the optimiser's state."""
    shared, fresh = network(), network()
    first = fit(shared, *digits, QUICK.but(keep="last"))
    second = fit(shared, *digits, QUICK.but(keep="last"), optimizer=first.optimizer)
    for _ in range(2):
        fit(fresh, *digits, QUICK.but(keep="last"))

    assert second.optimizer is first.optimizer
    assert len(first.optimizer.state) == len(list(shared.parameters()))
    assert not same(shared, fresh)


def test_frozen_parameters_stay(digits, network):
    """Parameters that need no gradient do not change."""
    model = network()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    fit(model, *digits, QUICK)

    assert torch.equal(model[0].weight, before)


def test_divergence_names_epoch_step_and_rate(digits, network):
    """A loss that is no longer finite ends the run with where it happened and the learning rate as a way out."""
    with pytest.raises(ModelError, match=r"not finite in epoch 1, step \d+ .*lower the learning rate"):
        fit(network(), *digits, QUICK.but(lr=1e25, batch_size=16))


def test_broken_weights_are_named(digits, network):
    """A network that already holds NaN is refused by the tensor's name."""
    model = network()
    with torch.no_grad():
        model[6].weight[0, 0] = float("nan")

    with pytest.raises(ModelError, match=r"6\.weight"):
        fit(model, *digits, QUICK)


def test_unfit_data_is_refused_with_shapes(digits, network, toy):
    """Inputs, labels or outputs that do not belong together are refused with their shapes, and nothing is trained."""
    model = network()
    before = copy.deepcopy(model)
    labels = torch.zeros(4, dtype=torch.int64)
    cases = [
        (toy(torch.zeros(4, 3, 8, 8), labels), r"\(1, 3, 8, 8\)"),
        (toy(torch.zeros(4, 1, 8, 8), labels + 10), r"10 to 10.*\[n, 10\]"),
        (toy(torch.zeros(5, 1, 8, 8), labels), r"\(5, 1, 8, 8\).*\(4,\)"),
        (toy(torch.zeros(4, 1, 8, 8), labels.float()), "float32"),
        (toy(torch.zeros(0, 1, 8, 8), labels[:0]), "no examples"),
    ]
    for data, words in cases:
        with pytest.raises(DataError, match=f"the training split: .*{words}"):
            fit(model, data, None, QUICK)
        with pytest.raises(DataError, match=f"the validation split: .*{words}"):
            fit(model, digits[0], data, QUICK)
    with pytest.raises(DataError, match=r"gave shape \(1, 6, 8, 8\)"):
        fit(model[:1], digits[0], None, QUICK)

    assert same(model, before)


def test_contradictions_are_refused(digits, network):
    """Options that cannot hold together are refused before anything is trained."""
    model = network()
    cases = [
        (None, QUICK.but(early_stopping=2), {}, "early_stopping needs validation"),
        (digits[1], QUICK, {"seed": -1}, "seed is -1"),
        (digits[1], QUICK.but(precision="16"), {}, "needs a GPU"),
        (
            digits[1],
            QUICK,
            {"teacher": network(1), "teacher_answers": torch.zeros(600, 10)},
            "give one of them",
        ),
    ]
    for validation, settings, more, words in cases:
        with pytest.raises(SettingsError, match=words):
            fit(model, digits[0], validation, settings, **more)
    foreign = torch.optim.SGD(network(1).parameters(), lr=0.1)
    with pytest.raises(ModelError, match="another network"):
        fit(model, *digits, QUICK, optimizer=foreign)


@pytest.mark.parametrize("given", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels"])
def test_every_layout_is_given_back(given):
    """Only the weights of 2-D convolutions are held otherwise, and each gets its strides back: kernels of 1x1, too, of which both layouts may be said."""
    net = nn.Sequential(nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 3), nn.Conv2d(8, 8, 3, groups=8)).to(
        memory_format=given
    )
    net.append(nn.Conv3d(2, 3, 3))
    net.register_buffer("table", torch.zeros(2, 3, 4, 4))
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    before = {name: (tensor.stride(), tensor.detach().clone()) for name, tensor in tensors.items()}

    with channels_last(net):
        assert net[1].weight.is_contiguous(memory_format=torch.channels_last)
        assert net.table.is_contiguous()

    for name, (strides, value) in before.items():
        assert tensors[name].stride() == strides, name
        assert torch.equal(tensors[name], value), name


def test_channels_last_changes_the_layout_only_while_training(digits, network):
    """Training with channels last learns the same to rounding, and the network has its own layout afterwards."""
    nets = network(), network()
    layouts = []

    for net, last in zip(nets, (False, True), strict=True):
        fit(
            net, *digits, TrainSettings(epochs=1, ema=0.9, channels_last=last),
            on_batch=lambda *_, net=net: layouts.append(net[0].weight.stride()),
        )  # fmt: skip

    assert torch.allclose(nets[0][0].weight, nets[1][0].weight, atol=1e-4)
    assert all(parameter.is_contiguous() for parameter in nets[1].parameters())
    assert len(set(layouts)) == 2
