"""Settings of a training run."""

import pytest
from pydantic import BaseModel, ValidationError

from secateur.errors import SettingsError
from secateur.train import TrainSettings


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimiser": "sgd"}, ["'optimiser'", "did you mean 'optimizer'"]),
        ({"zzz": 1}, ["'zzz'", "they are", "batch_size"]),
        ({"epochs": 0}, ["'epochs'", "greater than or equal to 1"]),
        ({"lr": -0.1}, ["'lr'", "greater than 0"]),
        ({"lr": float("nan")}, ["'lr'"]),
        ({"optimizer": "sgdd"}, ["'optimizer'", "'sgdd'", "'sgd', 'adam'"]),
        ({"nesterov": True, "optimizer": "adam"}, ["nesterov needs optimizer='sgd'"]),
        ({"warmup_epochs": 5, "epochs": 2}, ["warmup_epochs (5)", "epochs (2)"]),
        ({"ema": 1.0}, ["'ema'", "less than 1"]),
    ],
)
def test_bad_option_is_named_in_one_sentence(options, words):
    """An option that is unknown, out of range or contradictory is refused with its name on one line."""
    with pytest.raises(SettingsError) as caught:
        TrainSettings(**options)

    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_settings_are_frozen():
    """A setting cannot be changed after it was checked."""
    with pytest.raises(ValidationError):
        TrainSettings().lr = 3.0


def test_but_checks_again():
    """Changed settings pass the same checks, and the old ones stay as they are."""
    old = TrainSettings()

    assert old.but(lr=0.5).lr == 0.5
    assert old.lr == 0.01
    with pytest.raises(SettingsError, match="'batch_size'"):
        old.but(batch_size=0)


def test_settings_survive_json():
    """Settings written as JSON and read again are equal."""
    settings = TrainSettings(ema=0.99, schedule="cosine", clip=1.0)

    assert TrainSettings.model_validate_json(settings.model_dump_json()) == settings


def test_nested_settings_name_the_option():
    """Inside another model's settings the sentence still names the training option."""

    class Outer(BaseModel):
        train: TrainSettings

    with pytest.raises((SettingsError, ValidationError), match="'epochs'"):
        Outer.model_validate({"train": {"epochs": 0}})
