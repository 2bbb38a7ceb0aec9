"""The main job as a user calls it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur
from secateur import data, networks
from secateur.data import Splits
from secateur.errors import DataError, ModelError, NothingToCutError, RunError, SettingsError
from secateur.methods import ReduceSettings, unreduced_in
from secateur.store import read_description
from secateur.train import TrainSettings, fit

QUICK = TrainSettings(epochs=1, lr=0.02, batch_size=64, ema=0.9, keep="last", clip=1.0)
SETTINGS = ReduceSettings(max_drop=10.0, retrain=QUICK, max_iterations=4, rounds=1, score_examples=200)


def tensors(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def test_a_search_that_its_limit_stopped_says_so(net, digits):
    """One that came to its own end does not."""
    said = {
        limit: " ".join(secateur.reduce(net, digits, settings=SETTINGS.but(**options)).notes)
        for limit, options in (
            (1, {"max_iterations": 1}),
            (30, {"max_iterations": 30, "layers": ("dense1",), "first_share": 0.64, "last_share": 0.64}),
        )
    }
    assert "stopped after 1 candidate, as many as max_iterations allows" in said[1]
    assert "max_iterations" not in said[30]


def test_it_gives_a_smaller_network_of_the_same_class_and_leaves_the_given_one(
    digits: Splits, net: nn.Module
) -> None:
    """The result is smaller and of the same class; the given network, its mode and its weights are as they were."""
    net.train()
    before = tensors(net)

    result = secateur.reduce(net, digits, settings=SETTINGS)

    assert type(result.model) is type(net)
    assert result.cost_after.parameters < result.cost_before.parameters == 40_618
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(net), strict=True))
    assert net.training
    assert sum(layer.width_after for layer in result.layers) < sum(
        layer.width_before for layer in result.layers
    )
    assert [note for note in result.notes if "max_iterations" not in note] == []


def test_what_layers_account_for_ends_in_the_network(digits: Splits, net: nn.Module) -> None:
    """Width, parameters and MACs of each layer after the reduction are those of the reduced network's own analysis."""
    from secateur.channels import watch
    from secateur.cost import CostModel

    result = secateur.reduce(net, digits, settings=SETTINGS)

    channels = watch(result.model, digits.train.inputs[:1])
    each = {group.name: group for group in channels.groups}
    model = CostModel(channels)
    for layer in result.layers:
        group = each[layer.name]
        alive = model.alive({})
        start = channels.starts()[group.name]
        alive[start : start + group.width] = False
        assert layer.width_after == group.width
        assert layer.parameters_after == model.total().parameters - model.of(alive).parameters


def test_a_run_folder_resumes_to_the_same_result(digits: Splits, net: nn.Module, tmp_path: Path) -> None:
    """A run stopped after two candidates and resumed ends as one that went through."""
    whole = secateur.reduce(net, digits, settings=SETTINGS, out=tmp_path / "whole")

    class Stop(Exception):  # noqa: N818
        pass

    class Stopper(secateur.methods.Silent):
        def candidate(self, iteration: int, group: str, before: int, after: int, epochs: int) -> None:
            if iteration == 3:
                raise Stop

    with pytest.raises(Stop):
        secateur.reduce(net, digits, settings=SETTINGS, out=tmp_path / "part", listener=Stopper())
    resumed = secateur.reduce(net, digits, out=tmp_path / "part", resume=True)

    assert resumed.history == whole.history
    assert all(torch.equal(a, b) for a, b in zip(tensors(whole.model), tensors(resumed.model), strict=True))
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "part")]
    assert files[0] == files[1]


