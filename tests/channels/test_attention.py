"""Attention as its users write it: what is added by head goes with its head, rotary positions leave whole heads free."""

import pytest
import torch
from tests.strategies import random_plan
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.testing import check_cut, randomise

TOKENS = torch.randn(2, 5, 6)


class Attention(nn.Module):
    """Grouped queries in one operator, with a bias for each head and place, or with rotary positions."""

    def __init__(self, *, heads: int = 4, key_heads: int = 4, width: int = 4, rotary: bool = False) -> None:
        super().__init__()
        self.width, self.rotary = width, rotary
        self.q, self.k = nn.Linear(6, heads * width), nn.Linear(6, key_heads * width)
        self.v, self.out = nn.Linear(6, key_heads * width), nn.Linear(heads * width, 5)
        self.bias = nn.Embedding(9, heads)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(*x.shape[:2], -1, self.width).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        places = torch.arange(x.shape[1], device=x.device)
        mask = None
        if self.rotary:
            angle = places[:, None] / torch.arange(1, self.width // 2 + 1, device=x.device).repeat(2)
            q, k = (y * angle.cos() + _turned(y) * angle.sin() for y in (q, k))
        else:
            mask = self.bias(places[:, None] - places + 4).permute(2, 0, 1)[None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Peeking(Attention):
    """Its forward reads a value, so that it is watched on real tensors, on which attention is one operator."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.sum()) > -1e9 else -x)


def _turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


@pytest.mark.parametrize("kind", [Attention, Peeking])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_what_is_added_by_head_goes_with_its_head(kind, key_heads):
    """A column of a table of biases by place belongs to the head that it is added to (T5, on real tensors, kept its own ones)."""
    model = randomise(kind(key_heads=key_heads))
    channels = secateur.watch(model, TOKENS)

    (group,) = channels.groups
    assert group.width == key_heads
    assert {member.tensor for member in group.members} >= {
        "q.weight",
        "v.weight",
        "out.weight",
        "bias.weight",
    }
    for seed in range(4):
        check_cut(model, TOKENS, random_plan(channels, ratio=0.5, seed=seed))


@pytest.mark.parametrize("kind", [Attention, Peeking])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_heads_with_rotary_positions_can_go(kind, key_heads):
    """Positions are turned within a head; that one of two is left on trial pins nothing (it left Llama's heads whole)."""
    model = randomise(kind(key_heads=key_heads, rotary=True))
    channels = secateur.watch(model, TOKENS)

    assert [group.width for group in channels.groups] == [key_heads]
    for seed in range(4):
        check_cut(model, TOKENS, random_plan(channels, ratio=0.5, seed=seed))


class Crossed(nn.Module):
    """One stream asks another: PyTorch's own attention, whose weight is divided in one way or the other."""

    def __init__(self, *, three: bool, batch_first: bool) -> None:
        super().__init__()
        self.three = three
        self.asks, self.told = nn.Linear(6, 16), nn.Linear(6, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=batch_first)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        asks, told = self.asks(x), self.told(x)
        answer, _ = self.attention(asks, told, told + 1 if self.three else told, need_weights=False)
        return self.head(asks + answer)


class Translator(nn.Module):
    """Encoder and decoder of PyTorch's transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        layers = {"num_encoder_layers": 1, "num_decoder_layers": 2, "dim_feedforward": 12}
        self.body = nn.Transformer(16, 4, **layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x), self.embed(x[:, 1:])))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("three", [False, True])
def test_attention_between_streams_is_cut_in_whole_heads(three, batch_first):
    """The parts of a packed weight are weights, too, whichever of them belong to one stream (cross-attention stayed whole)."""
    model = randomise(Crossed(three=three, batch_first=batch_first))
    channels = secateur.watch(model, TOKENS)

    assert [(group.name, group.width) for group in channels.groups] == [("asks", 4)]
    check_cut(model, TOKENS, random_plan(channels, ratio=0.5, seed=0))


def test_all_heads_together_are_as_wide_as_what_they_are_asked():
    """PyTorch's attention takes the width of its queries for that of its heads: layers cut differently failed in forward."""
    model = randomise(Translator())
    channels = secateur.watch(model, TOKENS)

    assert {group.name: group.width for group in channels.groups} == {
        "embed": 4, "body.encoder.layers.0.linear1": 12, "body.decoder.layers.0.linear1": 12, "body.decoder.layers.1.linear1": 12
    }  # fmt: skip
    for seed in range(3):
        check_cut(model, TOKENS, random_plan(channels, ratio=0.5, seed=seed))


def test_heads_stay_where_what_they_are_asked_stays():
    """A decoder that is given its queries loses feed-forward units, which was lost to the limit of passes."""
    model = randomise(nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 2))
    example = (torch.randn(2, 3, 8), torch.randn(2, 4, 8))
    channels = secateur.watch(model, example)

    assert [group.name for group in channels.groups] == ["layers.0.linear1", "layers.1.linear1"]
    assert any("as wide as the queries" in fixed.reason for fixed in channels.fixed)
    check_cut(model, example, random_plan(channels, ratio=0.5, seed=0))


class Windows(nn.Module):
    """Attention by einsum with a bias a head, as in MaxViT; what comes out is as wide as what went in."""

    def __init__(self, heads: int, *, alone: bool = False) -> None:
        super().__init__()
        self.heads, self.alone = heads, alone
        self.embed, self.qkv, self.merge, self.head = (
            nn.Linear(*sizes) for sizes in ((6, 12), (12, 36), (12, 12), (12, 5))
        )
        self.table = nn.Parameter(torch.randn(9, heads))
        self.register_buffer("places", torch.arange(25).reshape(5, 5) % 9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, g, p, d = x.shape
        q, k, v = (
            t.reshape(b, g, p, self.heads, -1).permute(0, 1, 3, 2, 4) for t in self.qkv(x).chunk(3, -1)
        )
        bias = self.table[self.places.view(-1)].view(p, p, -1).permute(2, 0, 1).contiguous().unsqueeze(0)
        scores = torch.einsum("b g h i d, b g h j d -> b g h i j", q, k * 0.5) + bias
        mixed = torch.einsum("b g h i j, b g h j d -> b g h i d", scores.softmax(-1), v)
        out = self.merge(mixed.permute(0, 1, 3, 2, 4).reshape(b, g, p, d))
        return self.head(out if self.alone else x + out).mean((1, 2))


@pytest.mark.parametrize("heads", [2, 3])
@pytest.mark.parametrize("alone", [False, True])
def test_heads_of_which_one_is_left_on_trial_can_go(heads: int, alone: bool) -> None:
    """MaxViT's first stage has two heads, CrossViT three: with one left its axis has size one, and views put it anywhere."""
    net, x = randomise(Windows(heads, alone=alone)), torch.randn(2, 4, 5, 6)

    channels = secateur.watch(net, x)

    assert not [fixed for fixed in channels.fixed if "code" in fixed.reason]
    assert heads in {group.width for group in channels.groups}
    for ratio in (0.5, 0.67):
        check_cut(net, x, secateur.plan(channels, secateur.score(net, channels, "l1"), remove=ratio))
