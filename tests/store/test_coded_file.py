"""Coded files: every bit comes back, in little more than the entropy, and damage is refused."""

from __future__ import annotations

import hashlib
import json
import math
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.errors import FileFormatError, SecateurError, SettingsError, StoreError
from secateur.evaluate import measure_file
from secateur.networks import build
from secateur.quantise import cluster
from secateur.store import coded_size, read_description
from secateur.store.coded_file import coded, read_coded, write_coded
from secateur.store.streams import Coder, StreamDocument, pack, unpack
from secateur.store.tensor_file import as_bytes

CODERS: tuple[Coder, ...] = ("huffman", "ans")


@pytest.fixture(params=CODERS)
def coder(request: pytest.FixtureRequest) -> Coder:
    if request.param == "ans":
        pytest.importorskip("constriction", reason="pip install 'secateur[compress]'")
    return request.param


def sparse(*shape: int, gone: float, clusters: int | None, seed: int = 0) -> Tensor:
    """A pruned weight, clustered or not."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    weight[torch.rand(shape, generator=generator) < gone] = 0
    return weight if clusters is None else cluster(weight, clusters, start="linear").weight()


def small_net(gone: float = 0.9, clusters: int | None = 32) -> nn.Module:
    model = build("digits-net", seed=0).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.copy_(sparse(*parameter.shape, gone=gone, clusters=clusters, seed=len(name)))
    return model


def same_bits(first: Tensor, second: Tensor) -> bool:
    both = first.dtype == second.dtype and first.shape == second.shape
    return both and bytes(as_bytes(first)) == bytes(as_bytes(second))


TENSORS = {
    "clustered": sparse(300, 40, gone=0.9, clusters=32),
    "dense and clustered": sparse(300, 40, gone=0.0, clusters=16),
    "sparse": sparse(100, 40, gone=0.8, clusters=None),
    "random": sparse(50, 40, gone=0.0, clusters=None),
    "zeros": torch.zeros(500),
    "ones": torch.ones(30, 30, dtype=torch.float64),
    "odd": torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45] * 9),
    "half": sparse(200, 5, gone=0.5, clusters=7).half(),
    "brain": sparse(200, 5, gone=0.5, clusters=7).bfloat16(),
    "complex": torch.randn(4, 4, dtype=torch.complex64),
    "whole": torch.arange(100).repeat(9),
    "truth": torch.rand(50) < 0.1,
    "count": torch.tensor(7),
    "empty": torch.empty(0, 3),
    "single": torch.tensor([2.5]),
}


def test_every_bit_comes_back(coder: Coder, tmp_path: Path) -> None:
    """Zeros of both signs, numbers that are none, every number type, any shape; the same values give the same bytes."""
    write_coded(tmp_path / "a", TENSORS, {"x": [1, None]}, coder=coder)

    file = read_coded(tmp_path / "a")
    found = file.read()

    assert file.document == {"x": [1, None]}
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert same_bits(found[name], tensor), name
        assert file.entries[name].shape == tuple(tensor.shape)
    assert coded(found, {"x": [1, None]}, coder=coder) == (tmp_path / "a").read_bytes()


@pytest.mark.parametrize(("gone", "clusters"), [(0.9, 32), (0.95, 16), (0.5, 32), (0.0, 16)])
def test_the_coder_is_within_two_percent_of_the_entropy(gone: float, clusters: int) -> None:
    """On a tensor of 200,000 weights, with the table of how often each level occurs; levels, description and checksum are half a kilobyte more."""
    pytest.importorskip("constriction", reason="pip install 'secateur[compress]'")
    weight = sparse(400, 500, gone=gone, clusters=clusters)
    counts = weight.unique(return_counts=True)[1].double()
    entropy = float(-(counts / counts.sum()).log2() @ counts)

    symbols = weight.unique(return_inverse=True)[1].flatten().numpy()
    bits = 8 * len(pack(symbols, len(counts), "ans")[1])

    assert entropy <= bits <= 1.02 * entropy
    assert 8 * len(coded({"w": weight}, None, coder="ans")) <= bits + 8 * 512


def test_runs_bring_huffman_near_the_entropy() -> None:
    """Whole bits for each symbol would take one for each zero; runs take far fewer."""
    weight = sparse(400, 500, gone=0.9, clusters=32)
    counts = weight.unique(return_counts=True)[1].double()
    entropy = float(-(counts / counts.sum()).log2() @ counts)

    bits = 8 * len(coded({"w": weight}, None, coder="huffman"))

    assert entropy <= bits <= 1.06 * entropy
    assert bits < weight.numel()


@pytest.mark.parametrize("clusters", [32, None])
def test_a_network_comes_back_from_a_coded_file(coder: Coder, clusters: int | None, tmp_path: Path) -> None:
    """`load` reads it by its first bytes, whatever its name; weights, zeros, figures and history are those of the plain file."""
    model, path = small_net(clusters=clusters), tmp_path / "net.secateur"
    secateur.save(model, path, evaluation={"accuracy": 9.5}, history=["made"], coder=coder)
    secateur.save(model, tmp_path / "net.safetensors", evaluation={"accuracy": 9.5}, history=["made"])

    again = secateur.load(path.rename(tmp_path / "renamed"))

    assert all(
        same_bits(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert read_description(tmp_path / "renamed") == read_description(tmp_path / "net.safetensors")
    assert not again.training
    plain = measure_file(tmp_path / "net.safetensors")
    assert (tmp_path / "renamed").stat().st_size < min(plain.gzip, plain.xz)
    assert coded_size(model, coder=coder) <= (tmp_path / "renamed").stat().st_size
    secateur.save(again, tmp_path / "again.safetensors", evaluation={"accuracy": 9.5}, history=["made"])
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()


def test_damage_anywhere_is_refused(coder: Coder, tmp_path: Path) -> None:
    """A byte that changed, or a file that was cut off, is refused by its checksum, and nothing is made of it."""
    path = tmp_path / "net.secateur"
    secateur.save(small_net(), path, coder=coder)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)

    for place in [0, 8, 12, 20, 30, *generator.integers(0, len(whole), 30).tolist(), len(whole) - 1]:
        broken = bytearray(whole)
        broken[place] ^= 0x55
        path.write_bytes(broken)
        with pytest.raises(StoreError):
            secateur.load(path)
    for length in (0, 7, 8, 19, 51, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError):
            secateur.load(path)


def sealed(content: bytes) -> bytes:
    """Content with the checksum of its own, as somebody with bad intentions would write it."""
    return content + hashlib.blake2b(content, digest_size=32).digest()


def claiming(
    content: bytes, *shape: int, payload: bytes | None = None, blanks: int = 0, **told: object
) -> bytes:
    """A coded file of one tensor, with another shape and other things written into its header."""
    length = int.from_bytes(content[12:20], "little")
    header = json.loads(zlib.decompress(content[20 : 20 + length]))
    header["tensors"][0].update(shape=shape, **told)
    text = zlib.compress(json.dumps(header).encode() + b" " * blanks, 1)
    rest = content[20 + length :] if payload is None else payload
    return sealed(content[:12] + len(text).to_bytes(8, "little") + text + rest)


@pytest.mark.parametrize("shape", [(30_000,), (1500, 1500)])
def test_what_is_written_is_read(shape: tuple[int, ...], coder: Coder, tmp_path: Path) -> None:
    """Whatever `coded` returns, `read_coded` reads: tensors of one number, too, which could be told in next to no bytes."""
    tensors = {"b": torch.randn(10), "same": torch.full(shape, 2.5), "w": torch.zeros(shape)}
    write_coded(tmp_path / "a", tensors, None, coder=coder)

    found = read_coded(tmp_path / "a").read()

    assert all(same_bits(found[name], tensor) for name, tensor in tensors.items())
    assert 400 * (tmp_path / "a").stat().st_size < sum(tensor.nbytes for tensor in tensors.values())


def test_what_is_made_to_do_harm_is_refused(tmp_path: Path) -> None:
    """With a right checksum, too: other versions, headers that are none, tensors far larger than the file."""
    path = tmp_path / "bad.secateur"
    good = coded({"w": torch.zeros(8)}, None, coder="huffman")[:-32]
    path.write_bytes(sealed(good[:8] + (9).to_bytes(4, "little") + good[12:]))
    with pytest.raises(FileFormatError, match=r"format 9.*upgrade"):
        read_coded(path)
    path.write_bytes(sealed(good[:20] + b"?" + good[21:]))
    with pytest.raises(FileFormatError, match="damaged"):
        read_coded(path)
    path.write_bytes(sealed(good + b"more"))
    with pytest.raises(FileFormatError, match="do not hold the tensors"):
        read_coded(path)
    path.write_bytes(claiming(good, 10_000_000))
    with pytest.raises(FileFormatError, match="do not hold the tensors"):
        read_coded(path)
    path.write_bytes(sealed(good))
    with pytest.raises(FileFormatError, match="not a model file"):
        secateur.load(path)


PLAIN = coded({"w": torch.zeros(8)}, None, coder="huffman")[:-32]


@pytest.mark.parametrize("shape", [(0, 2**63), (0, 2**62, 2**62), (0, 10**30)])
def test_shapes_that_cannot_be_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    """A tensor without numbers may claim any shape, which no size of a file bounds."""
    path = tmp_path / "bad.secateur"
    path.write_bytes(claiming(PLAIN, *shape, payload=b"", how="raw", stream=None, kinds=0, sizes=(0, 0)))

    with pytest.raises(FileFormatError, match=r"'w': it has the shape \[0, .* use another copy"):
        read_coded(path).read()


SPARSE = coded({"w": sparse(400, gone=0.9, clusters=None)}, None, coder="huffman")[:-32]
CLUSTERED = coded({"w": sparse(4000, gone=0.9, clusters=8)}, None, coder="huffman")[:-32]
BILLION = 10**9


def told(content: bytes) -> dict:
    """What the header of a coded file of one tensor says of it."""
    length = int.from_bytes(content[12:20], "little")
    return json.loads(zlib.decompress(content[20 : 20 + length]))["tensors"][0]


@pytest.mark.parametrize(
    ("content", "how", "lies", "stream"),
    [
        (SPARSE, "sparse", {"kinds": BILLION}, {}),
        (SPARSE, "sparse", {}, {"entries": BILLION}),
        (SPARSE, "sparse", {}, {"kinds": 3}),
        (SPARSE, "sparse", {"stream": None}, {}),
        (CLUSTERED, "levels", {"kinds": 4001}, {"kinds": 4001}),
        (CLUSTERED, "levels", {"kinds": 5}, {}),
        (CLUSTERED, "levels", {}, {"entries": 4001}),
        (CLUSTERED, "levels", {}, {"run_bits": None}),
        (CLUSTERED, "levels", {}, {"sizes": [BILLION]}),
        (CLUSTERED, "levels", {"how": "raw"}, {}),
        (CLUSTERED, "levels", {"how": "zlib"}, {}),
    ],
)
def test_counts_that_do_not_add_up_to_the_tensor_are_refused_before_anything_is_decoded(
    content: bytes, how: str, lies: dict, stream: dict, tmp_path: Path
) -> None:
    """Numbers, levels and runs are no more than the shape has: nobody makes room for what the tensor does not hold."""
    entry = told(content)
    assert entry["how"] == how
    assert entry["stream"]["run_bits"] is not None
    path = tmp_path / "bad.secateur"
    path.write_bytes(claiming(content, *entry["shape"], **{"stream": {**entry["stream"], **stream}, **lies}))

    with pytest.raises(
        FileFormatError, match=r"'w' does not add up to [\d,]+ numbers of 4 bytes.*another copy"
    ):
        read_coded(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"more": torch.zeros(3_000_000)},
        {"out.bias": torch.zeros(10, dtype=torch.float64)},
        {"out.bias": None},
    ],
    ids=["another", "wider", "none"],
)
def test_tensors_that_the_network_does_not_have_are_not_decoded(
    tensors: dict[str, Tensor | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file holds the tensors of the network that it describes, in their number types, or is refused unread."""
    path = tmp_path / "net.secateur"
    secateur.save(small_net(), path)
    file = read_coded(path)
    held = {name: tensor for name, tensor in {**file.read(), **tensors}.items() if tensor is not None}
    write_coded(path, held, file.document, coder="huffman")
    monkeypatch.setattr("secateur.store.coded_file._decoded", lambda *_: pytest.fail("it was decoded"))

    with pytest.raises(
        FileFormatError, match=f"'{next(iter(tensors))}' is .*, its description says .* use another copy"
    ):
        secateur.load(path)


