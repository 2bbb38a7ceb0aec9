"""A network as tensors and a small document, and back: what files and snapshots both hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur.channels.attributes import fit_attributes, integers_of, set_attribute
from secateur.channels.inputs import ATTRIBUTE as INPUTS
from secateur.channels.inputs import keep_inputs
from secateur.errors import FileFormatError, ModelError
from secateur.networks import Origin, origin_of, set_origin
from secateur.store.documents import canonical_json
from secateur.store.records import MemoryFormat, SettingDocument, StateDocument, first_problem
from secateur.store.tensor_file import DTYPE_NAMES
from secateur.surgery.apply import CHANGES, SETTINGS
from secateur.surgery.blocks import BLOCKS, rebuilt_without
from secateur.surgery.gating import Gate, gates_of, misfit, put_gates
from secateur.surgery.replaced import REPLACED, rebuilt_with

_FORMATS: Mapping[MemoryFormat, tuple[torch.memory_format, int]] = {
    "channels_last": (torch.channels_last, 4),
    "channels_last_3d": (torch.channels_last_3d, 5),
}

_OTHER_NETWORK = "it was made from another network or version: pass the right factory="


def describe(model: nn.Module, *, origin: Origin | None) -> tuple[dict[str, Tensor], StateDocument]:
    """Take a network apart. The tensors are the network's own, not copies.

    Raises:
        ModelError: Something in the network cannot be held in a file.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[object, str] = {}
    for name, tensor in _slots(model):
        _check_tensor(name, tensor)
        home = first.setdefault(_identity(tensor), name)
        if home == name:
            tensors[name] = tensor
        else:
            aliases[name] = home
    for name, module in _modules(model):
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise ModelError(
                f"{name or 'the network'} ({type(module).__name__}) keeps extra state that is not a tensor; register it"
                " as a buffer so that it can be saved"
            )
    formats = {name: _format_of(tensor) for name, tensor in tensors.items()}
    parameters = {name for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}
    document: dict[str, Any] = {
        "origin": None if origin is None else {"spec": origin.spec, "arguments": origin.arguments},
        "dtypes": {name: DTYPE_NAMES[tensor.dtype] for name, tensor in tensors.items()},
        "aliases": aliases,
        "memory_formats": {name: found for name, found in formats.items() if found is not None},
        "buffers": sorted(tensors.keys() - parameters),
        "frozen": sorted(name for name in parameters if not tensors[name].requires_grad),
        "training": model.training,
        "other_mode": sorted(name for name, module in _modules(model) if module.training != model.training),
        "changes": getattr(model, CHANGES, []),
        "inputs": getattr(model, INPUTS, None),
        "settings": getattr(model, SETTINGS, []),
        "blocks": getattr(model, BLOCKS, []),
        "replaced": getattr(model, REPLACED, []),
        "gates": [asdict(one) for one in gates_of(model)],
    }
    text = canonical_json(document, what="the network's record of changes")
    try:
        return tensors, StateDocument.model_validate_json(text)
    except ValidationError as error:
        raise ModelError(f"the network's own records have the wrong shape: {first_problem(error)}") from error


def rebuild(
    build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], state: StateDocument, *, source: str
) -> nn.Module:
    """Build the unreduced network and give it the tensors, attributes, mode and records of the described one.

    It is built on the meta device, without allocating or drawing its initial weights, unless that fails or leaves some
    tensor without values (one that is no parameter and no buffer); then it is built again for real. The random state is
    left as it was.

    Args:
        build: Makes the unreduced network.
        tensors: The tensors; the network takes them over.
        state: The rest.
        source: How errors name what is being read.

    Raises:
        FileFormatError: The tensors do not belong to the network that `build` makes.
    """
    with _random_state_kept():
        model = _built_on_meta(build)
        if model is not None:
            model = _placed(model, tensors, state, source=source)
        if model is None or any(tensor.is_meta for tensor in _reachable(model)):
            model = _placed(build(), tensors, state, source=source)
    for module in model.modules():
        fit_attributes(module)
    _set(model, state.settings, source=source)
    model.train(state.training)
    for name in state.other_mode:
        _module(model, name).training = not state.training
    if state.origin is not None:
        set_origin(model, Origin(state.origin.spec, state.origin.arguments))
    if state.changes:
        setattr(model, CHANGES, list(state.changes))
    if state.settings:
        setattr(model, SETTINGS, [entry.model_dump() for entry in state.settings])
    if state.blocks:
        setattr(model, BLOCKS, [entry.model_dump() for entry in state.blocks])
    if state.replaced or hasattr(model, REPLACED):
        setattr(model, REPLACED, [entry.model_dump() for entry in state.replaced])
    if state.inputs is not None:
        keep_inputs(model, state.inputs.indices, axis=state.inputs.axis, size=state.inputs.size)
    return model


