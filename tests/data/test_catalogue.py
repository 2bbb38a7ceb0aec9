"""Any data set loads by name, and a wrong name gets a helpful answer."""

import subprocess
import sys

import pytest

from secateur.data import load, names
from secateur.errors import DataError, SettingsError


def test_names():
    """The registered data sets are these."""
    assert names() == ("cifar10", "digits", "hapt", "mnist", "uci-har")


def test_an_unknown_name_lists_the_nearest():
    """A misspelt name is answered with the name that is like it."""
    with pytest.raises(DataError, match="no data set is named 'minst'; the nearest are: mnist"):
        load("minst")


def test_a_name_like_no_other_lists_all():
    """A name that is like no other is answered with all names."""
    with pytest.raises(
        DataError, match="no data set is named '????'; known are: cifar10, digits, hapt".replace("?", r"\?")
    ):
        load("????")


def test_a_count_after_the_name_is_a_limit():
    """digits:500 keeps 500 training images."""
    limited = load("digits:500")

    assert len(limited.train) == 500
    assert limited.train.targets.bincount().tolist() == [50] * 10


def test_two_limits_contradict():
    """A limit in the name and one beside it contradict each other."""
    with pytest.raises(SettingsError, match="both limit the training examples"):
        load("digits:500", limit=400)


@pytest.mark.parametrize("count", ["", "many", "-5", "1.5"])
def test_a_count_is_a_number(count):
    """What follows the colon must be a number."""
    with pytest.raises(SettingsError, match=f"'digits:{count}' does not end in a number"):
        load(f"digits:{count}")


@pytest.mark.parametrize("limit", [0, -1, 1078])
def test_a_limit_within_the_training_images(limit):
    """A limit that cannot be met is refused with what there is."""
    with pytest.raises(SettingsError, match=f"{limit} examples cannot be taken from 1077"):
        load("digits", limit=limit)


def test_importing_data_is_light():
    """Importing the data part does not import scikit-learn."""
    code = "import sys, secateur.data; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
