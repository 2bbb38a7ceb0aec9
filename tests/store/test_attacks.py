"""Files that try to break the reader, or to make it run code."""

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from secateur.errors import FileFormatError, StoreError, UntrustedImportError
from secateur.networks import build
from secateur.store import load, read_description, save

pytestmark = pytest.mark.filterwarnings("ignore::secateur.store.FactoryNeededWarning")

ONE_SENTENCE = re.compile(r"[^\n]+[;.] [^\n]+")


@pytest.fixture
def path(tmp_path):
    """A good file of a network that says how it is built."""
    save(build("lenet5", seed=0).eval(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def refused(path, error=FileFormatError, **options):
    """The message with which a file is refused: one line with a fact and a next step, naming the file."""
    with pytest.raises(error) as caught:
        load(path, **options)
    assert ONE_SENTENCE.fullmatch(str(caught.value))
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ""])
@pytest.mark.parametrize("kind", ["torch", "torch, old", *range(6)])
def test_pickles_are_never_read(tmp_path, kind, suffix):
    """Pickles of every protocol, under any name, are refused as what they are, and nothing in them runs."""
    path, mark = tmp_path / f"a{suffix}", tmp_path / "ran"
    if kind in ("torch", "torch, old"):
        torch.save(Bomb(mark), path, _use_new_zipfile_serialization=kind == "torch")
    else:
        path.write_bytes(pickle.dumps([Bomb(mark)] * 50, protocol=kind))

    message = refused(path, factory=nn.ReLU)

    assert not mark.exists()
    if kind not in (0, 1) or suffix in (".pt", ".pth"):  # the first two protocols have no mark
        assert "pickle" in message


def test_header_that_begins_like_a_pickle_is_read(tmp_path):
    """A header length of 640 has the first bytes of a pickle; the file is read all the same."""
    model = nn.Linear(1, 1)
    for padding in range(400):
        save(model, tmp_path / "a.safetensors", evaluation={"note": "x" * padding})
        if (tmp_path / "a.safetensors").read_bytes()[:2] == b"\x80\x02":
            break

    assert (tmp_path / "a.safetensors").read_bytes()[:2] == b"\x80\x02"
    assert torch.equal(load(tmp_path / "a.safetensors", factory=lambda: nn.Linear(1, 1)).weight, model.weight)


def test_foreign_safetensors_are_refused(tmp_path):
    """A safetensors file from elsewhere is told from a damaged one."""
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"format": "pt"})

    assert "that Secateur did not write" in refused(tmp_path / "a.safetensors")


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_cut_files_are_refused(tmp_path_factory, data):
    """A file cut at any byte is refused."""
    path = tmp_path_factory.mktemp("file") / "a.safetensors"
    save(nn.Linear(3, 2), path)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])

    refused(path, factory=lambda: nn.Linear(3, 2))


@settings(deadline=None, max_examples=120)
@given(data=st.data())
def test_flipped_bits_are_noticed(tmp_path_factory, data):
    """A file with any one bit flipped is refused, or (blanks of the header) means exactly the same."""
    path = tmp_path_factory.mktemp("file") / "a.safetensors"
    model = nn.Linear(3, 2)
    save(model, path, evaluation={"accuracy": 98.5})
    content = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)

    message, again = "", None
    try:
        again = load(path, factory=lambda: nn.Linear(3, 2))
    except FileFormatError as error:
        message = str(error)

    if again is None:
        assert ONE_SENTENCE.fullmatch(message)
    else:
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
        assert read_description(path).evaluation == {"accuracy": 98.5}


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**40, 2**63, 2**64 - 1, 100_000_001])
def test_absurd_header_lengths_are_refused(path, length):
    """A header length beyond the file, or none, is refused without trying to read it."""
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])

    refused(path)


@pytest.mark.parametrize("size", range(17))
def test_tiny_files_are_refused(tmp_path, size):
    """Files of a few bytes, empty ones included, are refused."""
    for content in (bytes(size), b"{" * size, b"\x80" * size, b"PK\x03\x04"[:size]):
        (tmp_path / "a.safetensors").write_bytes(content)

        refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]},
        {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "I64", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1]},
        {"shape": "long"},
        [],
        None,
    ],
    ids=str,
)
def test_nonsense_in_the_header_is_refused(tmp_path, raw_file, tensor):
    """Shapes, offsets and types that do not fit the file are refused."""
    header = {"__metadata__": {"secateur": "{}"}, "weight": tensor}
    (tmp_path / "a.safetensors").write_bytes(raw_file(header, bytes(4)))

    refused(tmp_path / "a.safetensors", factory=lambda: nn.Linear(1, 1, bias=False))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "1",
        "{",
        "[" * 100_000,
        '{"format": NaN}',
        '{"format": "1"}',
        '{"format": 1}',
        "\u0000",
    ],
)
def test_documents_of_the_wrong_shape_are_refused(tmp_path, raw_file, text):
    """A document that is no JSON, or not of the right shape, is refused."""
    (tmp_path / "a.safetensors").write_bytes(raw_file({"__metadata__": {"secateur": text}}))

    refused(tmp_path / "a.safetensors")


