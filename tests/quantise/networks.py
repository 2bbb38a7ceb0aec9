"""Networks that quantisation is tried on."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from secateur.testing import Wired


def mobile() -> Wired:
    """What mobile networks are made of: depthwise convolutions, gates, hard-swish, ReLU6, an addition."""

    def wiring(m, x):
        x = F.hardswish(m.stem_norm(m.stem(x)))
        y = F.relu6(m.deep_norm(m.deep(x)))
        gate = F.hardsigmoid(m.expand(F.relu(m.squeeze(y.mean((2, 3), keepdim=True)))))
        x = x + m.out_norm(m.out(y * gate))
        x = F.silu(m.last(F.max_pool2d(x, 2)))
        return m.head(F.adaptive_avg_pool2d(x, 1).flatten(1))

    torch.manual_seed(0)
    model = Wired(
        wiring,
        stem=nn.Conv2d(1, 8, 3, padding=1, bias=False),
        stem_norm=nn.BatchNorm2d(8),
        deep=nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        deep_norm=nn.BatchNorm2d(8),
        squeeze=nn.Conv2d(8, 4, 1),
        expand=nn.Conv2d(4, 8, 1),
        out=nn.Conv2d(8, 8, 1, bias=False),
        out_norm=nn.BatchNorm2d(8),
        last=nn.Conv2d(8, 12, 3, padding=1),
        head=nn.Linear(12, 10),
    )
    return with_statistics(model)


def with_statistics(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Norms with scales, shifts and statistics of their own, so that folding has something to do."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                for tensor, low, high in (
                    (module.weight, 0.5, 2.0),
                    (module.bias, -0.5, 0.5),
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.3, 3.0),
                ):
                    if tensor is not None:
                        tensor.uniform_(low, high, generator=generator)
    return model.eval()
