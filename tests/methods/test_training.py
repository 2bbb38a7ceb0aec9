"""Training in a run folder: what is kept, and that a stopped training goes on to the bit."""

import pytest
import torch
from torch import nn

from secateur import data, load, networks
from secateur.errors import DataError, RunError
from secateur.methods.training import started_in, train
from secateur.train import TrainSettings

SETTINGS = TrainSettings(epochs=4, lr=0.05, batch_size=64, schedule="cosine", ema=0.9)


class PlugError(Exception):
    """Somebody pulls the plug."""


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=300)


def fresh():
    return networks.build("digits-net", seed=3)


def same(one, two) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums come in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    return train(fresh(), digits, SETTINGS, out=tmp_path_factory.mktemp("runs") / "whole", seed=5)


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("during", ["an epoch", "a step"])
def test_a_stopped_training_ends_like_an_unbroken_one(digits, whole, tmp_path, epoch, during):
    """Stopped after an epoch or inside one, the resumed training ends with the same weights and history."""

    def plug(record) -> None:
        if during == "an epoch" and record.epoch == epoch:
            raise PlugError

    def cut(done: int, total: int) -> None:
        if during == "a step" and done == epoch * total // 4 + 2:
            raise PlugError

    with pytest.raises(PlugError):
        train(fresh(), digits, SETTINGS, out=tmp_path / "run", seed=5, on_epoch=plug, on_batch=cut)
    again = started_in(tmp_path / "run", fresh)
    result = train(again, digits, out=tmp_path / "run", resume=True)

    assert same(result.model, whole.model)
    assert result.history == whole.history
    assert result.file.read_bytes() == whole.file.read_bytes()


def test_a_training_stopped_in_its_first_epoch_goes_on_from_its_own_start(digits, whole, tmp_path):
    """Whatever the weights of the network that is given to go on with."""

    def cut(done: int, total: int) -> None:
        raise PlugError

    with pytest.raises(PlugError):
        train(fresh(), digits, SETTINGS, out=tmp_path / "run", seed=5, on_batch=cut)
    result = train(networks.build("digits-net", seed=9), digits, out=tmp_path / "run", resume=True)

    assert same(result.model, whole.model)
    assert result.history == whole.history


def test_the_file_is_the_trained_network(whole, digits):
    """The saved network is the one that was measured."""
    assert same(load(whole.file), whole.model)
    assert whole.test.count == len(digits.test)
    assert whole.cost.parameters == 40_618


def test_the_start_is_kept(whole, digits):
    """What the training started from can be had again."""
    assert same(started_in(whole.file.parent, lambda: networks.build("digits-net", seed=9)), fresh())


def test_one_state_is_kept(whole):
    """However many epochs, the states take the room of one."""
    assert len(list((whole.file.parent / "states").iterdir())) == 1


def test_other_settings_do_not_resume(digits, whole):
    """A training goes on with its own settings only."""
    with pytest.raises(RunError, match="other settings"):
        train(fresh(), digits, SETTINGS.but(lr=0.1), out=whole.file.parent, resume=True)


def test_a_training_does_not_overwrite(digits, whole):
    """A folder that holds a run is not trained into."""
    with pytest.raises(RunError, match="already holds a run"):
        train(fresh(), digits, SETTINGS, out=whole.file.parent)


def test_what_does_not_fit_leaves_no_folder(digits, tmp_path):
    """Data that the network does not take are refused before a folder is made."""
    with pytest.raises(DataError, match="does not take inputs"):
        train(networks.build("lenet5"), digits, SETTINGS, out=tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_classes_that_do_not_fit_are_told_before_anything_is_trained(digits, tmp_path):
    """A network with more outputs than the data have classes would train, and fail when it is judged at the end."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 12))

    with pytest.raises(DataError, match="tells 12 classes apart"):
        train(network, digits, SETTINGS, out=tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_a_network_in_double_precision_is_trained_in_it(digits, tmp_path):
    """Data are float32; they are turned into the network's own number format."""
    result = train(fresh().double(), digits, SETTINGS.but(epochs=1), out=tmp_path / "run")

    assert {parameter.dtype for parameter in result.model.parameters()} == {torch.float64}
    assert result.cost.parameters == 40_618