def change(*keys, to):
    """A change to one entry of a document."""

    def apply(document):
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("format", to=2), "has file format 2, and this version of Secateur reads 1; upgrade"),
        (change("surprise", to=1), "surprise"),
        (change("network", "training", to="yes"), "network.training"),
        (change("network", "training", to=1), "network.training"),
        (change("network", "aliases", to={"a": 1}), "network.aliases.a"),
        (change("network", "origin", to={"spec": 3, "arguments": {}}), "network.origin.spec"),
        (change("network", "origin", to={"spec": "lenet5"}), "network.origin.arguments"),
        (change("network", "inputs", to={"axis": 1, "indices": [7], "size": 7}), "beyond the 7 features"),
        (change("network", "inputs", to={"axis": 1, "indices": [-1], "size": 7}), "network.inputs.indices.0"),
        (change("network", "memory_formats", to={"conv1.weight": "sideways"}), "network.memory_formats"),
        (change("network", "memory_formats", to={"out.bias": "channels_last"}), "cannot be channels_last"),
        (change("network", "aliases", to={"out.weight": "nowhere"}), "'out.weight' stands for 'nowhere'"),
        (change("network", "aliases", to={"__class__": "out.weight"}), "has a tensor '__class__'"),
        (change("network", "aliases", to={"a.b.c": "out.weight"}), "has a tensor 'a.b.c'"),
        (
            change("network", "dtypes", "out.weight", to="F16"),
            "'out.weight' is F32, its description says F16",
        ),
        (change("network", "other_mode", to=["ghost"]), "sets the mode of 'ghost'"),
        (
            change("network", "origin", to={"spec": "lenet300-100", "arguments": {}}),
            "pass the right factory=",
        ),
    ],
)
def test_forged_documents_are_refused(path, forge, edit, message):
    """A document changed by someone who made the checksum right again is still checked in every part."""
    forge(path, edit)

    assert message in refused(path)


def test_changed_document_without_checksum_is_refused(path, forge):
    """A figure changed by hand is noticed."""
    forge(path, change("evaluation", to={"accuracy": 100.0}), seal=False)

    assert "the checksum differs" in refused(path)


def test_parameters_cannot_pose_as_buffers(path, forge):
    """A tensor that is declared as the wrong kind is refused by its name."""
    forge(path, change("network", "buffers", to=["out.weight"]))

    assert "has 'out.weight' as a buffer, the network does not" in refused(path)


UNTRUSTED = [
    "os:mkdir",
    "builtins:exec",
    "subprocess:run",
    "mypackage.nets:make",
    "secateur:load",
    "secateur.cli:main",
    "secateur.store.model_file:save",
    "secateurs.networks:make",
    "torchvision.datasets.utils:download_url",
    "timm.utils:ModelEma",
    "timm.modelsx:make",
    "torch.hub:load",
    "torch:load",
    "secateur.networks:build",
    "secateur.networks.registry:_timm_with",
    "secateur.networks.origin:dataclass",
    "secateur.networks.registry:inspect",
    "secateur.networks.lenet:nn.Module",
    "secateur.networks.lenet:__builtins__",
    "timm:hf-hub:someone/net",
    "timm:local-dir:/somewhere",
    "a/b:c",
    "../x:y",
    ":",
    "",
    "lenet5\n",
    "x:y:z",
]


@pytest.mark.parametrize("spec", UNTRUSTED)
def test_untrusted_code_is_refused(path, forge, spec):
    """Whatever a file asks for outside of the networks that are trusted is refused as untrusted."""
    forge(
        path, change("network", "origin", to={"spec": spec, "arguments": {"name": str(path.parent / "made")}})
    )

    assert "factory=" in refused(path, UntrustedImportError)
    assert not (path.parent / "made").exists()


@pytest.mark.parametrize(
    "option", ["checkpoint_path", "pretrained", "pretrained_cfg", "weights", "weights_backbone"]
)
@pytest.mark.parametrize("zoo", ["timm", "torchvision"])
def test_weights_from_elsewhere_are_refused(path, forge, zoo, option):
    """A file cannot make torchvision or timm read other weights, which may be pickles."""
    origin = {"spec": f"{zoo}:resnet18", "arguments": {option: "evil.pth"}}
    forge(path, change("network", "origin", to=origin))

    assert f"to fetch weights from elsewhere ({option})" in refused(path, UntrustedImportError)


