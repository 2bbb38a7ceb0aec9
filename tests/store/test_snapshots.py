"""Each snapshot stores only what changed against its parent."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import FileFormatError, RunError, SettingsError
from secateur.store.snapshots import Snapshots

NAMES = ("a", "b", "c", "d")
steps = st.lists(
    st.tuples(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 2)), st.integers(0, 10)),
    min_size=1,
    max_size=6,
)


def tensors_of(choice):
    """Tensors whose content is a function of a small number, so that contents recur."""
    return {name: torch.full((2, 3), float(value)) for name, value in choice.items()}


@settings(deadline=None, max_examples=30)
@given(steps)
def test_every_snapshot_comes_back(tmp_path_factory, history):
    """Whatever the tree of parents, each snapshot gives back its own tensors, in order, and its document."""
    snapshots = Snapshots(tmp_path_factory.mktemp("run") / "snapshots")
    for number, (choice, parent) in enumerate(history):
        ancestor = f"s{parent % number}" if number else None
        snapshots.put(f"s{number}", tensors_of(choice), {"number": number}, parent=ancestor)

    for number, (choice, _) in enumerate(history):
        tensors, document = snapshots.get(f"s{number}")

        assert list(tensors) == list(choice)
        assert all(torch.equal(tensors[name], value) for name, value in tensors_of(choice).items())
        assert len({tensor.data_ptr() for tensor in tensors.values()}) == len(tensors)
        assert document == {"number": number}


@settings(deadline=None, max_examples=30)
@given(steps, st.sets(st.integers(0, 5)))
def test_cleaning_keeps_what_is_needed(tmp_path_factory, history, chosen):
    """After cleaning, every named snapshot is still whole, and no file is left that none of them needs."""
    folder = tmp_path_factory.mktemp("run") / "snapshots"
    snapshots = Snapshots(folder)
    for number, (choice, parent) in enumerate(history):
        ancestor = f"s{parent % number}" if number else None
        snapshots.put(f"s{number}", tensors_of(choice), None, parent=ancestor)
    named = {f"s{number}" for number in chosen if number < len(history)}

    snapshots.keep_only(named)

    for name in named:
        tensors, _ = snapshots.get(name)
        expected = tensors_of(history[int(name[1:])][0])
        assert all(torch.equal(tensors[key], value) for key, value in expected.items())
    if not named:
        assert list(folder.iterdir()) == []


def test_unchanged_tensors_are_not_written_again(tmp_path):
    """A child whose tensors are all the parent's is a few hundred bytes, and so is a grandchild."""
    snapshots = Snapshots(tmp_path)
    weights = {"w": torch.randn(10_000), "v": torch.randn(10_000)}
    snapshots.put("s0", weights, {})
    snapshots.put("s1", {**weights, "v": weights["v"] + 1}, {}, parent="s0")
    snapshots.put(
        "s2", {name: tensor.clone() for name, tensor in snapshots.get("s1")[0].items()}, {}, parent="s1"
    )

    sizes = [snapshots.path(f"s{number}").stat().st_size for number in range(3)]

    assert sizes[0] > 80_000
    assert 40_000 < sizes[1] < 42_000
    assert sizes[2] < 1_000


@pytest.mark.parametrize(
    "write",
    [
        lambda tensor: tensor.data.add_(1),
        lambda tensor: tensor.numpy().fill(7),
        lambda tensor: tensor.view(torch.int32).bitwise_xor_(1),
        lambda tensor: tensor.neg_(),
    ],
    ids=["data", "numpy", "one bit", "sign of zero"],
)
def test_every_kind_of_write_is_noticed(tmp_path, write):
    """A change that version counters or comparisons of values would miss is stored all the same."""
    snapshots = Snapshots(tmp_path)
    tensor = torch.zeros(5)
    snapshots.put("s0", {"w": tensor}, {})
    write(tensor)
    snapshots.put("s1", {"w": tensor}, {}, parent="s0")

    again = snapshots.get("s1")[0]["w"]

    assert torch.equal(again.view(torch.int32), tensor.view(torch.int32))


def test_reading_opens_only_the_files_it_needs(tmp_path):
    """A snapshot that shares nothing with its parent does not need the parent's file."""
    snapshots = Snapshots(tmp_path)
    snapshots.put("s0", {"w": torch.zeros(5)}, {})
    snapshots.put("s1", {"w": torch.ones(5)}, {}, parent="s0")
    snapshots.path("s0").unlink()

    assert snapshots.get("s1")[0]["w"].tolist() == [1.0] * 5


def test_missing_ancestor_is_named(tmp_path):
    """A snapshot whose tensors lie in a file that is gone says which one."""
    snapshots = Snapshots(tmp_path)
    snapshots.put("s0", {"w": torch.zeros(5)}, {})
    snapshots.put("s1", {"w": torch.zeros(5)}, {}, parent="s0")
    snapshots.path("s0").unlink()

    with pytest.raises(RunError, match="no snapshot 's0'"):
        snapshots.get("s1")


def test_flipped_bit_is_noticed(tmp_path):
    """A damaged tensor is an error that names its file, never a wrong weight."""
    snapshots = Snapshots(tmp_path)
    snapshots.put("s0", {"w": torch.zeros(500)}, {})
    snapshots.put("s1", {"w": torch.zeros(500)}, {}, parent="s0")
    content = bytearray(snapshots.path("s0").read_bytes())
    content[-100] ^= 1
    snapshots.path("s0").write_bytes(content)

    with pytest.raises(FileFormatError, match=r"s0\.safetensors is damaged"):
        snapshots.get("s1")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 300, "a\n"])
def test_names_stay_inside_the_folder(tmp_path, name):
    """A name that could leave the folder is refused for writing and for reading."""
    with pytest.raises(SettingsError, match="cannot name a snapshot"):
        Snapshots(tmp_path).put(name, {}, {})
    with pytest.raises(SettingsError, match="cannot name a snapshot"):
        Snapshots(tmp_path).get(name)


def test_name_is_used_once(tmp_path):
    """A second snapshot of the same name is refused, since later ones may refer to the first."""
    snapshots = Snapshots(tmp_path)
    snapshots.put("s0", {}, {})

    with pytest.raises(RunError, match="already has a snapshot 's0'"):
        snapshots.put("s0", {}, {})
    with pytest.raises(RunError, match="no snapshot 'none'"):
        snapshots.put("s1", {}, {}, parent="none")


@pytest.mark.filterwarnings("ignore::secateur.store.FactoryNeededWarning")
def test_model_file_is_no_snapshot(tmp_path):
    """A model file that lies among the snapshots is refused."""
    from torch import nn

    from secateur.store import save

    save(nn.Linear(2, 2), tmp_path / "s0.safetensors")

    with pytest.raises(FileFormatError, match="is not a snapshot"):
        Snapshots(tmp_path).get("s0")