@pytest.mark.parametrize("tail", [b"", b"more"], ids=["longer", "with a tail"])
def test_packed_numbers_are_neither_more_nor_fewer(tail: bytes, tmp_path: Path) -> None:
    """Packed numbers end where the shape says, and the packed bytes end there, too."""
    packed = zlib.compress(bytes(40 if tail else 44)) + tail
    path = tmp_path / "bad.secateur"
    path.write_bytes(
        claiming(PLAIN, 10, payload=packed, how="zlib", stream=None, kinds=0, sizes=(len(packed), 0))
    )

    with pytest.raises(FileFormatError, match="more or fewer than it says"):
        read_coded(path).read()


def test_a_header_is_no_longer_than_any(tmp_path: Path) -> None:
    """A header of 100 MB and more is refused before it is read, however few bytes it packs to."""
    path = tmp_path / "bad.secateur"
    path.write_bytes(claiming(PLAIN, 8, blanks=100_000_001))

    with pytest.raises(FileFormatError, match="more than 100,000,000 bytes"):
        read_coded(path)


def test_numbers_of_one_byte_are_not_told_by_places(tmp_path: Path) -> None:
    """The writer never does so, and a reader would need more memory for the places than for the numbers."""
    path = tmp_path / "bad.secateur"
    path.write_bytes(
        claiming(
            coded({"w": torch.zeros(8).half()}, None, coder="huffman")[:-32], 8, dtype="U8", how="sparse"
        )
    )

    with pytest.raises(FileFormatError, match="never told by places"):
        read_coded(path)