PACKAGE = """
import os
from collections import OrderedDict
from os import mkdir
from torch import nn
from pathlib import Path
Path(__file__).with_name("imported").touch()
def make(width=3):
    return nn.Linear(width, 1)
def dictionary():
    return {}
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A user's package that leaves a mark when it is imported."""
    folder = tmp_path / "someones_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "someones_package"]:
        del sys.modules[name]


@pytest.mark.parametrize("allow", [(), ("someones",), ("someones_package.other",), ("nets",)])
def test_users_package_is_not_imported_unasked(tmp_path, package, allow):
    """Code of a package that is not allowed is not imported, not even to look at it."""
    save(nn.Linear(3, 1), tmp_path / "a.safetensors", factory="someones_package.nets:make")

    message = refused(tmp_path / "a.safetensors", UntrustedImportError, allow=allow)

    assert "allow=('someones_package',)" in message
    assert not (package / "imported").exists()


@pytest.mark.parametrize("allow", [("someones_package",), ("x", "someones_package.nets"), "someones_package"])
def test_allowed_package_builds_its_network(tmp_path, package, allow):
    """Code of an allowed package is imported and builds the network with the arguments of the file."""
    model = nn.Linear(5, 1)
    save(model, tmp_path / "a.safetensors", factory="someones_package.nets:make", arguments={"width": 5})

    assert torch.equal(load(tmp_path / "a.safetensors", allow=allow).weight, model.weight)


@pytest.mark.parametrize("name", ["mkdir", "OrderedDict", "os", "Path"])
def test_allowed_package_lends_no_others_code(tmp_path, package, name):
    """What an allowed package only imported from elsewhere is refused."""
    made = tmp_path / "made"
    save(
        nn.Linear(3, 1),
        tmp_path / "a.safetensors",
        factory=f"someones_package.nets:{name}",
        arguments={"path": str(made)},
    )

    assert "not a network defined in a trusted module" in refused(
        tmp_path / "a.safetensors", UntrustedImportError, allow=("someones_package",)
    )
    assert not made.exists()


@pytest.mark.parametrize("spec", ["someones_package.nets:none", "someones_package.none:make"])
def test_allowed_code_that_is_missing_is_named(tmp_path, package, spec):
    """Allowed code that does not exist is an error with the way out."""
    save(nn.Linear(3, 1), tmp_path / "a.safetensors", factory=spec)

    assert "cannot be imported" in refused(
        tmp_path / "a.safetensors", StoreError, allow=("someones_package",)
    )


def test_file_cannot_choose_code_when_a_factory_is_given(path, forge):
    """With a factory of the caller's, what the file names is not imported, whatever it is."""
    forge(path, change("network", "origin", to={"spec": "someones_absent_package:make", "arguments": {}}))

    assert load(path, factory=lambda: build("lenet5")).out.out_features == 10


def test_loading_leaves_the_file_alone_and_independent(path):
    """A loaded network does not hang on the file: overwriting it in place changes no weight."""
    model = load(path)
    before = model.out.weight.detach().clone()

    path.write_bytes(bytes(path.stat().st_size))

    assert torch.equal(model.out.weight, before)


HUGE = """
import resource, sys
from secateur.errors import FileFormatError
from secateur.store import load
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
try:
    load(sys.argv[1])
except FileFormatError as error:
    print(error)
"""


def test_sparse_giant_does_not_eat_memory(tmp_path):
    """A file of 4 TiB that claims a giant header is refused without reading it."""
    with (tmp_path / "a.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 2**41) + b"{")
        file.truncate(2**42)

    done = subprocess.run(
        [sys.executable, "-c", HUGE, str(tmp_path / "a.safetensors")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert "its header claims" in done.stdout


def test_buffer_protocol_of_a_pickle_in_memory_is_not_a_path():
    """Only paths are read: a stream is a type error, so nothing falls back to another reader."""
    with pytest.raises(TypeError):
        load(io.BytesIO(b""))  # type: ignore[arg-type]


def test_document_is_readable_json(path):
    """The description is plain JSON under one key, for anyone's tools."""
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    header = json.loads(path.read_bytes()[8 : 8 + length])

    assert list(header["__metadata__"]) == ["secateur"]
    assert json.loads(header["__metadata__"]["secateur"])["network"]["origin"]["spec"] == "lenet5"
