"""Attention transfer: layers learn where a teacher's look."""

import pytest
import torch
from torch import nn

from secateur.errors import ModelError, SettingsError
from secateur.train import TrainSettings, TrainState, attention_loss, attention_map, fit

BASE = TrainSettings(epochs=1, batch_size=100, lr=0.05, distil_weight=0.0, keep="last")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_loss_is_what_the_paper_says():
    """The squared distance of the normalised sums of squares, written out by its definition."""
    mine, theirs = noise(4, 3, 5, 6), noise(4, 7, 5, 6, seed=1)
    maps = [(x**2).sum(1).reshape(4, -1) for x in (mine, theirs)]
    a, b = (m / (m**2).sum(1, keepdim=True).sqrt() for m in maps)

    torch.testing.assert_close(attention_loss([mine], [theirs]), ((a - b) ** 2).sum(1).mean())
    torch.testing.assert_close(
        attention_loss([mine, mine], [theirs, theirs]), 2 * attention_loss([mine], [theirs])
    )


def test_an_identical_student_loses_nothing():
    """The same outputs are the same attention; so are outputs scaled, and channels in another order."""
    x = noise(4, 3, 5, 6)

    assert float(attention_loss([x], [x])) == 0
    assert float(attention_loss([x], [17.0 * x])) < 1e-24
    assert float(attention_loss([x], [-x.flip(1)])) < 1e-24
    assert 0 < float(attention_loss([x], [noise(4, 3, 5, 6, seed=1)])) <= 2


def test_channels_without_output_have_finite_gradients():
    """A map of zeros is zero, and so is its gradient."""
    x = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention_loss([x], [torch.ones(2, 3, 4, 4)]).backward()

    assert torch.equal(attention_map(torch.zeros(2, 3, 4)), torch.zeros(2, 4))
    assert torch.isfinite(x.grad).all()


def test_the_gradient_flows_to_the_student_only():
    """The teacher's outputs get no gradient."""
    x, y = noise(2, 3, 4, 4).requires_grad_(), noise(2, 3, 4, 4, seed=1).requires_grad_()
    attention_loss([x], [y]).backward()

    assert x.grad.abs().sum() > 0
    assert y.grad is None


def narrow() -> nn.Module:
    """A student of the network of these tests whose first layer has half of the channels."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(48, 10),
        )


def distance(student, teacher, inputs):
    with torch.no_grad():
        return float(attention_loss([student[:3](inputs)], [teacher[:3](inputs)]))


@pytest.mark.parametrize("augment", ["none", "shift"])
def test_a_student_learns_to_look_as_the_teacher(digits, network, augment):
    """A student with fewer channels comes nearer to the teacher's attention than without; the teacher stays as found."""
    teacher = network(1).eval()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    found = {}
    for weight in (0.0, 30.0):
        student = narrow()
        layers = ("2",) if weight else ()
        settings = BASE.but(
            epochs=3, attention_weight=weight, attention_layers=layers, augment=augment, shift=1
        )
        result = fit(student, digits[0], None, settings, teacher=teacher)
        found[weight] = distance(student.eval(), teacher, digits[0].inputs)
        assert not any(module._forward_hooks for net in (student, teacher) for module in net.modules())
        assert result.history[-1].train_loss > 0

    assert found[30.0] < 0.7 * found[0.0]
    assert not teacher.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())


def test_the_loss_of_a_step_has_attention_added(digits, network):
    """With one step an epoch the loss that is told is cross-entropy plus the weighted distance of the attention."""
    train = digits[0]
    student, teacher = network(0), network(1).eval()
    student[5].p = 0.0
    student.train()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(student(train.inputs), train.targets)
        loss = loss + 2.5 * attention_loss([student[:3](train.inputs)], [teacher[:3](train.inputs)])
    settings = BASE.but(batch_size=600, attention_weight=2.5, attention_layers=("2",))

    record = fit(student, train, None, settings, teacher=teacher).history[0]

    assert record.train_loss == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize(
    ("layers", "error", "said"),
    [
        (("nowhere",), SettingsError, "the network has no module of that name"),
        (("5",), ModelError, "name other layers in attention_layers"),
        (("6",), SettingsError, "the network has no module"),
    ],
)
def test_layers_that_cannot_be_compared(digits, network, layers, error, said):
    """Layers must be in both networks, run, and give positions."""
    settings = BASE.but(attention_weight=1.0, attention_layers=layers)
    with pytest.raises(error, match=said):
        fit(narrow(), digits[0], None, settings, teacher=network())


def test_other_positions_are_refused(digits, network):
    """Outputs of another size cannot be compared position by position."""
    teacher = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10))
    with pytest.raises(
        ModelError, match=r"layer '0' has outputs of \(8, 8\) positions, the teacher's of \(6, 6\)"
    ):
        fit(
            network(),
            digits[0],
            None,
            BASE.but(attention_weight=1.0, attention_layers=("0",)),
            teacher=teacher,
        )


def test_weight_and_layers_go_together_and_need_a_teacher(digits, network):
    """Either of them alone is refused, and so is a training without a teacher that runs."""
    for options in ({"attention_weight": 1.0}, {"attention_layers": ("0",)}):
        with pytest.raises(SettingsError, match="go together"):
            TrainSettings(**options)
    with pytest.raises(SettingsError, match="a layer twice"):
        TrainSettings(attention_weight=1.0, attention_layers=("0", "0"))
    settings = BASE.but(attention_weight=1.0, attention_layers=("0",))
    with pytest.raises(SettingsError, match="give a teacher"):
        fit(network(), digits[0], None, settings)
    with pytest.raises(SettingsError, match="give a teacher"):
        fit(network(), digits[0], None, settings, teacher_answers=torch.zeros(600, 10))


def test_settings_without_attention_are_told_as_before():
    """At their defaults the new options are not written, so that keys and stored runs of older versions stay what they were."""
    written = TrainSettings().model_dump(mode="json")

    assert not [name for name in written if "attention" in name]
    assert TrainSettings(
        **TrainSettings(attention_weight=0.5, attention_layers=("a",)).model_dump(mode="json")
    ) == TrainSettings(attention_weight=0.5, attention_layers=("a",))


def test_a_run_goes_on_only_with_its_own_attention(digits, network):
    """A state of a run without attention, also of an older version, goes on without and not with it, and the other way round."""
    states: list[TrainState] = []
    settings = BASE.but(epochs=2)
    attentive = settings.but(attention_weight=1.0, attention_layers=("0",))
    fit(network(), *digits, settings, on_state=states.append)
    fit(network(), *digits, attentive, teacher=network(1), on_state=states.append)

    plain, other = states[0], states[2]
    fit(network(), *digits, settings, state=plain)
    fit(network(), *digits, attentive, teacher=network(1), state=other)
    with pytest.raises(SettingsError, match=r"attention_weight=0\.0"):
        fit(network(), *digits, attentive, teacher=network(1), state=plain)
    with pytest.raises(SettingsError, match=r"attention_weight=1\.0"):
        fit(network(), *digits, settings, state=other)
