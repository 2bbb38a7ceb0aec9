"""The settings that train well where nothing is said."""

import pytest

from secateur.data import load
from secateur.errors import SettingsError
from secateur.networks import build, names
from secateur.train import fit, make_augmenter
from secateur.train.recipes import RECIPES, recipe_for, recipe_named


@pytest.mark.parametrize("network", names())
@pytest.mark.parametrize("data", ["mnist", "digits", "hapt", "uci-har", "cifar10:10000", "own/folder"])
def test_every_pair_has_a_recipe(network, data):
    """Any network and data have settings, and those decay to a rate of 0 so that the end is settled."""
    assert recipe_for(network, data).schedule == "cosine"


def test_known_pairs_have_their_own():
    """Augmentation fits the data: shifts for digits on a field, noise for signals, mirrors for photographs."""
    assert recipe_for("lenet5", "mnist").augment == "shift"
    assert recipe_for("uci-custom", "hapt").augment == "signal"
    assert recipe_for("resnet20", "cifar10:10000").augment == "flip-shift"
    assert recipe_for("digits-net", "digits").augment == "none"


def test_an_unknown_pair_is_not_augmented():
    """What is not known is trained on the examples as they are: they need not be images."""
    assert recipe_for("mine:net", "mine:splits").augment == "none"
    assert recipe_for("lenet5", "digits") == recipe_for("mine:net", "mine:splits")


@pytest.mark.parametrize(("optimizer", "lr"), [("adam", 1e-3), ("rmsprop", 1e-3), ("sgd", 0.05)])
def test_another_optimiser_brings_its_own_rate(optimizer, lr):
    """A rate of SGD does not suit Adam: the optimiser decides."""
    settings = recipe_for("lenet5" if optimizer != "sgd" else "mine:net", "mnist", optimizer=optimizer)

    assert (settings.optimizer, settings.lr) == (optimizer, lr)


def test_an_unknown_optimiser_is_refused():
    """An optimiser that there is not is named in the error."""
    with pytest.raises(SettingsError, match="sdg"):
        recipe_for("lenet5", "mnist", optimizer="sdg")


@pytest.mark.parametrize("name", RECIPES)
def test_named_recipes_fit_photographs(name):
    """A recipe by name is the same whatever it trains, ends at a rate of 0, and another optimiser brings its own rate."""
    recipe = recipe_named(name)

    assert recipe.schedule in ("linear", "cosine")
    assert recipe_named(name, optimizer=recipe.optimizer) == recipe
    assert recipe_named(name, optimizer="adam").lr == 1e-3


def test_the_mobile_recipe_is_the_printed_one():
    """RMSprop with momentum 0.9, batches of 64, from 1e-3 linearly to 0 over 150 epochs, stopped after 50 without a better one."""
    found = recipe_named("mobile").model_dump()

    assert {key: found[key] for key in ("optimizer", "momentum", "batch_size", "lr", "schedule")} == {
        "optimizer": "rmsprop", "momentum": 0.9, "batch_size": 64, "lr": 1e-3, "schedule": "linear",
    }  # fmt: skip
    assert (found["epochs"], found["early_stopping"]) == (150, 50)


def test_the_digits_recipe_trains_well():
    """A few epochs of the recipe, its schedule shortened, reach 97 % on validation."""
    digits = load("digits")
    model = build("digits-net", seed=0)

    result = fit(model, digits.train, digits.validation, recipe_for("digits-net", "digits").but(epochs=6))

    assert max(record.validation_accuracy for record in result.history) >= 97


def test_augmentation_fits_the_inputs():
    """The recipe of a pair can change the pair's examples."""
    digits = load("digits")

    assert make_augmenter(recipe_for("lenet5", "mnist"), digits.train.inputs) is not None
