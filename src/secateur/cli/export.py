"""``secateur export``: a network as a file that another runtime runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from secateur.cli import options as o
from secateur.cli import show
from secateur.cli.progress import doing
from secateur.cli.sources import Source, open_network
from secateur.errors import SettingsError
from secateur.export import export as export_to
from secateur.export import suffix_of
from secateur.report import text

Target = Annotated[str | None, typer.Option(help="litert, onnx, executorch or torch.", show_default=False)]
File = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="The file to write; by default beside the network's.",
        show_default=False,
    ),
]


def export(
    *,
    network: o.Network = None,
    target: Target = None,
    out: File = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            help="One example's sizes, such as 3,224,224, where the file does not say.", show_default=False
        ),
    ] = None,
    arg: o.Args = None,
    allow: o.Allow = None,
) -> None:
    """Write a network for another runtime, in float32; the file is checked against the network."""
    source = opened(network, target, arg=arg, allow=allow)
    wanted = named_for(source, str(target), out)
    shape = o.shape(input_shape) if input_shape else source.input_shape
    if shape is None:
        raise SettingsError(
            f"the shape of one example of {network} is not known; give it, as --input-shape 3,224,224"
        )
    example = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    there = wanted.exists()
    with doing(f"writing {wanted}"):
        made = export_to(source.model, example, wanted, target=str(target))
    console = show.console()
    console.print(
        f"{show.made(made.path, there=there)} ({text.size(made.bytes)}) for {made.target}: outputs differ from the network's by"
        f" {made.deviation:.1e} of the largest",
        soft_wrap=True,
    )


def opened(
    network: str | None, target: str | None, *, arg: list[str] | None, allow: list[str] | None
) -> Source:
    """The network of a command line that also names a target.

    Raises:
        SettingsError: One of the two is missing, or the target is unknown.
    """
    if network is None:
        raise SettingsError("name a network: a run folder, or a .safetensors file")
    if target is None:
        raise SettingsError("--target is missing; take litert, onnx, executorch or torch")
    suffix_of(target)
    return open_network(network, arguments=o.arguments(arg or ()), allow=allow or ())


def named_for(source: Source, target: str, out: Path | None, *, mode: str = "") -> Path:
    """The file to write: what was asked for, or one beside the network's.

    Raises:
        SettingsError: The network has no file, and none was asked for.
    """
    if out is not None:
        return out
    if source.file is None:
        raise SettingsError("a network without a file has no folder to write into; give --out FILE")
    return source.file.with_name(f"{source.file.stem}{mode}{suffix_of(target)}")
