"""What holds for a group's width however it is cut: found by watching, visible as data."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import secateur
from secateur.channels import Constraints
from secateur.errors import SettingsError
from secateur.testing import Wired


class Attention(nn.Module):
    """Fused queries, keys and values of four heads of width 4."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 48), nn.Linear(16, 8)

    def forward(self, x_bnd: torch.Tensor) -> torch.Tensor:
        b, n, _ = x_bnd.shape
        q, k, v = self.qkv(x_bnd).reshape(b, n, 3, -1, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


def conv(inside: int, outside: int, groups: int = 1) -> nn.Module:
    return nn.Conv2d(inside, outside, 3, padding=1, groups=groups)


IMAGE = torch.zeros(1, 3, 8, 8)
CASES = {
    "plain": (nn.Sequential(conv(3, 6), conv(6, 2)), IMAGE, {"0": ""}),
    "flattened": (
        nn.Sequential(conv(3, 6), nn.Flatten(), nn.Linear(6 * 64, 2)),
        IMAGE,
        {"0": ""},
    ),
    "gated": (
        nn.Sequential(nn.Linear(4, 12), nn.GLU(), nn.Linear(6, 2)),
        torch.zeros(1, 4),
        {"0": "2 equal shares"},
    ),
    "grouped": (
        nn.Sequential(conv(3, 8), conv(8, 12, 4), conv(12, 2)),
        IMAGE,
        {"0": "4 equal shares", "1": "4 equal shares"},
    ),
    "depthwise": (nn.Sequential(conv(3, 8), conv(8, 8, 8), conv(8, 2)), IMAGE, {"0": ""}),
    "heads": (Attention(), torch.zeros(1, 5, 8), {"qkv": "3 equal shares, whole blocks of 4"}),
    "repeated": (
        Wired(
            lambda m, x: m.b(m.a(x).view(-1, 6, 1) * m.c(x).view(-1, 6, 2)).flatten(1),
            a=nn.Linear(4, 6),
            c=nn.Linear(4, 12),
            b=nn.Linear(2, 2),
        ),
        torch.zeros(1, 4),
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_constraints_of_a_group_are_seen(name):
    """Equal shares and whole blocks stand on the group; where any number may stay, nothing does."""
    model, x, wanted = CASES[name]

    assert {g.name: str(g.constraints) for g in secateur.watch(model, x).groups} == wanted


@settings(deadline=None)
@given(
    units=st.integers(0, 70),
    width=st.integers(1, 64),
    minimum=st.integers(1, 40),
    block=st.sampled_from([1, 2, 3, 32]),
    grain=st.sampled_from([1, 4, 8, 16]),
)
def test_the_least_allowed_width(units, width, minimum, block, grain):
    """It is the smallest that is not below what was asked for and the minimum, in whole grains, or all there are."""
    limit = Constraints(block=block).given(minimum=minimum, grain=grain)

    allowed = [n for n in range(1, width) if n >= max(units, minimum) and n * block % grain == 0]

    assert limit.least(units, width=width) == min(allowed, default=width)


@pytest.mark.parametrize("name", ["shares", "block", "minimum", "multiple_of"])
def test_constraints_below_one_are_refused(name):
    """Each says its name and value."""
    with pytest.raises(SettingsError, match=f"{name}=0 must be at least 1"):
        Constraints(**{name: 0})
