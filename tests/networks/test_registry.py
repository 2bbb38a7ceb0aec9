"""Any network can be built by name, and a wrong name gets a helpful answer."""

import importlib
import sys

import pytest
import torch
from torch import nn

from secateur.errors import ModelError, UnknownNetworkError
from secateur.networks import build, input_shape_of, names, origin_of

USER_CODE = """
import torch
from torch import nn
from secateur.errors import DataError

def net(*, width=3):
    return nn.Linear(2, width)

def not_a_net():
    return "a string"

def broken():
    raise RuntimeError("no weights today")

def ours():
    raise DataError("kept as it is")

answer = 42
"""


@pytest.fixture
def user_code(tmp_path, monkeypatch):
    (tmp_path / "user_networks_for_test.py").write_text(USER_CODE, encoding="utf-8")
    (tmp_path / "user_networks_broken.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "user_networks_for_test"
    sys.modules.pop("user_networks_for_test", None)


@pytest.fixture
def vision():
    """The optional library, where it is installed and fits the installed torch."""
    try:
        return importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}")


@pytest.fixture
def timm(vision):
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        pytest.skip(f"timm cannot be imported: {error}")


@pytest.mark.parametrize("name", names())
def test_a_seed_fixes_the_weights(name):
    """The same seed gives the same weights, whatever was drawn before; another seed gives others."""
    first = build(name, seed=7)
    torch.rand(5)
    second = build(name, seed=7)
    other = build(name, seed=8)

    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_a_seed_leaves_the_random_state(user_code):
    """Building with a seed draws nothing from the global generator, also when it fails."""
    before = torch.get_rng_state()

    build("lenet5", seed=0)
    with pytest.raises(ModelError):
        build(f"{user_code}:broken", seed=0)

    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_name_lists_the_nearest():
    """A misspelt name is answered with the names that are like it."""
    with pytest.raises(
        UnknownNetworkError, match=r"no network is named 'lenet-5'; the nearest are: .*lenet5"
    ):
        build("lenet-5")


def test_a_name_like_no_other_lists_all():
    """A name that is like no other is answered with all names."""
    with pytest.raises(UnknownNetworkError, match="known are: alexnet, digits-net, lenet-caffe"):
        input_shape_of("????")


def test_an_unknown_argument_lists_the_known():
    """A misspelt argument is answered with the arguments that the network takes."""
    with pytest.raises(
        ModelError, match="lenet5 takes no argument 'clases'; it takes channels, classes, size"
    ):
        build("lenet5", clases=3)


def test_user_factory(user_code):
    """package.module:factory builds the user's own network with the given arguments."""
    model = build(f"{user_code}:net", width=5)

    assert isinstance(model, nn.Linear)
    assert model.out_features == 5
    assert origin_of(model).spec == f"{user_code}:net"
    assert input_shape_of(f"{user_code}:net") is None


@pytest.mark.parametrize(
    ("factory", "error", "message"),
    [
        ("nothing", UnknownNetworkError, "cannot be imported .* has no attribute 'nothing'"),
        ("answer", ModelError, "is a int, not something that can be called"),
        ("not_a_net", ModelError, "returned a str; a torch.nn.Module is wanted"),
        ("broken", ModelError, "failed with RuntimeError: no weights today"),
    ],
)
def test_user_factory_errors(user_code, factory, error, message):
    """A factory that cannot give a network is refused with what it did instead."""
    with pytest.raises(error, match=message):
        build(f"{user_code}:{factory}")


def test_user_factory_with_a_wrong_argument(user_code):
    """An argument that the user's factory does not take is named."""
    with pytest.raises(ModelError, match=r"failed with TypeError: .*'depth'"):
        build(f"{user_code}:net", depth=3)


def test_user_factory_raising_our_error(user_code):
    """Errors of this library pass through a factory unchanged."""
    with pytest.raises(ValueError, match=r"^kept as it is$"):
        build(f"{user_code}:ours")


def test_user_module_that_fails(user_code):
    """A module that cannot be executed is named with its own error."""
    with pytest.raises(ModelError, match=r"user_networks_broken:net' failed with ZeroDivisionError"):
        build("user_networks_broken:net")


def test_user_module_that_is_not_there():
    """A module that cannot be found says how to make it importable."""
    with pytest.raises(UnknownNetworkError, match=r"No module named 'nowhere_at_all'.*PYTHONPATH"):
        build("nowhere_at_all:net")


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_missing_library_names_the_extra(library, monkeypatch):
    """Without the optional library the error says what to install."""
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"{library}.models", raising=False)

    with pytest.raises(ModelError, match=r"pip install 'secateur\[vision\]'"):
        build(f"{library}:resnet18")


def test_torchvision(vision):
    """torchvision:NAME builds that network without weights to download."""
    model = build("torchvision:resnet18", num_classes=10, seed=0)

    assert model.fc.out_features == 10
    assert sum(p.numel() for p in model.parameters()) == 11_181_642
    assert input_shape_of("torchvision:resnet18") == (3, 224, 224)


def test_torchvision_without_downloads_or_warnings(vision, monkeypatch):
    """Networks whose defaults would download a backbone, or warn, are built quietly."""
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: pytest.fail("a download"))

    segmenter = build("torchvision:lraspp_mobilenet_v3_large")
    googlenet = build("torchvision:googlenet", aux_logits=False)

    assert isinstance(segmenter, nn.Module)
    assert not googlenet.aux_logits
    assert input_shape_of("torchvision:r3d_18") is None


def test_torchvision_unknown(vision):
    """A misspelt torchvision name is answered with the nearest."""
    with pytest.raises(
        UnknownNetworkError, match=r"torchvision has no network 'resnet19'; the nearest are: .*resnet18"
    ):
        build("torchvision:resnet19")


def test_timm(timm):
    """timm:NAME builds that network without weights to download."""
    model = build("timm:resnet10t", num_classes=3)

    assert model.num_classes == 3
    assert input_shape_of("timm:resnet10t") == (3, 176, 176)
    with pytest.raises(UnknownNetworkError, match="timm has no network 'resnet10z'; the nearest are: "):
        build("timm:resnet10z")


def test_importing_networks_is_light():
    """Importing the networks imports neither torchvision nor timm."""
    import subprocess

    code = "import sys, secateur.networks; print([m for m in ('torchvision', 'timm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
