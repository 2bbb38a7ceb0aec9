"""Find the channels of a network: watch one forward pass, try the cuts, say what was found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from secateur._model import left_as_found, uncollected, unwrapped
from secateur._options import expect
from secateur.channels.blame import guilty
from secateur.channels.dispatch import Pass
from secateur.channels.groups import INPUT, Attribute, Channels, Group, MacsTerm
from secateur.channels.inputs import kept_inputs
from secateur.channels.leaves import leaves_closed
from secateur.channels.mend import keep_in_step, repair
from secateur.channels.nested import ForwardFn, not_an_example, tensors_in, with_tensors
from secateur.channels.own import followed
from secateur.channels.sites import names_of, spot_of_error, text_of
from secateur.channels.ties import Attention, Ties
from secateur.channels.trial import Trial
from secateur.channels.units import Units
from secateur.errors import ModelError, SettingsError, WatchError

_READING = ("item()", "no data", "local_scalar_dense", "nonzero")
"""What PyTorch says where a number is asked of a meta tensor: ``.item()`` and ``if``, ``.numpy()``, masks as positions."""


def _batch_size(example: Any) -> int:
    first = next(tensors_in(example), None)
    return int(first.shape[0]) if first is not None and first.dim() else 1


def _watched(
    model: nn.Module,
    example: Any,
    *,
    meta: bool,
    inputs: bool,
    attention: Attention,
    forward_fn: ForwardFn | None,
) -> Pass:
    """The eval pass, and one in train mode where parts of the network run only there."""
    with left_as_found(model, values=not meta):
        watched = Pass(model, inputs=inputs, meta=meta, forward_fn=forward_fn, ties=Ties(attention=attention))
        model.eval()
        watched.run(example, counting=True)
        watched.run_in_train_mode(example)
    return watched


def _told(error: Exception) -> str:
    """An error of somebody's forward in one line."""
    lines = str(error).strip().split("\n")
    text = next((line.strip() for line in lines if line.strip()), "without a message")
    return f"{type(error).__name__}: {text[:200]}"


def watch(
    model: nn.Module,
    example: Any,
    *,
    inputs: bool = False,
    attention: Attention = "heads",
    forward_fn: ForwardFn | None = None,
) -> Channels:
    """Find the channels of a network by watching one forward pass.

    The pass runs on meta tensors: no arithmetic is done. Every operator says which axes are the same axis; what is tied
    together becomes one unit. Then cuts are tried on a copy without values: where the network's own code pins a size, an
    integer among its modules' attributes is found that must follow the cut, or else the group stays whole and says which
    line pins it. A network whose forward reads values is watched on real tensors instead. The network runs in
    eval mode (and once more in train mode, if some of its tensors are used only there) and is left as found.

    Args:
        model: The network.
        example: An input as the network takes it: a tensor with a batch axis, a tuple of arguments, or a dictionary of
            keyword arguments. Values do not matter, shapes do.
        inputs: Whether the features of the (first) input may be removed too: its channels, or single positions where the
            network flattens it at once.
        attention: What of attention may go: whole ``heads``, or positions of the ``width`` that all heads of a layer have. The
            second is not exact: products of queries and keys are those of the positions that are left, and most networks'
            code divides them by the root of the width. No layer reads queries and keys, so score them by their weights (``l1``).
            Other products of two activations can lose their terms then, too. Where heads have a norm of their own, or positions that are turned
            (rotary ones), whole heads go all the same.
        forward_fn: How you run the network, where that is not ``model(example)``: ``forward_fn(model, example)``. The example holds its
            tensors in tuples, lists, dictionaries (a mapping of another class is handed on as a plain one) or dataclasses. The tensors in
            what it returns keep their channels.

    Returns:
        The groups of channels, what is fixed and why, the operators without a rule, and what everything costs.

    Raises:
        WatchError: The forward pass failed.
        ModelError: A tensor has no shape yet.
        SettingsError: ``attention`` is neither, or ``model`` is no network.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
        >>> watch(net, torch.zeros(1, 1, 8, 8)).groups
        (Group('0', width=4: 0.weight[0] write, 0.bias[0] carry, 3.weight[1] read),)
    """
    expect("watch(model, example)", model=(model, nn.Module))
    if attention not in get_args(Attention):
        raise SettingsError(f"attention={attention!r} must be 'heads' or 'width'")
    model = unwrapped(model)
    lazy = next((name for name, parameter in model.named_parameters() if is_lazy(parameter)), None)
    if lazy is not None:
        raise ModelError(f"{lazy!r} has no shape yet; run the network once on data, then watch it")
    example = _in_format_of(model, example)
    if inputs:
        example = _kept_features(model, example)
    with leaves_closed(), uncollected():
        watched = _watched_somehow(model, example, inputs=inputs, attention=attention, forward_fn=forward_fn)
        return _channels(model, watched, example)


