"""Masks in a file: one bool tensor a parameter."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from secateur._options import expect
from secateur.errors import FileFormatError, SettingsError
from secateur.store.tensor_file import read_header, write_tensors
from secateur.surgery import Masks


class _Document(BaseModel):
    """What the file says besides its tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["masks"] = "masks"
    format: Literal[1] = 1
    names: list[str]
    digest: str


def save_masks(masks: Masks, path: str | PathLike[str]) -> None:
    """Write masks as one ``.safetensors`` file, atomically; the same masks give the same bytes.

    Args:
        masks: Which weights stay.
        path: Where to write, ending in ``.safetensors``.

    Raises:
        SettingsError: The path ends otherwise, or these are no masks.
        StoreError: The file could not be written; an old one is as it was.

    Example:
        >>> import tempfile, torch
        >>> masks = Masks({"0.weight": torch.tensor([[True, False]])})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_masks(masks, f"{folder}/masks.safetensors")
        ...     load_masks(f"{folder}/masks.safetensors").kept
        {'0.weight': tensor([[ True, False]])}
    """
    expect("save_masks(masks, path)", masks=(masks, Masks), path=(path, (str, PathLike)))
    target = Path(path)
    if target.suffix != ".safetensors":
        raise SettingsError(
            f"cannot save to {target}: the name of a file of masks ends in .safetensors; rename it"
        )
    document = _Document(names=list(masks.kept), digest=masks.digest)
    write_tensors(target, masks.tensors(), document.model_dump())


def load_masks(path: str | PathLike[str]) -> Masks:
    """Read masks that :func:`save_masks` wrote.

    Raises:
        FileFormatError: The file holds no masks, is damaged, or of another version.
        StoreError: It cannot be read.
    """
    file = read_header(Path(path))
    try:
        document = _Document.model_validate(file.document)
    except ValidationError as error:
        raise FileFormatError(
            f"{path} holds no masks that this version of Secateur reads; name a file that secateur.store.save_masks wrote"
        ) from error
    try:
        masks = Masks.from_tensors(file.read(document.names))
    except SettingsError as error:
        raise FileFormatError(f"{path} is damaged: {error}; use another copy") from error
    if masks.digest != document.digest:
        raise FileFormatError(f"{path} is damaged: its masks are not those that were saved; use another copy")
    return masks
