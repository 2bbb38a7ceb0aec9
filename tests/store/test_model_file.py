"""A network in one file: save and load."""

import copy
import hashlib
import json
import re
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.channels.inputs import keep_inputs
from secateur.errors import FileFormatError, ModelError, SettingsError, StoreError
from secateur.networks import build, origin_of
from secateur.store import (
    FactoryNeededWarning,
    load,
    model_snapshot,
    read_description,
    restore_model,
    save,
)

pytestmark = pytest.mark.filterwarnings("ignore::secateur.store.FactoryNeededWarning")


def small():
    """A dense layer with known values."""
    model = nn.Linear(2, 1).eval()
    model.weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    model.bias = nn.Parameter(torch.tensor([0.5]), requires_grad=False)
    return model


def test_file_is_byte_for_byte_what_the_format_says(tmp_path):
    """The file of a known network is header length, canonical header and tensors, byte for byte."""
    path = tmp_path / "small.safetensors"
    save(small(), path, factory="mypackage.nets:small", arguments={"n": 2}, evaluation={"accuracy": 99.5})
    bare = (
        '{"evaluation":{"accuracy":99.5},"format":1,"history":null,"network":{"aliases":{},"buffers":[],"changes":[],'
        '"dtypes":{"bias":"F32","weight":"F32"},"frozen":["bias"],"inputs":null,"memory_formats":{},'
        '"origin":{"arguments":{"n":2},"spec":"mypackage.nets:small"},"other_mode":[],"training":false}}'
    )

    def print_of(head, data):
        chunk = hashlib.blake2b(data, digest_size=32).digest()
        return hashlib.blake2b(head + chunk, digest_size=20).hexdigest()

    bias, weight = struct.pack("<f", 0.5), struct.pack("<2f", 1.0, -2.0)
    prints = {"bias": print_of(b"F32 [1] ", bias), "weight": print_of(b"F32 [1, 2] ", weight)}
    content = json.dumps(prints, separators=(",", ":"))
    digest = hashlib.blake2b(f"{bare}\n{content}".encode(), digest_size=20).hexdigest()
    header = json.dumps(
        {
            "__metadata__": {"secateur": f'{{"digest":"{digest}",{bare[1:]}'},
            "bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "weight": {"dtype": "F32", "shape": [1, 2], "data_offsets": [4, 12]},
        },
        separators=(",", ":"),
    ).encode()
    header += b" " * (-len(header) % 8)

    assert path.read_bytes() == struct.pack("<Q", len(header)) + header + bias + weight


def test_golden_bytes(tmp_path):
    """Files written today have the bytes that were written when the format was fixed."""
    golden = Path(__file__).parent / "golden" / "lenet300-100.blake2b"
    model = build("lenet300-100").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((torch.arange(parameter.numel()) % 129 / 64 - 1).reshape(parameter.shape))

    save(model, tmp_path / "a.safetensors", evaluation={"accuracy": 98.25})
    written = (tmp_path / "a.safetensors").read_bytes()

    assert hashlib.blake2b(written, digest_size=20).hexdigest() == golden.read_text().strip()


def test_golden_file_is_read(odd, image):
    """A file written when the format was fixed is still read, and computes what it computed then."""
    path = Path(__file__).parent / "golden" / "odd.safetensors"

    model = load(path, factory=odd)

    torch.testing.assert_close(
        model(image)[0].detach(), torch.tensor(json.loads(path.with_suffix(".json").read_text()))
    )


@pytest.mark.parametrize(
    "case", [(False, False), (False, True), (True, False)], ids=["meta", "training", "normal"]
)
def test_save_load_save_gives_the_same_bytes(tmp_path, odd, halved, image, case):
    """A cut network comes back with equal outputs, and saving it again gives the same bytes."""
    normal, training = case
    model = halved(odd(6, normal=normal)).train(training)
    model.norm.eval()
    model._secateur_changes = [{"group": "first", "width": 6, "kept": [0, 2, 4]}]
    if normal:
        model.offset = model.offset[:3]
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"

    def factory():
        made = odd(6, normal=normal)
        if normal:
            made.offset = made.offset[:3]
        return made

    save(model, first, evaluation={"accuracy": 1.5})
    again = load(first, factory=factory)
    save(again, second, evaluation=read_description(first).evaluation)

    assert first.read_bytes() == second.read_bytes()
    torch.testing.assert_close(again(image), model(image), rtol=0, atol=0)
    assert (again.training, again.norm.training) == (training, False)
    assert again.tied.weight is again.head.weight
    assert again._secateur_changes == model._secateur_changes
    assert (again.first.out_channels, again.head.in_features, again.norm.num_features) == (3, 3, 3)


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [("lenet5", {"classes": 26}), ("resnet20", {}), ("uci-custom", {})],
)
def test_networks_by_name_need_nothing_else(tmp_path, spec, arguments):
    """A network that was built by name is loaded without a word about how, and knows its origin."""
    model = build(spec, seed=3, **arguments).eval()
    save(model, tmp_path / "a.safetensors")

    again = load(tmp_path / "a.safetensors")

    assert origin_of(again) == origin_of(model)
    for (name, value), (other, found) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(value, found)


