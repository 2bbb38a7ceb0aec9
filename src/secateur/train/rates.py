"""The optimiser that the settings ask for, and its learning rate at every step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from secateur.errors import ModelError
from secateur.train.settings import TrainSettings


def learning_rate(settings: TrainSettings, *, step: int, steps_per_epoch: int) -> float:
    r"""The learning rate of one step.

    Warm-up over w steps is :math:`\eta (s+1)/w`. After it, with t the share of the remaining steps that is done:
    constant :math:`\eta`, linear :math:`\epsilon + (\eta - \epsilon)(1-t)`, cosine
    :math:`\epsilon + (\eta - \epsilon)(1 + \cos \pi t)/2`, with :math:`\epsilon` the rate at the end (``lr_end``).

    Args:
        settings: Rate, schedule, warm-up and number of epochs.
        step: Steps done so far, from 0.
        steps_per_epoch: Steps in one epoch.

    Returns:
        The rate. Never negative; past the last step it stays at the end's value.

    Example:
        >>> warm = TrainSettings(epochs=4, lr=1.0, schedule="linear", warmup_epochs=2)
        >>> [learning_rate(warm, step=s, steps_per_epoch=1) for s in range(5)]
        [0.5, 1.0, 1.0, 0.5, 0.0]

    Source:
        Cosine: Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts. Warm-up: Goyal et al. 2017,
        arXiv:1706.02677.
    """
    warm = round(settings.warmup_epochs * steps_per_epoch)
    if step < warm:
        return settings.lr * (step + 1) / warm
    left = settings.epochs * steps_per_epoch - warm
    done = min((step - warm) / left, 1.0) if left else 1.0
    if settings.schedule == "linear":
        return settings.lr_end + (settings.lr - settings.lr_end) * (1.0 - done)
    if settings.schedule == "cosine":
        return settings.lr_end + (settings.lr - settings.lr_end) * 0.5 * (1.0 + math.cos(math.pi * done))
    return settings.lr


def make_optimizer(parameters: Iterable[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser that the settings name, in its fused form where one exists.

    Args:
        parameters: What to train; parameters that need no gradient are left out.
        settings: Rule, rate, momentum, weight decay.

    Returns:
        A new optimiser.

    Raises:
        ModelError: Nothing is trainable.

    Example:
        >>> type(make_optimizer(nn.Linear(2, 2).parameters(), TrainSettings(optimizer="adam"))).__name__
        'Adam'
    """
    trainable = [p for p in parameters if p.requires_grad]
    if not trainable:
        raise ModelError(
            "the network has no parameter that can be trained: all are frozen or there are none; "
            "set requires_grad on those to train"
        )
    lr, decay = settings.lr, settings.weight_decay
    # A fused step undoes the scaling of 16-bit gradients itself, too late for clipping, which only happens on a GPU.
    devices = {parameter.device.type for parameter in trainable}
    fused = devices == {"cpu"} or (devices == {"cuda"} and settings.clip is None)
    if settings.optimizer == "adam":
        return torch.optim.Adam(trainable, lr=lr, weight_decay=decay, fused=fused)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(trainable, lr=lr, weight_decay=decay, fused=fused)
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            trainable, lr=lr, weight_decay=decay, momentum=settings.momentum, foreach=True
        )
    return torch.optim.SGD(
        trainable,
        lr=lr,
        weight_decay=decay,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        fused=fused,
    )