@pytest.mark.parametrize("numbers", ["alike", "nearly", "sparse", "clustered"])
def test_reading_takes_little_more_than_the_tensors(
    numbers: str, coder: Coder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound on what a file unpacks to bounds memory: two bytes for each number beside the numbers, and the same again for zeros."""
    monkeypatch.setattr("secateur.store.coded_file._EXPANSION", 1 << 30)
    count = 1_200_000
    weight = torch.full((count,), 1.0) if numbers == "alike" else torch.zeros(count)
    if numbers == "nearly":
        weight[7] = 1
    elif numbers != "alike":
        weight = sparse(count, gone=0.9, clusters=None if numbers == "sparse" else 8)
    path = tmp_path / "big.secateur"
    write_coded(path, {"w": weight}, None, coder=coder)
    tracemalloc.start()
    try:
        found = read_coded(path).read()["w"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert same_bits(found, weight)
    assert peak < 2.5 * weight.nbytes + (4 << 20)


@pytest.mark.parametrize("seed", range(8))
def test_streams_that_do_not_fit_their_description_raise_errors_of_ours(coder: Coder, seed: int) -> None:
    """Whatever a stream's bytes are, reading ends, in symbols of the right number or an error that says so; unbroken ones are read."""
    generator = np.random.default_rng(seed)
    symbols = np.minimum(generator.geometric(0.6, 5000) - 1, 6)
    document, data = pack(symbols, 7, coder)
    assert np.array_equal(unpack(document, data, 5000), symbols)
    broken = bytearray(data)
    for place in generator.integers(0, len(data), 5):
        broken[place] = generator.integers(0, 256)

    for count in (5000, 4999, 12_000):
        try:
            found = unpack(document, bytes(broken), count)
        except SecateurError:
            continue
        assert len(found) == count


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    """Other endings and coders are refused by name."""
    with pytest.raises(SettingsError, match=r"ends in .safetensors, or in .secateur"):
        secateur.save(small_net(), tmp_path / "net.zip")
    with pytest.raises(SettingsError, match="coder='zip' must be one of huffman, ans"):
        secateur.save(small_net(), tmp_path / "net.secateur", coder="zip")
    with pytest.raises(FileFormatError, match="parts do not fit"):
        unpack(StreamDocument(coder="ans", kinds=3, run_bits=None, entries=0, sizes=[4]), b"", 3)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without constriction, Huffman works, and asking for the other says what to install."""
    import sys

    monkeypatch.setitem(sys.modules, "constriction", None)

    secateur.save(small_net(), tmp_path / "net.secateur")
    with pytest.raises(StoreError, match=r"pip install 'secateur\[compress\]'"):
        secateur.save(small_net(), tmp_path / "other.secateur", coder="ans")
    assert not (tmp_path / "other.secateur").exists()


@pytest.mark.parametrize("name", CODERS)
def test_golden_files_are_read(name: Coder) -> None:
    """Files that the first version wrote are read by this one, bit for bit."""
    if name == "ans":
        pytest.importorskip("constriction", reason="pip install 'secateur[compress]'")
    folder = Path(__file__).parent / "golden"

    found = read_coded(folder / f"{name}.secateur").read()

    assert hashlib.blake2b(bytes(as_bytes(found["clustered"])), digest_size=20).hexdigest() == GOLDEN
    assert same_bits(found["odd"], TENSORS["odd"])
    assert not found["zeros"].any()
    assert len(found["zeros"]) == 500


GOLDEN = "b1b7ddd76e55ff93bba20d50b8df9f25e01d4386"
"""The fingerprint of the golden files' clustered tensor: they hold those tensors of `TENSORS` that are named in the test."""