def test_a_network_of_low_rank_is_reduced_with_its_attention(
    digits: Splits, net: nn.Module, tmp_path: Path
) -> None:
    """Factored layers are cut as others, candidates learn where its layers look, and a run folder holds and resumes it all."""
    example = digits.train.inputs[:1]
    small = secateur.factor(net, secateur.plan_factors(net, example, rank={"conv3": (24, 32)})).eval()
    retrain = QUICK.but(attention_weight=5.0, attention_layers=("act2", "conv3"))
    settings = SETTINGS.but(retrain=retrain.model_dump(), max_iterations=2)

    result = secateur.reduce(small, digits, settings=settings, out=tmp_path / "run")

    assert "conv3.core" in [layer.name for layer in result.layers]
    assert result.removed
    again = secateur.load(tmp_path / "run" / "model.safetensors")
    assert torch.equal(again(example), result.model(example))
    resumed = secateur.reduce(small, digits, out=tmp_path / "run", resume=True)
    assert resumed.history == result.history
    assert resumed.settings.retrain == retrain


def test_the_file_says_how_the_network_came_about(digits: Splits, net: nn.Module, tmp_path: Path) -> None:
    """The saved network has its figures, what came before, the options and each accepted step, and no times."""
    earlier = [{"event": "train", "settings": {"batch_size": 50}}]

    result = secateur.reduce(net, digits, settings=SETTINGS, out=tmp_path / "run", history=earlier)
    file = tmp_path / "run" / "model.safetensors"
    found, bytes_before = read_description(file), file.read_bytes()
    secateur.reduce(net, digits, out=tmp_path / "run", resume=True)

    before, event = found.history
    assert before == earlier[0]
    assert event["options"] == SETTINGS.model_dump(mode="json")
    assert event["candidates"] == len(result.history)
    accepted = [step for step in result.history if step.accepted]
    assert accepted
    assert [
        (one["iteration"], one["group"], one["before"], one["after"], one["accuracy"], one["parameters"])
        for one in event["steps"]
    ] == [
        (step.iteration, step.group, step.width_before, step.width_after, step.accuracy, step.parameters)
        for step in accepted
    ]
    assert found.evaluation["input_shape"] == [1, 8, 8]
    assert found.evaluation["test_accuracy"] == result.test_after.accuracy
    assert found.evaluation["test_examples"] == len(digits.test)
    assert "seconds" not in str(found.history)
    assert file.read_bytes() == bytes_before


def test_the_unreduced_network_is_in_the_folder(digits: Splits, net: nn.Module, tmp_path: Path) -> None:
    """A resumed run needs no other file: the network it started from is its first snapshot."""
    secateur.reduce(net, digits, settings=SETTINGS.but(max_iterations=1), out=tmp_path / "run")

    again = unreduced_in(tmp_path / "run", lambda: networks.build("digits-net"))

    assert all(torch.equal(a, b) for a, b in zip(tensors(net), tensors(again), strict=True))


def test_a_result_can_be_saved_loaded_and_reduced_further(
    digits: Splits, net: nn.Module, tmp_path: Path
) -> None:
    """A reduced network is a network: save, load, reduce again."""
    first = secateur.reduce(net, digits, settings=SETTINGS)
    secateur.save(first.model, tmp_path / "small.safetensors")

    again = secateur.load(tmp_path / "small.safetensors")
    second = secateur.reduce(again, digits, settings=SETTINGS)

    assert second.cost_before == first.cost_after
    assert second.cost_after.parameters <= first.cost_after.parameters