def test_zoo_weights_are_not_fetched_again(tmp_path):
    """A network built with fetched weights is saved without that wish, and what the weights implied is kept."""
    pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    model = build("torchvision:googlenet", aux_logits=False).eval()
    model.transform_input = True
    path = tmp_path / "a.safetensors"
    save(model, path, factory="torchvision:googlenet", arguments={"weights": "DEFAULT", "aux_logits": False})
    x = torch.ones(1, 3, 64, 64)

    again = load(path)

    assert origin_of(again).arguments == {"aux_logits": False, "transform_input": True}
    assert torch.equal(again(x), model(x))


def test_random_state_is_left_alone(tmp_path, odd):
    """Loading does not touch the global random state, whichever way the network is built."""
    for normal in (False, True):
        save(odd(normal=normal), tmp_path / "a.safetensors")
        before = torch.get_rng_state()

        load(tmp_path / "a.safetensors", factory=lambda normal=normal: odd(normal=normal))

        assert torch.equal(torch.get_rng_state(), before)


@settings(deadline=None, max_examples=30)
@given(
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64]),
    shape=st.lists(st.integers(0, 3), max_size=5),
    data=st.data(),
)
def test_tensors_of_any_layout_come_back(tmp_path_factory, dtype, shape, data):
    """Values, dtypes and shapes survive for permuted, expanded and sliced tensors, empty ones and single numbers."""
    path = tmp_path_factory.mktemp("file") / "a.safetensors"
    base = torch.randn([2 * size for size in shape], generator=torch.Generator().manual_seed(1)).to(dtype)
    order = data.draw(st.permutations(range(len(shape))))
    value = base[tuple(slice(None, None, 2) for _ in shape)].permute(order)
    model = holder(value)

    save(model, path)
    again = load(path, factory=lambda: holder(torch.zeros([1] * len(shape))))

    assert again.value.dtype == dtype
    assert torch.equal(again.value, value)
    save(again, path.with_name("b.safetensors"))
    assert path.read_bytes() == path.with_name("b.safetensors").read_bytes()


def holder(value):
    """A module with one buffer."""
    module = nn.Module()
    module.register_buffer("value", value)
    return module


@pytest.mark.parametrize(
    ("shape", "name"), [((8, 4, 3, 3), "channels_last"), ((8, 4, 1, 1), "channels_last")]
)
def test_channels_last_survives(tmp_path, shape, name):
    """A network in channels-last order comes back in it, strides and all, also where one order looks like the other."""
    value = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    value = torch.empty_strided(shape, torch.empty(shape, memory_format=torch.channels_last).stride()).copy_(
        value
    )
    save(holder(value), tmp_path / "a.safetensors")

    again = load(tmp_path / "a.safetensors", factory=lambda: holder(torch.zeros(1, 1, 1, 1)))

    assert again.value.stride() == value.stride()
    assert torch.equal(again.value, value)


def test_tied_tensors_are_stored_once(tmp_path, odd):
    """Two names of one tensor cost the bytes of one."""
    save(odd(), tmp_path / "a.safetensors")

    shapes = read_description(tmp_path / "a.safetensors").shapes

    assert "head.weight" in shapes
    assert "tied.weight" not in shapes


def test_kept_inputs_survive(tmp_path):
    """A network that reads only some features of its input is loaded with that choice, and still takes the full input."""
    model = nn.Linear(5, 2)
    keep_inputs(model, [1, 4], axis=1, size=5)
    model.weight = nn.Parameter(model.weight[:, [1, 4]].detach())
    x = torch.randn(3, 5)
    save(model, tmp_path / "a.safetensors")

    again = load(tmp_path / "a.safetensors", factory=lambda: nn.Linear(5, 2))
    save(again, tmp_path / "b.safetensors")

    assert torch.equal(again(x), model(x))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_bias_that_compensation_added_is_kept(tmp_path):
    """A bias that the unreduced network lacks, but has a place for, is taken from the file."""
    model = nn.Linear(2, 2, bias=False)
    model.bias = nn.Parameter(torch.ones(2))
    save(model, tmp_path / "a.safetensors")

    again = load(tmp_path / "a.safetensors", factory=lambda: nn.Linear(2, 2, bias=False))

    assert again.bias.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: nn.Linear(2, 1, bias=False), None),
        (lambda: nn.Bilinear(2, 2, 1), "has 'weight' with 2 axes, the network's has 3"),
        (
            lambda: nn.Sequential(nn.Linear(2, 1)),
            r"has no tensor '0.bias', which the network needs \(nor 1 more\)",
        ),
        (lambda: nn.BatchNorm1d(2, affine=False), "has no tensor 'num_batches_tracked'"),
        (nn.ReLU, r"has a tensor 'bias', which the network does not have \(nor 1 more\)"),
    ],
)
def test_other_network_is_refused_by_name(tmp_path, factory, message):
    """A missing or additional tensor, or one of another rank, is an error that names it."""
    path = tmp_path / "a.safetensors"
    save(small(), path)

    if message is None:
        assert load(path, factory=factory).bias.tolist() == [0.5]
        return
    with pytest.raises(FileFormatError, match=f"{re.escape(str(path))} {message}.*pass the right factory="):
        load(path, factory=factory)


