"""The models of benchmarks/coverage.py: which they are, how each is built, and an input that it takes.

They stand in coverage_models.txt, so that the list stays the same; `python benchmarks/coverage.py --choose` writes it anew.
No weights are downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur import networks
from secateur.errors import ModelError

LIST = Path(__file__).with_name("coverage_models.txt")
IMAGE, LARGER_IMAGE = (3, 224, 224), (3, 299, 299)
CLIP, SMALL_CLIP = (3, 16, 224, 224), (3, 8, 112, 112)
TOKENS = (16,)
VOCABULARY = 1000
"""Token numbers of examples are below it; every vocabulary here is larger."""
SERIES = re.compile(r"timm:([a-z]+)")
HEAD = """\
# The models of benchmarks/coverage.py: specification, family, input without the batch, parameters.
# Written by `python benchmarks/coverage.py --choose`: all of torchvision's classification, segmentation and video models;
# of timm the smallest model of every series in every module (a series: the letters that its name begins with), as timm
# configures it, without the models that timm keeps for its own tests (test_*).
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the list.

    Attributes:
        spec: What builds it: ``torchvision:NAME``, ``timm:NAME`` or ``hf:NAME``.
        family: ``torchvision.classification``, ``timm.MODULE``, ``hf``, ...; `--family` takes its beginning.
        shape: Sizes of one example, without the batch.
        parameters: How many it has.
    """

    spec: str
    family: str
    shape: tuple[int, ...]
    parameters: int

    @property
    def line(self) -> str:
        """The entry as it stands in the list."""
        return f"{self.spec} {self.family} {'x'.join(map(str, self.shape))} {self.parameters}"

    @staticmethod
    def of(line: str) -> Entry:
        """The entry that a line of the list says.

        >>> Entry.of("timm:vgg11 timm.vgg 3x224x224 132863336").shape
        (3, 224, 224)
        """
        spec, family, shape, parameters = line.split()
        return Entry(spec, family, tuple(map(int, shape.split("x"))), int(parameters))


def listed() -> list[Entry]:
    """The models of the list, in its order."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return [Entry.of(line) for line in lines if line and not line.startswith("#")]


def build(spec: str) -> nn.Module:
    """A model of the list with random weights, in eval mode.

    Raises:
        ModuleNotFoundError: It is a Hugging Face model, and transformers is not installed.
    """
    model = HUGGING_FACE[spec]() if spec in HUGGING_FACE else networks.build(spec, seed=0)
    return model.eval()


def example_of(entry: Entry, *, batch: int = 1) -> Tensor | dict[str, Tensor]:
    """A random input of a model, always the same: images, clips, or token numbers with their mask."""
    generator = torch.Generator().manual_seed(1)
    size = (batch, *entry.shape)
    if entry.spec in HUGGING_FACE:
        tokens = torch.randint(0, VOCABULARY, size, generator=generator)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return torch.randn(size, generator=generator)


def bert_tiny() -> nn.Module:
    """BERT-tiny's sizes with a head for two classes."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512, pad_token_id=0
    )
    return BertForSequenceClassification(config)


def gpt2() -> nn.Module:
    """GPT-2's sizes with its language head, whose weight is that of the embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(use_cache=False))


HUGGING_FACE: dict[str, Callable[[], nn.Module]] = {"hf:bert-tiny": bert_tiny, "hf:gpt2": gpt2}


def choose() -> None:
    """Write the list."""
    entries = [*_of_torchvision(), *_of_timm(), *_of_hugging_face()]
    LIST.write_text(HEAD + "".join(f"{entry.line}\n" for entry in entries), encoding="utf-8")


def _size(make: Callable[[], nn.Module]) -> int:
    """Parameters of a model, built without memory where that goes."""
    try:
        with torch.device("meta"):
            model = make()
    except ModelError:  # torchvision's RegNets compute their widths with tensors
        model = make()
    return sum(parameter.numel() for parameter in model.parameters())


def _of_torchvision() -> Iterator[Entry]:
    from torchvision import models

    for family, module in (
        ("classification", models),
        ("segmentation", models.segmentation),
        ("video", models.video),
    ):
        for name in models.list_models(module=module):
            yield Entry(
                f"torchvision:{name}",
                f"torchvision.{family}",
                _torchvision_shape(family, name),
                _size(lambda name=name: networks.build(f"torchvision:{name}")),
            )


def _torchvision_shape(family: str, name: str) -> tuple[int, ...]:
    """The smallest input that a model takes as it comes: some video models are made for clips of one size."""
    if family == "video":
        return CLIP if name.startswith(("mvit", "s3d")) else SMALL_CLIP
    return LARGER_IMAGE if name == "inception_v3" else IMAGE


def _of_timm() -> list[Entry]:
    """The smallest model of each series of each module."""
    import timm

    smallest: dict[tuple[str, str], Entry] = {}
    for module in timm.list_modules():
        for name in timm.list_models(module=module):
            if name.startswith("test_"):
                continue
            entry = _timm_entry(name, module)
            series = (module, SERIES.findall(entry.spec)[0])
            smallest[series] = min(smallest.get(series, entry), entry, key=lambda e: (e.parameters, e.spec))
    return sorted(smallest.values(), key=lambda entry: (entry.family, entry.parameters, entry.spec))


def _timm_entry(name: str, module: str) -> Entry:
    spec = f"timm:{name}"
    shape = networks.input_shape_of(spec)
    if shape is None:
        raise LookupError(f"timm does not say what input {name} takes; leave it out or name its shape here")
    return Entry(spec, f"timm.{module}", shape, _size(lambda: networks.build(spec)))


def _of_hugging_face() -> Iterator[Entry]:
    for spec, make in HUGGING_FACE.items():
        yield Entry(spec, "hf", TOKENS, _size(make))