def test_pixels_can_go(digits: Splits) -> None:
    """With inputs=True the features of a flattened input are removed, twice in a row, and full images still go in."""
    flat = nn.Sequential(nn.Flatten(1), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    fit(flat, digits.train, None, TrainSettings(epochs=6, lr=0.1, batch_size=32), seed=0)
    settings = SETTINGS.but(inputs=True, layers=("input",), max_drop=30.0, max_iterations=2, first_share=0.25)

    result = secateur.reduce(flat, digits, settings=settings)

    accepted = [step for step in result.history if step.accepted]
    assert len(accepted) == 2
    assert result.model[1].in_features == accepted[-1].width_after < accepted[0].width_after < 64
    assert result.model(digits.test.inputs[:3]).shape == (3, 10)
    widths = {layer.name: (layer.width_before, layer.width_after) for layer in result.layers}
    assert widths["input"] == (64, accepted[-1].width_after)
    assert [note for note in result.notes if "max_iterations" not in note] == []


def test_nothing_removed_is_said(digits: Splits, net: nn.Module) -> None:
    """A bound that nothing meets gives the network back, with a note that says so."""
    settings = SETTINGS.but(max_drop=0.0, criterion="random", max_iterations=1, compensate="none")

    result = secateur.reduce(net, digits, settings=settings)

    assert result.cost_after == result.cost_before
    step = result.history[0]
    assert not result.removed
    narrow, why, stopped = result.notes
    assert "max_iterations" in stopped
    assert "The bound of 0 points is narrower than the sampling error of 360 validation examples" in narrow
    assert "Nothing was removed: none of 1 candidates" in why
    assert f"nearest: {step.group} {step.width_before} to {step.width_after}, {step.reason}" in why
    assert all(note in str(result) for note in result.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": -0.5}, "max_drop"),
        ({}, "max_drop is missing"),
        ({"max_drop": 1.0, "criterion": "taylr"}, "taylor"),
        ({"max_drop": 1.0, "critrion": "l1"}, "did you mean 'criterion'"),
        ({"max_drop": 1.0, "resume": True}, "needs out="),
        ({"max_drop": 1.0, "last_share": 0.9}, "above first_share"),
        (
            {
                "max_drop": 1.0,
                "distil": False,
                "retrain": TrainSettings(attention_weight=1.0, attention_layers=("act1",)),
            },
            "needs distil=True",
        ),
    ],
)
def test_wrong_options_are_refused(digits: Splits, net: nn.Module, options: dict, message: str) -> None:
    """Each wrong option is one sentence that names it."""
    with pytest.raises(SettingsError, match=message):
        secateur.reduce(net, digits, **options)


def test_a_network_with_nan_is_refused(digits: Splits) -> None:
    """NaN in the weights is named before anything runs."""
    sick = networks.build("digits-net", seed=0)
    with torch.no_grad():
        sick.conv2.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"conv2\.weight"):
        secateur.reduce(sick, digits, max_drop=1.0)


