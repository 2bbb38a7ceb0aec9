"""The models of benchmarks/coverage.py: which they are, how each is built, and an input that it takes.

They stand in coverage_models.txt, so that the list stays the same; `python benchmarks/coverage.py --choose` writes it anew.
No weights are downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur import networks
from secateur.errors import ModelError

LIST = Path(__file__).with_name("coverage_models.txt")
IMAGE, LARGER_IMAGE, SSD_IMAGE = (3, 224, 224), (3, 299, 299), (3, 320, 320)
CLIP, SMALL_CLIP = (3, 16, 224, 224), (3, 8, 112, 112)
TOKENS = (16,)
VOCABULARY = 1000
"""Token numbers of examples are below it; every vocabulary here is larger."""
SERIES = re.compile(r"timm:([a-z]+)")
HEAD = """\
# The models of benchmarks/coverage.py: specification, family, input without the batch, parameters.
# Written by `python benchmarks/coverage.py --choose`: all of torchvision's classification, segmentation and video models,
# and the backbones and heads of its detectors (detector:*, without what chooses boxes);
# of timm the smallest model of every series in every module (a series: the letters that its name begins with), as timm
# configures it, without the models that timm keeps for its own tests (test_*); encoders and decoders of transformers.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the list.

    Attributes:
        spec: What builds it: ``torchvision:NAME``, ``detector:NAME``, ``timm:NAME`` or ``hf:NAME``.
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
    if spec in HUGGING_FACE:
        model = HUGGING_FACE[spec]()
    elif spec.startswith("detector:"):
        model = Detector(spec.removeprefix("detector:"))
    else:
        model = networks.build(spec, seed=0)
    return model.eval()


def example_of(entry: Entry, *, batch: int = 1) -> Tensor | dict[str, Tensor]:
    """A random input of a model, always the same: images, clips, sounds, or token numbers with their mask."""
    generator = torch.Generator().manual_seed(1)
    size = (batch, *entry.shape)
    if entry.shape == TOKENS:
        tokens = torch.randint(1, VOCABULARY, size, generator=generator)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return torch.randn(size, generator=generator)


class Detector(nn.Module):
    """Backbone and heads of one of torchvision's detectors.

    What chooses boxes holds no weights, and parts of it need operators that not every build of torchvision has. Where heads
    read what was cut out of the features at the boxes, they are given all of the features, pooled to the same size.
    """

    def __init__(self, name: str) -> None:
        """Build the detector and keep what has weights."""
        from torchvision import models

        super().__init__()
        whole = models.get_model(name, weights=None, weights_backbone=None)
        self.backbone = whole.backbone
        if hasattr(whole, "rpn"):
            self.head, self.regions = whole.rpn.head, whole.roi_heads
        else:
            self.head, self.regions = whole.head, None

    def forward(self, images: Tensor) -> list[Tensor]:
        """What the heads say of images ``[b, 3, height, width]``."""
        features = list(self.backbone(images).values())
        outputs = list(_flat(self.head(features)))
        if self.regions is not None:
            for kind in ("box", "mask", "keypoint"):
                if getattr(self.regions, f"{kind}_head", None) is not None:
                    size = getattr(self.regions, f"{kind}_roi_pool").output_size
                    pooled = nn.functional.adaptive_avg_pool2d(features[0], size)
                    read = getattr(self.regions, f"{kind}_head")(pooled)
                    outputs += _flat(getattr(self.regions, f"{kind}_predictor")(read))
        return outputs


def _flat(made: Any) -> Iterator[Tensor]:
    """The tensors of a head's result: one, several, or several by name."""
    if isinstance(made, Tensor):
        yield made
    else:
        for part in made.values() if isinstance(made, dict) else made:
            yield from _flat(part)


def _encoder(name: str, **sizes: Any) -> Callable[[], nn.Module]:
    """A model of transformers by the name of its class, with small sizes; its configuration has the name of the model."""

    def make() -> nn.Module:
        import transformers

        kind = getattr(transformers, name)
        return kind(kind.config_class(**sizes))

    return make