def test_arguments_reach_the_factory(tmp_path, odd):
    """A factory that the caller passes gets the arguments that were saved."""
    save(odd(4), tmp_path / "a.safetensors", factory="mypackage.nets:odd", arguments={"width": 4})
    seen = []

    load(tmp_path / "a.safetensors", factory=lambda **arguments: seen.append(arguments) or odd(**arguments))

    assert seen == [{"width": 4}]


def test_without_origin_a_factory_is_asked_for(tmp_path):
    """A file that does not say how to build its network asks for a factory."""
    save(small(), tmp_path / "a.safetensors")

    with pytest.raises(FileFormatError, match="does not say how to build its network; pass factory="):
        load(tmp_path / "a.safetensors")


def test_a_file_that_needs_a_factory_is_warned_of(tmp_path, recwarn):
    """Saving a network that no name builds says at once how it will load, and is done; with a name nothing is said."""
    with pytest.warns(
        FactoryNeededWarning, match=r"Linear is built.* only with factory=;.*networks\.build\("
    ):
        save(small(), tmp_path / "a.safetensors")
    save(small(), tmp_path / "b.safetensors", factory="mypackage.nets:small")
    save(build("lenet5"), tmp_path / "c.safetensors")

    assert len(list(tmp_path.iterdir())) == 3
    assert not recwarn.list


def test_factory_must_make_a_network(tmp_path):
    """A factory that returns something else is named as the cause."""
    save(small(), tmp_path / "a.safetensors")

    with pytest.raises(ModelError, match="the factory returned a dict"):
        load(tmp_path / "a.safetensors", factory=dict)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factory": "not a spec"}, "does not name a network"),
        ({"factory": "a.b:c.d"}, "does not name a network"),
        ({"arguments": {"n": 1}}, "name it with factory="),
        ({"factory": "lenet5", "arguments": {"spec": 1}}, "cannot be named spec"),
        ({"evaluation": {"loss": float("nan")}}, "cannot be written as JSON"),
    ],
)
def test_unusable_options_are_refused(tmp_path, options, message):
    """What `load` could not use is refused when saving, and no file appears."""
    with pytest.raises(SettingsError, match=message):
        save(small(), tmp_path / "a.safetensors", **options)

    assert list(tmp_path.iterdir()) == []


def test_name_says_what_it_is(tmp_path):
    """Saving under a pickle's name is refused."""
    with pytest.raises(SettingsError, match=r"ends in \.safetensors"):
        save(small(), tmp_path / "a.pt")


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"not": "a tensor"}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(2, 2, device="meta"), "weight is on the meta device"),
        (nn.LazyLinear(2), "weight has no shape yet"),
        (holder(torch.eye(2).to_sparse()), "value is sparse"),
        (holder(torch.zeros(2, dtype=torch.complex128)), r"value has dtype torch.complex128"),
        (nn.Sequential(Extra(2, 2)), r"0 \(Extra\) keeps extra state"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_what_a_file_cannot_hold_is_refused(tmp_path, model, message):
    """A network with something that the file would lose is refused by the name of it."""
    with pytest.raises(ModelError, match=message):
        save(model, tmp_path / "a.safetensors")


def test_saving_leaves_the_model_alone(tmp_path, odd, image):
    """Saving changes nothing about the network."""
    model = odd().eval()
    before = copy.deepcopy(model)

    save(model, tmp_path / "a.safetensors")

    assert torch.equal(before(image), model(image))
    assert all(
        a.requires_grad == b.requires_grad
        for a, b in zip(before.parameters(), model.parameters(), strict=True)
    )


def test_snapshot_of_a_model_comes_back(odd, halved, image):
    """A network taken apart for a snapshot and put together again computes the same."""
    model = halved(odd()).eval()
    tensors, document = model_snapshot(model)
    document = json.loads(json.dumps(document))
    tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    again = restore_model(odd, tensors, document)

    assert torch.equal(again(image), model(image))
    assert again.tied.weight is again.head.weight


@pytest.mark.parametrize("document", [{}, {"training": 1}, {"origin": "lenet5"}])
def test_snapshot_of_something_else_is_refused(odd, document):
    """A document that does not describe a network is refused in one sentence."""
    with pytest.raises(FileFormatError, match="the snapshot does not describe a network"):
        restore_model(odd, {}, document)


def test_missing_file_is_an_error(tmp_path):
    """A path that does not exist, and a folder, are errors of the library that name the path."""
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(StoreError, match=f"cannot read {re.escape(str(path))}"):
            load(path)
