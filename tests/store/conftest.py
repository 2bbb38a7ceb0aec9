"""Networks and helpers that the tests of the store share."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn


class Odd(nn.Module):
    """Everything that a file must not lose: ties, buffers of both kinds, an empty bias, a value outside of state_dict."""

    def __init__(self, width: int = 6, *, normal: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, width)
        self.tied = nn.Linear(width, width, bias=False)
        self.tied.weight = self.head.weight
        self.register_buffer("scale", torch.arange(1.0, width + 1), persistent=False)
        if normal:
            self.offset = torch.ones(width)  # a plain attribute: building on the meta device loses its values

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.norm(self.first(x)).relu()).mean((2, 3)) * self.scale
        return self.tied(self.head(x + getattr(self, "offset", 0.0)))


@pytest.fixture
def odd() -> type[Odd]:
    return Odd


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def halve(model: Odd) -> Odd:
    """Cut the network to half its width by hand, as surgery would."""
    keep = torch.arange(0, model.first.out_channels, 2)
    model.first.weight = nn.Parameter(model.first.weight[keep].detach())
    for name in ("weight", "bias"):
        setattr(model.norm, name, nn.Parameter(getattr(model.norm, name)[keep].detach()))
    for name in ("running_mean", "running_var"):
        setattr(model.norm, name, getattr(model.norm, name)[keep])
    model.second.weight = nn.Parameter(model.second.weight[keep][:, keep].detach())
    model.second.bias = nn.Parameter(model.second.bias[keep].detach())
    model.head.weight = nn.Parameter(model.head.weight[keep][:, keep].detach())
    model.tied.weight = model.head.weight
    model.head.bias = nn.Parameter(model.head.bias[keep].detach())
    model.scale = model.scale[keep]
    return model


@pytest.fixture
def halved() -> Callable[[Odd], Odd]:
    return halve


@pytest.fixture
def forge() -> Callable[..., Path]:
    """Rewrite the document of a model file and make its checksum right again, as an attacker would."""

    def rewrite(path: Path, change: Callable[[dict[str, Any]], object], *, seal: bool = True) -> Path:
        from secateur.store.documents import canonical_json
        from secateur.store.tensor_file import fingerprints, read_header, write_tensors

        file = read_header(path)
        tensors = file.read()
        document = file.document
        change(document)
        if seal:
            bare = {key: value for key, value in document.items() if key != "digest"}
            content = canonical_json(fingerprints(tensors), what="test")
            text = f"{canonical_json(bare, what='test')}\n{content}"
            document["digest"] = hashlib.blake2b(text.encode(), digest_size=20).hexdigest()
        write_tensors(path, tensors, document)
        return path

    return rewrite


@pytest.fixture
def raw_file() -> Callable[..., bytes]:
    """The bytes of a safetensors file, put together by hand."""

    def build(header: object, data: bytes = b"") -> bytes:
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data

    return build