def _set(model: nn.Module, settings: Sequence[SettingDocument], *, source: str) -> None:
    """Give integers that modules keep their values."""
    modules = dict(_modules(model))
    for entry in settings:
        module = modules.get(entry.module)
        known = () if module is None else [(name, index) for name, index, _ in integers_of(module)]
        if module is None or (entry.name, entry.index) not in known:
            raise FileFormatError(
                f"{source} sets {entry.name!r} of {entry.module!r}, which keeps no such integer; it is of another network"
            )
        set_attribute(module, entry.name, entry.index, entry.value)


def model_snapshot(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A network as tensors (its own, not copies) and a small JSON document, for a snapshot of a run.

    Raises:
        ModelError: Something in the network cannot be held in a file.

    >>> tensors, document = model_snapshot(nn.Linear(3, 2).eval())
    >>> list(tensors), document["training"]
    (['weight', 'bias'], False)
    """
    tensors, state = describe(model, origin=origin_of(model))
    return tensors, state.model_dump()


def restore_model(
    build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], document: Mapping[str, Any]
) -> nn.Module:
    """The network that `model_snapshot` took apart; the inverse of it.

    Args:
        build: Makes the unreduced network; its weights do not matter.
        tensors: The tensors of the snapshot; the network takes them over.
        document: The document of the snapshot.

    Raises:
        FileFormatError: The document is not one of a network, or the tensors are not those of what `build` makes.
    """
    try:
        state = StateDocument.model_validate(document)
    except ValidationError as error:
        raise FileFormatError(
            f"the snapshot does not describe a network ({first_problem(error)}); reopen another step"
        ) from error
    return rebuild(build, tensors, state, source="the snapshot")


def _random_state_kept() -> AbstractContextManager[Any]:
    return cast("Any", torch.random).fork_rng(devices=())


def _built_on_meta(build: Callable[[], nn.Module]) -> nn.Module | None:
    """The network without values, or None where its constructor needs values."""
    try:
        with torch.device("meta"):
            return build()
    except (
        Exception
    ):  # a constructor may fail in any way on meta tensors; if it fails for real too, that is raised
        return None


def _modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(cast("Any", model).named_modules())


def _module(model: nn.Module, path: str) -> nn.Module:
    return cast("Any", model).get_submodule(path)


def _slots(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer by name, tied ones under each of their names, buffers that are not saved included.

    Those too may have been cut, and then the unreduced network does not bring them back.
    """
    return itertools.chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )


def _identity(tensor: Tensor) -> object:
    """Equal for tensors that are the same memory seen in the same way, and of the same kind."""
    if tensor.numel() == 0:
        return id(tensor)
    kind = isinstance(tensor, nn.Parameter)
    return (kind, tensor.device, tensor.dtype, tensor.data_ptr(), tuple(tensor.shape), tensor.stride())


def _check_tensor(name: str, tensor: Tensor) -> None:
    reason = None
    if is_lazy(tensor):
        reason = "has no shape yet; run the network once"
    elif tensor.is_meta:
        reason = "is on the meta device and has no values; load its weights"
    elif tensor.layout != torch.strided or tensor.is_quantized:
        reason = "is sparse or quantised, which these files do not hold; make it dense"
    elif tensor.dtype not in DTYPE_NAMES:
        reason = f"has dtype {tensor.dtype}, which files cannot hold; convert it, to float32 say"
    if reason is not None:
        raise ModelError(f"the network cannot be saved: {name} {reason}")


def _format_of(tensor: Tensor) -> MemoryFormat | None:
    if tensor.numel() == 0:
        return None
    plain = torch.empty(tensor.shape, device="meta").stride()
    for name, (memory_format, dimensions) in _FORMATS.items():
        if tensor.dim() == dimensions and tensor.stride() != plain:
            wanted = torch.empty(tensor.shape, device="meta", memory_format=memory_format).stride()
            if tensor.stride() == wanted:
                return name
    return None


