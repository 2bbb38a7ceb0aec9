"""Where a network's own code pins a size: what follows, what goes in step, and what is left whole with file and line."""

from __future__ import annotations

import pytest
import torch
from tests.strategies import random_plan
from torch import Tensor, nn

import secateur
from secateur.testing import check_cut, check_left_as_found, randomise

TOKENS = (2, 5, 12)


class Heads(nn.Module):
    """Attention whose numbers stand in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width, self.inner = 3, 4, 12
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, self.width).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(b, n, self.inner))


class Embedded(nn.Module):
    """Two attentions between an embedding and a head."""

    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, 12), nn.Linear(12, 5)
        self.first, self.second = attention(), attention()

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.first(x)
        return self.head((x + self.second(x)).mean(1))


class InStep(Heads):
    """Takes the width of its input for the width of its heads together."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(b, n, c))


class Literal(Heads):
    """Keeps its numbers in the code alone."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(b, n, 12))


class Halves(nn.Module):
    """Slices a map at a number that it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.half = 4
        self.stem, self.a, self.b = nn.Conv2d(3, 10, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(6, 5, 1)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((self.a(x[:, : self.half]) + self.b(x[:, self.half :])).relu().mean((2, 3)))


def cut_exactly(model: nn.Module, x: Tensor) -> None:
    channels = secateur.watch(model, x)
    for ratio, seed in ((0.3, 0), (0.5, 1), (0.9, 2)):
        check_cut(model, x, random_plan(channels, ratio=ratio, seed=seed))


def test_numbers_kept_as_attributes_follow_the_cut() -> None:
    """Whole heads go, and the attributes that say how many there are follow; the cut is exact at every ratio."""
    model, x = randomise(Embedded(Heads)), torch.randn(TOKENS)

    channels = secateur.watch(model, x)
    small = secateur.apply(
        model, secateur.plan(channels, secateur.score(model, channels, "l1"), remove={"first.qkv": 0.4})
    )

    assert {group.name: group.width for group in channels.groups} == {
        "embed": 12,
        "first.qkv": 3,
        "second.qkv": 3,
    }
    assert (small.first.heads, small.first.inner, small.second.heads, small.second.inner) == (2, 8, 3, 12)
    assert (model.first.heads, model.first.inner) == (3, 12)
    cut_exactly(model, x)


class Fused(Heads):
    """Attention as PyTorch's own function computes it, which divides by the root of the width."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, self.width).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(b, n, self.inner))


@pytest.mark.parametrize("attention", [Heads, Fused])
def test_the_width_of_heads_goes_where_it_is_asked_for(attention) -> None:
    """Every head loses the same positions, the products are those of what is left, and the attributes follow."""
    model, x = randomise(Embedded(attention)), torch.randn(TOKENS)

    channels = secateur.watch(model, x, attention="width")
    scores = secateur.score(model, channels, "l1")
    small = secateur.apply(model, secateur.plan(channels, scores, remove={"first.qkv": 0.5}))

    group = channels.group("first.qkv")
    assert (group.width, group.exact) == (4, False)
    assert (small.first.heads, small.first.width, small.first.inner) == (3, 2, 6)
    for ratio, seed in ((0.3, 0), (0.5, 1), (0.7, 2)):
        check_cut(model, x, random_plan(channels, ratio=ratio, seed=seed))


def test_an_unknown_part_of_attention_is_refused() -> None:
    """The message names the two that there are."""
    with pytest.raises(secateur.errors.SettingsError, match="must be 'heads' or 'width'"):
        secateur.watch(nn.Linear(2, 2), torch.zeros(1, 2), attention="keys")  # type: ignore[arg-type]


def test_sizes_taken_from_another_tensor_go_in_step() -> None:
    """Code that takes the input's width for the heads' loses a head with as many channels of what it is added to."""
    model, x = randomise(Embedded(InStep)), torch.randn(TOKENS)

    channels = secateur.watch(model, x)

    assert {group.name: group.width for group in channels.groups} == {"embed": 3}
    cut_exactly(model, x)


def test_numbers_in_the_code_leave_the_group_whole_and_say_where() -> None:
    """What only the code pins stays whole, with the file, the line and its text; the rest is cut exactly."""
    model, x = randomise(Embedded(Literal)), torch.randn(TOKENS)

    channels = secateur.watch(model, x)

    assert {group.name: group.width for group in channels.groups} == {"embed": 12}
    reasons = {fixed.reason for fixed in channels.fixed if fixed.tensor.endswith("qkv.weight")}
    assert len(reasons) == 1
    assert "test_trial.py:" in min(reasons)
    assert "view(b, n, 3, 3, 4)" in min(reasons)
    cut_exactly(model, x)


def test_slices_at_a_kept_number_follow_their_part() -> None:
    """The two sides of a slice are groups of their own, and the number between them counts what is left of the first."""
    model, x = randomise(Halves()), torch.randn(2, 3, 4, 4)

    channels = secateur.watch(model, x)
    scores = secateur.score(model, channels, "l1")
    small = secateur.apply(model, secateur.plan(channels, scores, remove={"stem": 0.5, "stem#2": 0.5}))

    assert {group.name: group.width for group in channels.groups} == {"stem": 4, "stem#2": 6, "a": 5}
    assert (small.half, small.a.in_channels, small.b.in_channels) == (2, 2, 3)
    cut_exactly(model, x)


def test_trials_leave_the_network_as_found() -> None:
    """Trying cuts changes nothing: no attribute, no mode, no value, no random state."""
    for kind in (Heads, InStep, Literal):
        model = Embedded(kind)
        check_left_as_found(model, lambda model=model: secateur.watch(model, torch.zeros(TOKENS)))


@pytest.mark.filterwarnings("ignore::secateur.store.FactoryNeededWarning")
def test_followed_attributes_are_kept_in_files(tmp_path) -> None:
    """A network whose attributes followed a cut comes back from its file, and can be cut again."""
    model, x = randomise(Embedded(Heads)), torch.randn(TOKENS)
    channels = secateur.watch(model, x)
    small = secateur.apply(model, random_plan(channels, ratio=0.4, seed=1))
    secateur.save(small, tmp_path / "small.safetensors")

    again = secateur.load(tmp_path / "small.safetensors", factory=lambda: Embedded(Heads))

    torch.testing.assert_close(again(x), small(x), rtol=0, atol=0)
    channels = secateur.watch(again, x)
    smaller = secateur.apply(again, random_plan(channels, ratio=0.5, seed=2))
    assert smaller.first.heads < again.first.heads


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_packed_attention_is_cut_in_whole_heads(heads: int) -> None:
    """`nn.MultiheadAttention` loses heads with as many channels of its input; with a single head it stays whole."""
    attention = nn.MultiheadAttention(12, heads, batch_first=True)

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.attention, self.head = nn.Linear(12, 12), attention, nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.head(x + self.attention(x, x, x, need_weights=False)[0])

    model, x = randomise(Around()), torch.randn(TOKENS)
    channels = secateur.watch(model, x)

    assert [group.width for group in channels.groups] == ([] if heads == 1 else [heads])
    if heads > 1:
        cut_exactly(model, x)
        small = secateur.apply(model, random_plan(channels, ratio=0.5, seed=0))
        assert (small.attention.num_heads, small.attention.embed_dim) == (heads // 2, 6)


def test_places_in_a_table_that_this_input_does_not_need_stay() -> None:
    """Positions beyond the length of the example are no channels: a longer input needs them."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(12, 8), nn.Linear(8, 5)
            self.places = nn.Parameter(torch.randn(1, 20, 8))
            self.register_buffer("numbers", torch.arange(20)[None])

        def forward(self, x: Tensor) -> Tensor:
            n = x.shape[1]
            return self.head(self.embed(x) + self.places[:, :n] * (1 + self.numbers[:, :n, None])).mean(1)

    model = randomise(Positions())
    channels = secateur.watch(model, torch.randn(TOKENS))
    small = secateur.apply(model, random_plan(channels, ratio=0.5, seed=0))

    assert {group.name: group.width for group in channels.groups} == {"embed": 8}
    assert small(torch.randn(2, 20, 12)).shape == (2, 5)


class Reducing(nn.Module):
    """Attention of two heads, whose keys come from a map that is reduced twice: two numbers that are the same by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.ratio, self.heads = 2, 2
        self.embed, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 3)
        self.reduce = nn.Conv2d(8, 8, 2, 2)
        self.q, self.k, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        queries = x.flatten(2).transpose(1, 2)
        if self.ratio > 1:
            x = self.reduce(x)
        else:  # the other way takes more steps, so that a trial seems to come further
            for _ in range(12):
                x = x.relu()
        keys = x.flatten(2).transpose(1, 2)
        q, k = (y.view(*y.shape[:2], self.heads, 4).transpose(1, 2) for y in (self.q(queries), self.k(keys)))
        mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ k
        return self.head((queries + self.out(mixed.transpose(1, 2).flatten(2))).mean(1))


def test_an_option_of_the_same_number_does_not_follow():
    """An integer that only happens to be the number of heads, and decides what runs, stays as it is."""
    model, x = randomise(Reducing()), torch.randn(2, 3, 4, 4)
    channels = secateur.watch(model, x)

    assert {attribute.name for attribute in channels.attributes} == {"heads"}
    check_cut(model, x, random_plan(channels, ratio=0.5, seed=0))


class Gathered(nn.Module):
    """Takes every channel at positions of a table, which is expanded to as many channels as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.Linear(12, 8), nn.Linear(8, 3)
        self.register_buffer("order", torch.tensor([[[4, 0, 2, 1, 3]]]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x).transpose(1, 2)
        return self.head(y.gather(2, self.order.expand(y.size(0), y.size(1), -1)).transpose(1, 2))


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_a_table_of_positions_that_is_expanded_to_the_channels_follows_them(ratio: float) -> None:
    """DeBERTa's relative positions: heads that were gathered stayed whole."""
    net, x = randomise(Gathered()), torch.randn(TOKENS)
    channels = secateur.watch(net, x)
    assert [group.name for group in channels.groups] == ["up"]
    check_cut(net, x, secateur.plan(channels, secateur.score(net, channels, "l1"), remove=ratio))
