"""What a file says of a network besides its tensors, as documents that check themselves."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from secateur._options import Written
from secateur.plan.decompose import Kind

MemoryFormat = Literal["channels_last", "channels_last_3d"]
Count = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """Base of what is read from files: nothing is converted, nothing unknown is let through."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class OriginDocument(Strict):
    """How to build the network as it was before it was reduced."""

    spec: str
    arguments: dict[str, JsonValue]


class InputsDocument(Strict):
    """Which features of its input a reduced network still reads."""

    axis: int
    indices: list[Count]
    size: Count

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if any(index >= self.size for index in self.indices):
            raise ValueError(f"an index lies beyond the {self.size} features of the input")
        return self


class SettingDocument(Strict):
    """An integer that a module keeps, and what it is now."""

    module: str
    name: str
    index: Annotated[int, Field(ge=0)] | None
    value: Annotated[int, Field(ge=1)]


class BlockDocument(Strict):
    """A block that was taken out, and whether it is called with one argument."""

    name: Annotated[str, Field(min_length=1)]
    alone: bool


_NOT_DEEP = r"^[^.]+(\.[^.]+){0,63}$"
"""A module's name. Deeper ones than any network has would only exhaust who builds it."""


class ReplacedDocument(Strict):
    """A layer that was replaced by smaller ones: by what kind, and which parts a Tucker-2 has. Their sizes are those of the tensors."""

    name: Annotated[str, Field(min_length=1, pattern=_NOT_DEEP)]
    kind: Kind
    parts: list[Literal["first", "core", "last"]]


class GateDocument(Strict):
    """A convolution that reads and writes only some of the channels that it shares with others."""

    layer: Annotated[str, Field(min_length=1, pattern=_NOT_DEEP)]
    reads: Annotated[list[Count], Field(min_length=1)] | None
    writes: Annotated[list[Count], Field(min_length=1)] | None
    width: Count

    @model_validator(mode="after")
    def _inside(self) -> Self:
        for places in (self.reads or [0], self.writes or [0]):
            if places != sorted({*places}):
                raise ValueError("positions of a gate are ascending, each once")
        if self.writes is not None and self.writes[-1] >= self.width:
            raise ValueError(f"a gate writes beyond the {self.width} channels of its convolution")
        return self


class StateDocument(Strict, Written):
    """What a network is besides the values of its tensors.

    Attributes:
        origin: How to build the unreduced network, or None.
        dtypes: The number type of every tensor.
        aliases: Names that stand for another tensor of the file (tied weights).
        memory_formats: Tensors that are not laid out in row order.
        buffers: Which tensors are buffers; the others are parameters.
        frozen: Parameters that need no gradient.
        training: The mode of the network.
        other_mode: Modules in the other mode.
        changes: The changes that made the network from the unreduced one.
        inputs: The kept features of the input, or None for all.
        settings: Integers that modules keep, which have followed cuts.
        blocks: Blocks that are gone whole.
        replaced: Layers that were replaced by smaller ones, in the order in which they were.
        gates: Convolutions that read and write only some channels.
    """

    written_if_used: ClassVar[frozenset[str]] = frozenset({"settings", "blocks", "replaced", "gates"})

    origin: OriginDocument | None
    dtypes: dict[str, str]
    aliases: dict[str, str]
    memory_formats: dict[str, MemoryFormat]
    buffers: list[str]
    frozen: list[str]
    training: bool
    other_mode: list[str]
    changes: list[JsonValue]
    inputs: InputsDocument | None
    settings: list[SettingDocument] = []
    blocks: list[BlockDocument] = []
    replaced: list[ReplacedDocument] = []
    gates: list[GateDocument] = []


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found, in one line."""
    problem = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc']) or 'the document'}: {problem['msg']}"