def _placed(model: object, tensors: Mapping[str, Tensor], state: StateDocument, *, source: str) -> nn.Module:
    """The built network with its layers replaced, without the blocks that are gone, with every parameter and buffer replaced."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"the factory returned a {type(model).__name__}; a torch.nn.Module is wanted")
    unknown = rebuilt_with(model, [entry.model_dump() for entry in state.replaced])
    if unknown is not None:
        raise FileFormatError(
            f"{source} replaces a layer {unknown!r}, which the network does not have as one; {_OTHER_NETWORK}"
        )
    strange = rebuilt_without(model, [entry.model_dump() for entry in state.blocks])
    if strange:
        raise FileFormatError(
            f"{source} leaves out a block {strange[0]!r}, which the network does not have; {_OTHER_NETWORK}"
        )
    _put_gates(model, state, tensors, source=source)
    values = {name: _laid_out(name, tensor, state, source=source) for name, tensor in tensors.items()}
    wanted = {name: state.aliases.get(name, name) for name in (*values, *state.aliases)}
    _check_names(model, wanted, source=source)
    _check_tensors(model, wanted, tensors, state, source=source)
    for home, value in values.items():
        trains = home not in state.frozen and (value.is_floating_point() or value.is_complex())
        tensor = value if home in state.buffers else nn.Parameter(value, requires_grad=trains)
        for name in (home, *(name for name, other in state.aliases.items() if other == home)):
            path, _, leaf = name.rpartition(".")
            owner = _module(model, path)
            setattr(owner, leaf, tensor)
    return model


def _put_gates(model: nn.Module, state: StateDocument, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """The recorded gates, around convolutions of the network for which the file has the weights."""
    there = {one.layer for one in gates_of(model)}  # of a network that was built with gates
    gates = [Gate(e.layer, _places(e.reads), _places(e.writes), e.width) for e in state.gates]
    gates = [one for one in gates if one.layer not in there]
    strange = misfit(model, gates)
    if strange is not None:
        raise FileFormatError(
            f"{source} puts a gate around {strange!r}, which the network does not have as a convolution; {_OTHER_NETWORK}"
        )
    for one in gates:
        weight = tensors.get(f"{one.layer}.layer.weight")
        sizes = (one.width if one.writes is None else len(one.writes), one.reads and len(one.reads))
        if (
            weight is None
            or weight.dim() < 3
            or weight.shape[0] != sizes[0]
            or sizes[1] not in (None, weight.shape[1])
        ):
            raise FileFormatError(
                f"{source} is damaged: the weights of {one.layer!r} are not those for its gate; use another copy"
            )
    put_gates(model, gates)


def _places(entries: list[int] | None) -> tuple[int, ...] | None:
    return None if entries is None else tuple(entries)


def _check_names(model: nn.Module, wanted: Mapping[str, str], *, source: str) -> None:
    """The names are those of the network, no more and no fewer."""
    built = dict(_slots(model))
    missing = sorted(built.keys() - wanted.keys())
    if missing:
        raise FileFormatError(
            f"{source} has no tensor {missing[0]!r}, which the network needs{_and_more(missing)};"
            f" {_OTHER_NETWORK}"
        )
    strange = sorted(name for name in wanted.keys() - built.keys() if not _is_empty_slot(model, name))
    if strange:
        raise FileFormatError(
            f"{source} has a tensor {strange[0]!r}, which the network does not have{_and_more(strange)};"
            f" {_OTHER_NETWORK}"
        )


def _check_tensors(
    model: nn.Module,
    wanted: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    state: StateDocument,
    *,
    source: str,
) -> None:
    """The tensors and the document agree, and their numbers of axes are the network's."""
    built = dict(_slots(model))
    for name, home in wanted.items():
        if home not in tensors:
            raise FileFormatError(
                f"{source} is damaged: {name!r} stands for {home!r}, which it does not hold; use another copy"
            )
        found = DTYPE_NAMES.get(tensors[home].dtype)
        if found != state.dtypes.get(home):
            raise FileFormatError(
                f"{source} is damaged: {home!r} is {found}, its description says {state.dtypes.get(home)};"
                " use another copy"
            )
        if name in built and isinstance(built[name], nn.Parameter) == (home in state.buffers):
            raise FileFormatError(
                f"{source} has {name!r} as a {'buffer' if home in state.buffers else 'parameter'}, the network does not;"
                f" {_OTHER_NETWORK}"
            )
        if name in built and built[name].dim() != tensors[home].dim():
            raise FileFormatError(
                f"{source} has {name!r} with {tensors[home].dim()} axes, the network's has {built[name].dim()};"
                f" {_OTHER_NETWORK}"
            )
    modules = {name for name, _ in _modules(model)}
    strange = sorted(set(state.other_mode) - modules)
    if strange:
        raise FileFormatError(
            f"{source} sets the mode of {strange[0]!r}, which the network does not have; {_OTHER_NETWORK}"
        )


def _and_more(names: list[str]) -> str:
    return f" (nor {len(names) - 1} more)" if len(names) > 1 else ""


def _is_empty_slot(model: nn.Module, name: str) -> bool:
    """Whether the network has a place of that name that holds nothing, as ``bias=False`` leaves one."""
    path, _, leaf = name.rpartition(".")
    try:
        owner = _module(model, path)
    except AttributeError:
        return False
    return hasattr(owner, leaf) and getattr(owner, leaf) is None


def _laid_out(name: str, tensor: Tensor, state: StateDocument, *, source: str) -> Tensor:
    if name not in state.memory_formats:
        return tensor
    memory_format, dimensions = _FORMATS[state.memory_formats[name]]
    if tensor.dim() != dimensions:
        raise FileFormatError(
            f"{source} is damaged: {name!r} has {tensor.dim()} axes and cannot be {state.memory_formats[name]};"
            " use another copy"
        )
    # Not `contiguous`, which keeps the strides where one order looks like the other (1x1 kernels).
    return torch.empty_like(tensor, memory_format=memory_format).copy_(tensor)


def _reachable(model: nn.Module) -> Iterator[Tensor]:
    """Tensors of the network, those that modules hold as plain attributes included."""
    for module in model.modules():
        yield from _tensors_in(vars(module))


def _tensors_in(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in cast("Mapping[object, object]", value).values():
            yield from _tensors_in(item)
    elif isinstance(value, list | tuple | set):
        for item in cast("list[object]", value):
            yield from _tensors_in(item)