def _whisper() -> nn.Module:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    sizes = {"d_model": 128, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 512}
    return WhisperEncoder(WhisperConfig(**sizes, max_source_positions=50))


_TINY = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
_SMALL_IMAGES = {"image_size": 64, "patch_size": 16}
HUGGING_FACE: dict[str, Callable[[], nn.Module]] = {
    "hf:bert-tiny": _encoder(
        "BertForSequenceClassification", **{**_TINY, "num_attention_heads": 2}, pad_token_id=0
    ),
    "hf:gpt2": _encoder("GPT2LMHeadModel", use_cache=False),
    "hf:albert": _encoder("AlbertForSequenceClassification", **_TINY),
    "hf:clip-vision": _encoder("CLIPVisionModel", **_TINY, **_SMALL_IMAGES),
    "hf:deberta-v2": _encoder(
        "DebertaV2ForSequenceClassification", **_TINY,
        relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=32, vocab_size=VOCABULARY,
    ),
    "hf:dinov2": _encoder(
        "Dinov2ForImageClassification", **{**_TINY, "intermediate_size": None}, **_SMALL_IMAGES
    ),
    "hf:distilbert": _encoder(
        "DistilBertForSequenceClassification", dim=128, n_layers=2, n_heads=4, hidden_dim=512
    ),
    "hf:electra": _encoder("ElectraForSequenceClassification", **_TINY),
    "hf:llama": _encoder(
        "LlamaForSequenceClassification", **_TINY, num_key_value_heads=2, vocab_size=VOCABULARY, pad_token_id=0, use_cache=False
    ),
    "hf:modernbert": _encoder("ModernBertForSequenceClassification", **_TINY),
    "hf:mpnet": _encoder("MPNetForSequenceClassification", **_TINY),
    "hf:qwen3": _encoder(
        "Qwen3ForSequenceClassification", **_TINY,
        num_key_value_heads=2, head_dim=32, vocab_size=VOCABULARY, pad_token_id=0, use_cache=False,
    ),
    "hf:roberta": _encoder("RobertaForSequenceClassification", **_TINY),
    "hf:segformer": _encoder(
        "SegformerForImageClassification", hidden_sizes=[32, 64, 64, 128], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4]
    ),
    "hf:t5-encoder": _encoder("T5EncoderModel", d_model=128, d_kv=32, d_ff=512, num_layers=2, num_heads=4),
    "hf:vit": _encoder("ViTForImageClassification", **_TINY, **_SMALL_IMAGES),
    "hf:wav2vec2": _encoder("Wav2Vec2ForSequenceClassification", **_TINY, conv_dim=(64,) * 7),
    "hf:whisper-encoder": _whisper,
}  # fmt: skip
"""Encoders with their heads, and two decoders, as transformers builds them from a configuration: nothing is downloaded."""

HUGGING_FACE_SHAPES = {
    "hf:clip-vision": (3, 64, 64),
    "hf:dinov2": (3, 64, 64),
    "hf:segformer": (3, 64, 64),
    "hf:vit": (3, 64, 64),
    "hf:wav2vec2": (4000,),
    "hf:whisper-encoder": (80, 100),
}
"""What is not given tokens."""


def choose() -> None:
    """Write the list."""
    entries = [*_of_torchvision(), *_of_detectors(), *_of_timm(), *_of_hugging_face()]
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


def _of_detectors() -> Iterator[Entry]:
    from torchvision import models

    for name in models.list_models(module=models.detection):
        shape = SSD_IMAGE if name.startswith("ssd") else IMAGE
        yield Entry(
            f"detector:{name}", "torchvision.detection", shape, _size(lambda name=name: Detector(name))
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
        yield Entry(spec, "hf", HUGGING_FACE_SHAPES.get(spec, TOKENS), _size(make))