def test_a_frozen_network_is_refused(digits: Splits, tmp_path: Path) -> None:
    """Nothing to train is said before a folder is made."""
    frozen = networks.build("digits-net", seed=0).requires_grad_(False)
    with pytest.raises(ModelError, match="no parameter of the network can be trained"):
        secateur.reduce(frozen, digits, max_drop=1.0, out=tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_a_merge_is_not_undone_by_compensation(digits: Splits, net: nn.Module) -> None:
    """A criterion that says into what a unit folds is its own compensation."""
    from secateur.methods import Search

    search = Search(net, digits, SETTINGS.but(criterion="similarity"))
    made = search._looked_at(search.channels.group("dense1")).plan

    assert list(made.changes[0].mixes) == ["*"]


def test_a_network_of_other_classes_is_refused(digits: Splits) -> None:
    """Outputs that do not fit the classes are refused."""
    with pytest.raises(DataError, match="12 classes apart, digits has 10"):
        secateur.reduce(networks.build("digits-net", seed=0, classes=12), digits, max_drop=1.0)


def test_data_of_another_shape_are_refused(net: nn.Module, digits: Splits) -> None:
    """Inputs that the network does not take are refused with both shapes."""
    wide = replace(
        digits,
        train=digits.train.map(lambda x: x.repeat(1, 3, 1, 1)),
        validation=digits.validation.map(lambda x: x.repeat(1, 3, 1, 1)),
        test=digits.test.map(lambda x: x.repeat(1, 3, 1, 1)),
    )
    with pytest.raises(DataError, match="does not take inputs of shape"):
        secateur.reduce(net, wide, max_drop=1.0)


def test_a_network_with_nothing_to_cut_is_refused(digits: Splits) -> None:
    """A single layer from input to output has no channel of its own."""
    with pytest.raises(NothingToCutError, match="reaches the network's output"):
        secateur.reduce(nn.Sequential(nn.Flatten(1), nn.Linear(64, 10)), digits, max_drop=1.0)


def test_a_folder_is_not_overwritten_and_other_settings_do_not_resume(
    digits: Splits, net: nn.Module, tmp_path: Path
) -> None:
    """An existing run is refused without resume, and resumed only with its own settings."""
    secateur.reduce(net, digits, settings=SETTINGS.but(max_iterations=1), out=tmp_path / "run")

    with pytest.raises(RunError):
        secateur.reduce(net, digits, settings=SETTINGS, out=tmp_path / "run")
    with pytest.raises(SettingsError, match="other settings"):
        secateur.reduce(net, digits, settings=SETTINGS, out=tmp_path / "run", resume=True)
    with pytest.raises(RunError):
        secateur.reduce(net, digits, out=tmp_path / "nowhere", resume=True)


def test_a_run_does_not_go_on_with_another_network(digits: Splits, net: nn.Module, tmp_path: Path) -> None:
    """Its weights would silently become what the drop is counted from."""
    secateur.reduce(net, digits, settings=SETTINGS.but(max_iterations=1), out=tmp_path / "run")

    for other in (networks.build("digits-net", seed=9), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))):
        with pytest.raises(RunError, match="started from another network"):
            secateur.reduce(other, digits, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_of_another_number_format_is_reduced_in_it(
    digits: Splits, net: nn.Module, dtype: torch.dtype
) -> None:
    """Data are float32; a network in double or half precision is trained and reduced as it is."""
    settings = SETTINGS.but(max_iterations=2, max_drop=90.0)

    result = secateur.reduce(copy.deepcopy(net).to(dtype), digits, settings=settings)

    assert result.cost_after.parameters < result.cost_before.parameters
    assert {parameter.dtype for parameter in result.model.parameters()} == {dtype}


def test_a_run_does_not_go_on_with_other_data(digits: Splits, net: nn.Module, tmp_path: Path) -> None:
    """Decisions would be made on examples that the network was trained on."""
    secateur.reduce(net, digits, settings=SETTINGS.but(max_iterations=1), out=tmp_path / "run")

    for other in (
        data.load("digits", limit=400, seed=1),
        data.load("digits", limit=300),
        replace(digits, test=digits.test.map(lambda x: x + 1)),
    ):
        with pytest.raises(RunError, match="started on other data"):
            secateur.reduce(net, other, out=tmp_path / "run", resume=True)


class Recurrent(nn.Module):
    """A convolution that an LSTM reads, beside a dense layer that another one reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv2d(1, 8, 2, 2), nn.LSTM(8, 10, batch_first=True)
        self.first, self.second = nn.Linear(64, 12), nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = self.conv(x).flatten(2).transpose(1, 2)
        return self.lstm(steps)[0][:, -1] + self.second(self.first(x.flatten(1)).relu())


def test_what_a_criterion_cannot_see_is_left_alone_and_said_so(digits: Splits, tmp_path: Path) -> None:
    """A group whose reader cannot be watched reading stops neither the search nor the others; alone it is refused."""
    settings = SETTINGS.but(max_drop=99.0, max_iterations=30)

    result = secateur.reduce(Recurrent(), digits, settings=settings)

    assert {step.group for step in result.history} == {"first"}
    assert {layer.name: layer.width_after for layer in result.layers}["conv"] == 8
    assert any("'conv' was left alone" in note and "LSTM" in note for note in result.notes)
    with pytest.raises(NothingToCutError, match="nothing can be cut by this criterion"):
        secateur.reduce(Recurrent(), digits, settings=settings.but(layers=("conv",)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    by_weights = secateur.reduce(Recurrent(), digits, settings=settings.but(criterion="l1"))
    assert {step.group for step in by_weights.history} == {"conv", "first"}