def _watched_somehow(
    model: nn.Module,
    example: Any,
    *,
    inputs: bool = False,
    attention: Attention = "heads",
    forward_fn: ForwardFn | None = None,
) -> Pass:
    """Watched on meta tensors, or on real ones where the network's forward reads values."""
    try:
        return _watched(model, example, meta=True, inputs=inputs, attention=attention, forward_fn=forward_fn)
    except WatchError:
        raise
    except Exception as first:  # any error of the user's forward; told below if it stays
        try:
            watched = _watched(
                model, example, meta=False, inputs=inputs, attention=attention, forward_fn=forward_fn
            )
        except Exception as error:
            wrong = "" if forward_fn is not None else not_an_example(example)
            if wrong:
                raise WatchError(f"the network's forward pass failed, because {wrong}") from error
            shapes = [tuple(tensor.shape) for tensor in tensors_in(example)]
            raise WatchError(
                f"the network's forward pass failed on an input of shape {', '.join(map(str, shapes)) or 'none'}:"
                f" {_told(error)}; pass an example that the network takes"
            ) from error
        found = spot_of_error(first, names_of(model))
        where = f" at {text_of(found.site)}" if found is not None else ""
        if _reads_values(first):
            watched.ties.values_read = where.removeprefix(" at ") or "a place that is not known"
            watched.ties.notes.append(f"watched on real tensors, because the forward reads values{where}")
        else:
            watched.ties.notes.append(
                f"watched on real tensors, because on meta tensors the forward fails{where}: {_told(first)}"
            )
        return watched


def _reads_values(error: Exception) -> bool:
    """Whether a pass on meta tensors failed because it asked for a number that a tensor holds."""
    said = str(error)
    return any(words in said for words in _READING)


def untried(model: nn.Module, example: Any) -> tuple[Group, ...]:
    """The groups as the rules of operators alone have them, before cuts are tried."""
    with leaves_closed():
        watched = _watched_somehow(model, _in_format_of(model, example))
        watched.close()
        return Units(watched.ties, _kind_of(model)).groups


def _in_format_of(model: nn.Module, example: Any) -> Any:
    """The example in the network's number format, where it has a single one: only shapes matter."""
    formats = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if len(formats) != 1:
        return example
    (dtype,) = formats
    return with_tensors(example, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def _kept_features(model: nn.Module, example: Any) -> Any:
    """An example of the features that a network still reads, so that these can be cut further."""
    kept = kept_inputs(model)
    if kept is None or not isinstance(example, torch.Tensor):
        return example
    x = example.flatten(1) if kept.axis == -1 else example
    return x.narrow(1, 0, len(kept.indices)) if x.shape[1] == kept.size else x


def _kind_of(model: nn.Module) -> Callable[[str], str]:
    return lambda tensor: type(model.get_submodule(tensor.rpartition(".")[0])).__name__


def _try_cuts(trial: Trial) -> None:
    """Try, mend, leave whole, until a trial succeeds."""
    failure = trial.attempt(trial.repairs)
    while failure is not None:
        mended = repair(trial, failure) or keep_in_step(trial, failure)
        if mended is not None:
            failure = mended[0]
            continue
        trial.leave(guilty(trial, failure), failure)
        failure = trial.attempt(trial.repairs)


def _leave_unread(trial: Trial) -> None:
    """Fix what only statistics read, such as outputs of which the greatest is taken: no layer would learn of a cut."""
    if trial.watched.ties.attention == "width":  # queries and keys have no reader
        return
    unread = [
        group
        for group in trial.units.groups
        if not group.exact
        and not group.by_role("read", "input")
        and not any(member.axis for member in group.by_role("carry"))  # a weight computed from it may read
    ]
    if unread:
        trial.fix(unread, "is read by no layer, only by a statistic")


def _channels(model: nn.Module, watched: Pass, example: Any) -> Channels:
    unused = watched.close()
    ties = watched.ties
    trial = Trial(model, example, watched, _kind_of(model), repairs=followed(model, ties))
    _leave_unread(trial)
    with left_as_found(model, values=not watched.meta):
        model.eval()
        _try_cuts(trial)
    units = trial.units
    tensors = {base.tensor for base in ties.bases} - {INPUT}
    own = {name: tensor for name, tensor in _state(model).items() if name in tensors or tensor.dim() == 0}
    batch = _batch_size(example)
    macs = tuple(
        MacsTerm(product.count / batch, tuple(units.units(labels) for labels in product.factors))
        for product in ties.products
    )
    attributes = tuple(
        Attribute(repair.module, repair.attribute, repair.index, units.units(repair.labels))
        for repair in trial.repairs
    )
    return Channels(
        groups=units.groups,
        fixed=tuple(one for one in units.fixed(unused) if not _counts(own[one.tensor])),
        unknown_ops=dict(ties.unknown),
        shapes={name: tuple(tensor.shape) for name, tensor in own.items()},
        trainable=frozenset(name for name, _ in model.named_parameters()),
        bytes_per_item={name: tensor.element_size() for name, tensor in own.items()},
        macs=macs,
        biases=dict(ties.biases),
        digest=digest_of(model),
        notes=tuple(ties.notes),
        values_read=ties.values_read,
        attributes=attributes,
    )


def _counts(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds positions or masks, which no cut would be expected of."""
    return not (tensor.is_floating_point() or tensor.is_complex())


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def digest_of(model: nn.Module) -> str:
    """A short fingerprint of a network's class and of the names and shapes of its tensors."""
    lines = [type(model).__qualname__]
    lines += [f"{name} {tuple(tensor.shape)}" for name, tensor in _state(model).items()]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=12).hexdigest()
