"""What watching one pass finds, what it reports, and what it leaves alone."""

import copy
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tests.strategies import networks, random_plan
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import secateur
from secateur.channels import Channels
from secateur.errors import ModelError, NothingToCutError, WatchError
from secateur.testing import CONSTRUCTS, EXOTIC, Wired, check_cut, check_left_as_found, randomise, unread

_ALL = {**CONSTRUCTS, **EXOTIC}


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4), nn.ReLU(),
        nn.Linear(4, 2),
    )  # fmt: skip


IMAGE = torch.zeros(2, 3, 4, 4)


def widths(channels: Channels) -> dict[str, int]:
    return {group.name: group.width for group in channels.groups}


@pytest.mark.parametrize("name", _ALL)
def test_constructs_have_the_groups_that_were_found_by_hand(name: str):
    """Each construct has the groups of the widths that its entry names, and nothing goes wrong in a rule."""
    construct = _ALL[name]
    model = construct.build()

    channels = secateur.watch(model, construct.example().to(next(model.parameters()).dtype))

    assert widths(channels) == dict(construct.widths)
    assert not channels.notes


class Masked(nn.Module):
    """Chooses by a mask of one or two axes of a convolution's result; the next layer reads the others."""

    def __init__(self, axes: int, reads: int) -> None:
        super().__init__()
        self.axes, self.stem, self.head = axes, nn.Conv2d(3, 6, 3, padding=1), nn.Linear(reads, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        if self.axes == 2:
            return self.head(y[torch.ones(y.shape[:2], dtype=torch.bool)].flatten(1))
        y = y.flatten(2).transpose(1, 2)
        return self.head(y[torch.ones(y.shape[:2], dtype=torch.bool)])


def test_a_mask_chooses_along_as_many_axes_as_it_has():
    """Channels that a mask chooses among stay; those beside the axes of a mask can go, with what the mask was made of known."""
    beside = secateur.watch(Masked(1, 6), IMAGE)
    assert widths(beside) == {"stem": 6}
    assert not beside.unknown_ops
    check_cut(randomise(Masked(1, 6)), IMAGE, random_plan(beside, ratio=0.5, seed=0))

    among = secateur.watch(Masked(2, 16), IMAGE)
    assert not among.groups
    assert "is indexed by positions that are data" in {fixed.reason for fixed in among.fixed}


class Boxes:
    """What some detectors return: an object of a class of their own."""

    def __init__(self, scores: torch.Tensor) -> None:
        self.scores, self.owner = scores, self


def _distribution(logits: torch.Tensor) -> torch.distributions.Distribution:
    return torch.distributions.Categorical(logits=logits, validate_args=False)


class Told(nn.Module):
    """Returns its result in something that the network's author chose."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind, self.stem, self.head = kind, nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.kind(self.head(self.stem(x).relu()))


@pytest.mark.parametrize("kind", [Boxes, lambda y: SimpleNamespace(scores=y), _distribution])
def test_outputs_stay_in_objects_of_any_class(kind):
    """What is returned in an object that is no container keeps its channels, too."""
    assert widths(secateur.watch(Told(kind), torch.zeros(2, 4))) == {"stem": 6}


class DynamicCache:
    """Keys and values as a decoder returns them, for its next call."""

    def __init__(self, keys: torch.Tensor) -> None:
        self.keys = keys


def test_what_a_decoder_caches_for_itself_is_no_output():
    """A cache beside the result is the network's own: what is in it can be cut."""
    net = Wired(
        lambda m, x: (m.head(y := m.stem(x).relu()), DynamicCache(y)), stem=nn.Linear(4, 6), head=nn.Linear(6, 3)
    )  # fmt: skip
    assert widths(secateur.watch(net, torch.zeros(2, 4))) == {"stem": 6}


def test_a_network_that_returns_no_tensor_is_refused():
    """Without a tensor that comes out, nothing says which channels must stay."""
    with pytest.raises(WatchError, match="returned a str in which there is no tensor"):
        secateur.watch(Told(str), torch.zeros(2, 4))


class Encoder(nn.Module):
    """Is never called itself: its user calls ``encode`` and ``decide``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(4, 6), Added(6), nn.Linear(6, 3)

    def encode(self, x: torch.Tensor, *, scale: float) -> torch.Tensor:
        return self.block(self.stem(x * scale).relu())

    def decide(self, code: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scores": self.head(code)}


class Added(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 5), nn.Linear(5, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.outer(self.inner(x).relu())


def test_a_network_is_run_as_its_user_runs_it():
    """With a function of one's own, networks are watched, scored, cut and searched for blocks that are never called themselves."""

    def scores_of(model: nn.Module, example: tuple[torch.Tensor, float]) -> dict[str, torch.Tensor]:
        return model.decide(model.encode(example[0], scale=example[1]))

    def loss(out: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(out["scores"], target)

    model, example = randomise(Encoder()), (torch.randn(7, 4), 0.5)
    with pytest.raises(WatchError, match="forward pass failed"):
        secateur.watch(model, example)
    channels = secateur.watch(model, example, forward_fn=scores_of)
    assert widths(channels) == {"stem": 6, "block.inner": 5}

    batches = [(example, torch.zeros(7, dtype=torch.int64))]
    scores = secateur.score(model, channels, "taylor", data=batches, loss=loss, forward_fn=scores_of)
    plan = secateur.plan(channels, scores, remove=0.5)
    wanted = scores_of(unread(model, plan), example)["scores"]
    torch.testing.assert_close(scores_of(secateur.apply(model, plan), example)["scores"], wanted)

    (block,) = secateur.blocks(model, channels, example, forward_fn=scores_of)
    assert block.name == "block"
    ranked = secateur.score_blocks(model, [block], data=batches, forward_fn=scores_of)
    assert ranked.values["block"] > 0


def in_parts(wiring: Any, **shapes: tuple[int, ...]) -> nn.Module:
    """Two dense layers around something that uses parameters of the network's own in parts."""
    own = {name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}
    return Wired(wiring, before=nn.Linear(6, 8), after=nn.Linear(8, 3), **own)


def test_rows_of_a_table_that_this_input_does_not_need_stay():
    """Rows behind the slice that a short input takes are no channels (they could be cut while parts of weights were taken for them)."""

    def positions(m: Any, x_bnc: torch.Tensor) -> torch.Tensor:
        y = m.before(x_bnc)
        return m.after((y @ y.transpose(1, 2) + y @ m.table[: y.shape[1]].T).softmax(-1) @ y)

    channels = secateur.watch(in_parts(positions, table=(16, 8)), torch.zeros(2, 5, 6))
    assert not any(m.tensor == "table" and m.axis == 0 for group in channels.groups for m in group.members)


def test_parts_of_a_weight_play_their_own_roles():
    """A part of the columns reads; an axis whose parts write and read the same units stays whole."""
    sliced = in_parts(lambda m, x: m.after(nn.functional.linear(m.before(x).relu(), m.w[:, 8:16])), w=(8, 16))
    roles = {m.tensor: m.role for m in secateur.watch(sliced, torch.zeros(2, 6)).group("before").members}
    assert roles["w"] == "read"

    def both(m: Any, x: torch.Tensor) -> torch.Tensor:
        a, b = m.w.chunk(2)
        return m.after(nn.functional.linear(m.before(x), a).relu() @ b)

    channels = secateur.watch(in_parts(both, w=(8, 8)), torch.zeros(2, 6))
    assert not any(m.tensor == "w" and m.axis == 0 for group in channels.groups for m in group.members)


def test_bilinear_layers_tie_the_axes_that_they_keep():
    """A bilinear layer over the last axis has the same channels before it in both inputs."""
    model = randomise(
        Wired(
            lambda m, x: m.head(m.both(m.a(x), m.b(x))),
            a=nn.Conv1d(3, 8, 1), b=nn.Conv1d(3, 8, 1), both=nn.Bilinear(5, 5, 4), head=nn.Conv1d(8, 2, 1),
        )
    )  # fmt: skip
    channels = secateur.watch(model, torch.zeros(2, 3, 5))
    assert widths(channels) == {"a": 8}
    check_cut(model, torch.randn(2, 3, 5), random_plan(channels, ratio=0.5, seed=0))


def test_positions_of_several_axes_are_written():
    """Positions may be a table themselves: what is written there has its axes in their place."""
    index = torch.arange(12).reshape(4, 3)

    def written(m: Any, x_bnc: torch.Tensor) -> torch.Tensor:
        y = m.before(x_bnc).transpose(1, 2).clone()
        y[:, :, index] = m.p
        return m.after(y.mean(2))

    channels = secateur.watch(in_parts(written, p=(4, 3)), torch.zeros(2, 25, 6))
    assert widths(channels) == {"before": 8}


def test_members_say_who_writes_carries_and_reads():
    """Every tensor that a channel runs through is a member, with its role and the positions that a unit owns."""
    group = secateur.watch(small(), IMAGE).group("0")

    assert [(m.tensor, m.axis, m.role, m.block) for m in group.members] == [
        ("0.weight", 0, "write", 1), ("0.bias", 0, "carry", 1), ("1.weight", 0, "carry", 1), ("1.bias", 0, "carry", 1),
        ("4.weight", 1, "read", 16), ("1.running_mean", 0, "carry", 1), ("1.running_var", 0, "carry", 1),
    ]  # fmt: skip
    np.testing.assert_array_equal(group.by_role("read")[0].indices[1], np.arange(16, 32))


def test_fixed_axes_come_with_their_reasons():
    """What cannot be cut is listed with the reason: the input, the output, an unused layer."""
    net = small()
    net.spare = nn.Linear(3, 3)
    net.forward = nn.Sequential(*list(net)[:7]).forward

    reasons = {(f.tensor, f.axis): f.reason for f in secateur.watch(net, IMAGE).fixed}

    assert reasons["0.weight", 1] == "reads the network's input"
    assert reasons["6.weight", 0] == "reaches the network's output"
    assert reasons["spare.weight", 1] == "is not used by the forward pass"


@settings(deadline=None, max_examples=15)
@given(case=networks())
def test_model_is_left_as_found(case):
    """Watching changes nothing: mode, hooks, attributes, values, gradients, random state."""
    case.model.train()
    for parameter in list(case.model.parameters())[::2]:
        parameter.grad = torch.ones_like(parameter)
    check_left_as_found(case.model, lambda: secateur.watch(case.model, case.x))


class Failing(nn.Module):
    """Changes itself, draws random numbers, then fails on anything but zeros of width 4."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer, self.calls = nn.BatchNorm1d(4), nn.Linear(4, 2), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.cache = self.norm(x)
        return self.layer(self.cache + torch.randn(4) + torch.zeros(2, 7))


def test_model_is_left_as_found_after_an_error():
    """A forward that fails half way leaves nothing behind, and the error says what failed, in one sentence."""
    model = Failing().train()
    model.norm.weight.grad = torch.ones(4)

    with pytest.raises(WatchError) as caught:
        check_left_as_found(model, lambda: secateur.watch(model, torch.zeros(3, 4)))

    message = str(caught.value)
    assert message.startswith("the network's forward pass failed on an input of shape (3, 4): RuntimeError: ")
    assert message.endswith("pass an example that the network takes")
    assert "\n" not in message
    assert len(message) < 400


def test_networks_without_shapes_are_told_what_to_do():
    """A lazy layer has nothing to watch yet; the error says to run the network once."""
    with pytest.raises(ModelError, match=r"'weight' has no shape yet; run the network once"):
        secateur.watch(nn.LazyLinear(3), torch.zeros(2, 4))


class ReadsValues(nn.Module):
    """Branches on data, pools in one dimension and caches what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.second, self.head = nn.Conv1d(2, 6, 3), nn.Conv1d(6, 5, 1), nn.Linear(15, 3)

    def forward(self, x: Tensor) -> Tensor:
        scale = 2.0 if x.sum().item() > 0 else 1.0
        x = nn.functional.max_pool1d(self.conv(x).relu(), 2)
        self.seen = x
        return self.head((self.second(x) * scale).flatten(1))


def test_forward_that_reads_values_is_watched_on_real_tensors():
    """`.item()` has no value on meta tensors: the pass runs on real ones, is just as exact, and says so."""
    model, x = randomise(ReadsValues()), torch.randn(2, 2, 8)

    channels = secateur.watch(model, x)

    assert widths(channels) == {"conv": 6, "second": 5}
    line = r"test_watch\.py:\d+ \(scale = 2\.0 if x\.sum\(\)\.item\(\) > 0 else 1\.0\)"
    assert re.match(
        rf"watched on real tensors, because the forward reads values at \S*{line}$", channels.notes[0]
    )
    assert re.search(line, channels.values_read)
    check_cut(model, x, random_plan(channels, ratio=0.5, seed=0))
    check_left_as_found(model, lambda: secateur.watch(model, x))
    assert not hasattr(x, "_secateur_axes")


def test_labels_of_one_pass_mean_nothing_to_the_next():
    """A tensor that a forward keeps and writes into again carries no labels over to the next pass."""
    state = torch.zeros(2, 6)

    def wiring(m, x):
        state.copy_(m.body(x))
        return m.head(m.other(x).relu() + state.relu() * float(x.sum().item() > 9))

    model = Wired(wiring, body=nn.Linear(3, 6), other=nn.Linear(3, 6), head=nn.Linear(6, 2))

    first, second = secateur.watch(model, torch.zeros(2, 3)), secateur.watch(model, torch.zeros(2, 3))

    assert widths(first) == widths(second)


class Sorted(nn.Module):
    """Counts values, which no rule knows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.histc(x, bins=5)


def test_operator_without_a_rule_is_named_and_what_it_touches_stays():
    """An unknown operator fixes its channels, and is reported by name with how often it was met."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.LPPool2d(2, 2),
        nn.Conv2d(4, 6, 1),
        nn.ReLU(),
        nn.Conv2d(6, 4, 1),
        Sorted(),
    )

    channels = secateur.watch(net, IMAGE)

    assert channels.unknown_ops == {"aten.histc": 1}
    assert widths(channels) == {"0": 4, "2": 6}
    assert "goes through the operator aten.histc, which has no rule" in {f.reason for f in channels.fixed}


def test_unused_parameters_stay_whole():
    """A layer that the forward pass never uses stays as it is; the rest is cut."""
    net = Wired(
        lambda m, x: m.head(m.body(x).relu()), body=nn.Linear(3, 6), idle=nn.Linear(6, 6), head=nn.Linear(6, 2),
        constant=nn.Parameter(torch.ones(6)),
    )  # fmt: skip
    randomise(net)
    channels = secateur.watch(net, torch.zeros(1, 3))
    plan = random_plan(channels, ratio=0.5, seed=0)

    small_net = secateur.apply(net, plan)

    check_cut(net, torch.randn(4, 3), plan)
    assert torch.equal(small_net.idle.weight, net.idle.weight)
    assert torch.equal(small_net.constant, net.constant)


class Auxiliary(nn.Module):
    """A head that runs in train mode only."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__()
        self.body, self.norm, self.aux, self.head = (
            nn.Linear(3, 6),
            nn.BatchNorm1d(6),
            nn.Linear(6, 4),
            nn.Linear(6, 2),
        )
        self.broken = broken

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.norm(self.body(x)).relu()
        if not self.training:
            return self.head(x)
        side = self.aux(x)
        if self.broken:
            raise RuntimeError("no labels given\nat all")
        return self.head(x), side


def test_heads_that_run_in_train_mode_only_are_watched_too():
    """What only train mode uses is tied to the rest, so that training goes on after the cut."""
    model, x = Auxiliary(), torch.randn(4, 3)
    channels = secateur.watch(model, x[:1])

    cut = secateur.apply(model, random_plan(channels, ratio=0.5, seed=0)).train()

    assert cut.aux.in_features == cut.head.in_features == 3
    assert [tuple(out.shape) for out in cut(x)] == [(4, 2), (4, 4)]


def test_train_mode_that_cannot_be_watched_leaves_its_tensors_whole():
    """Where train mode fails, what only it uses stays whole, with what it reads, and a note says so."""
    model = Auxiliary(broken=True)

    channels = secateur.watch(model, torch.randn(4, 3))

    assert widths(channels) == {}
    assert channels.notes == (
        "2 tensors are used in train mode only, which could not be watched: no labels given",
    )


@dataclass
class Output:
    """What detectors and language models like to return."""

    boxes: Tensor
    more: dict[str, list[Tensor]]


def test_every_output_is_fixed_however_deep():
    """Several outputs, in dictionaries, lists and dataclasses: none loses a channel."""
    model = Wired(
        lambda m, x: Output(m.a(y := m.body(x).relu()), {"scores": [m.b(y)], "features": [y]}),
        body=nn.Linear(3, 4), a=nn.Linear(4, 2), b=nn.Linear(4, 5),
    )  # fmt: skip

    assert widths(secateur.watch(model, torch.zeros(1, 3))) == {}


def test_inputs_by_name_and_in_tuples():
    """An example is a tensor, a tuple of arguments or a dictionary of keyword arguments."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(3, 6), nn.Linear(2, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.head((self.a(x) + self.b(y)).relu())

    x, y = torch.randn(2, 3), torch.randn(2, 2)
    model = randomise(Two())

    for example in ((x, y), {"y": y, "x": x}):
        channels = secateur.watch(model, example)
        assert widths(channels) == {"a": 6}
        check_cut(model, example, random_plan(channels, ratio=0.5, seed=1))


def test_nothing_to_cut_says_why():
    """A network without free channels is refused with the reasons."""
    net = nn.Linear(3, 2)
    channels = secateur.watch(net, torch.zeros(1, 3))

    with pytest.raises(NothingToCutError, match=r"weight\[0\] reaches the network's output"):
        secateur.plan(channels, secateur.score(net, channels, "l1"), remove=0.5)


def test_nothing_to_cut_says_where_values_are_read():
    """Where an `if` on a sum over channels keeps them, the line is named, and what can be done, not to seek inner layers."""

    def forward(m, x):
        hidden = m.a(x).relu()
        if hidden.sum() > 1e9:
            hidden = -hidden
        return m.b(hidden)

    net = Wired(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 2))
    channels = secateur.watch(net, torch.zeros(1, 4))

    with pytest.raises(NothingToCutError) as caught:
        secateur.plan(channels, secateur.score(net, channels, "l1"), remove=0.5)

    said = str(caught.value)
    assert "a.weight[0] has all of its positions taken together by aten.sum" in said
    assert re.search(r"the forward reads values at \S*test_watch\.py:\d+ \(if hidden\.sum\(\) > 1e9:\)", said)
    assert "torch.where" in said
    assert "inner layers" not in said


@pytest.mark.parametrize("layer", [nn.Conv1d(3, 6, 1), nn.Linear(3, 6)], ids=["conv", "linear"])
@pytest.mark.parametrize("norm", [weight_norm, spectral_norm])
def test_a_computed_weight_reads_the_networks_input(layer, norm):
    """Its columns stay because of what they read, whatever the weight is computed from."""
    net = nn.Sequential(
        norm(copy.deepcopy(layer)), nn.ReLU(), type(layer)(6, 2, *[1] * isinstance(layer, nn.Conv1d))
    )
    example = torch.zeros(1, 3, 5) if isinstance(layer, nn.Conv1d) else torch.zeros(1, 3)

    found = {(one.tensor, one.axis): one.reason for one in secateur.watch(net, example).fixed}

    columns = [
        key
        for key in found
        if key[0].startswith("0.") and key[0].endswith(("original", "original1")) and key[1] == 1
    ]
    assert [found[key] for key in columns] == ["reads the network's input"]


def test_tables_of_positions_are_no_axes_that_stay():
    """Nobody would expect of an index or a mask that it is cut."""
    net = Wired(lambda m, x: m.b(m.a(x)[:, m.order].relu()), a=nn.Linear(4, 6), b=nn.Linear(6, 2))
    net.register_buffer("order", torch.randperm(6))

    fixed = secateur.watch(net, torch.zeros(1, 4)).fixed

    assert {one.tensor for one in fixed} == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_networks_without_parameters_have_no_groups():
    """A network without a single parameter is watched without complaint."""
    assert secateur.watch(nn.Sequential(nn.ReLU(), nn.Flatten()), IMAGE).groups == ()


def test_nan_weights_do_not_disturb_the_analysis_but_scores_refuse_them():
    """Watching looks at shapes only; scoring names the tensor that holds NaN."""
    net = small()
    with torch.no_grad():
        net[0].weight[2, 0] = float("nan")
    channels = secateur.watch(net, IMAGE)

    assert widths(channels) == {"0": 6, "4": 4}
    with pytest.raises(ModelError, match=r"'0.weight' holds 9 values that are NaN or infinite"):
        secateur.score(net, channels, "l1")


def test_tensors_made_in_forward_go_where_the_pass_runs():
    """A forward that makes tensors on a device of its own is watched all the same."""
    device = torch.device("cpu")

    def wiring(m, x):
        weights = torch.arange(3.0, device=device) + torch.tensor([1.0, 2.0, 3.0]) + torch.zeros(3).to(device)
        return m.head(m.body(x * weights).relu())

    model = Wired(wiring, body=nn.Linear(3, 6), head=nn.Linear(6, 2))
    channels = secateur.watch(model, torch.zeros(1, 3))

    assert widths(channels) == {"body": 6}
    assert not channels.notes


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_only_shapes_of_an_example_matter(dtype):
    """A network in another number format than the example is watched without a remark."""
    channels = secateur.watch(small().to(dtype), IMAGE)

    assert widths(channels) == widths(secateur.watch(small(), IMAGE))
    assert not channels.notes


def test_the_text_of_channels_is_a_short_summary():
    """Groups and units, the largest groups, what stays and mostly why, operators without a rule: at most a dozen lines."""
    deep = nn.Sequential(*(nn.Linear(width, width + 1) for width in range(3, 20)))
    unknown = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Sorted())

    said = str(secateur.watch(deep, torch.zeros(1, 3))).splitlines()
    other = str(secateur.watch(unknown, IMAGE))

    assert said[:2] == ["16 groups, 184 units that can go", "  15 (Linear): 19 units"]
    assert said[6:] == [
        "  and 11 smaller groups",
        "3 axes stay; most common reason (2): reaches the network's output",
    ]
    assert other.startswith("0 groups, 0 units that can go\n")
    assert other.endswith("\noperators without a rule: aten.histc")
    assert len(said) + 1 <= 12


def test_a_module_that_is_there_twice_keeps_its_tensors():
    """Watching gives every tensor back to a module that several others contain."""
    layer = nn.Linear(4, 4)
    model = nn.Sequential(nn.Sequential(layer, nn.ReLU()), nn.Sequential(layer, nn.Linear(4, 2)))
    before = {name: id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}

    secateur.watch(model, torch.zeros(1, 4))

    assert {name: id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)} == before
    assert not any(tensor.is_meta for tensor in model.parameters())


class Unread(nn.Module):
    """What a gate or an output computes, no layer reads: only a statistic does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.gate = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(5, 6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.b(self.a(x).relu())
        return y.sigmoid().amax(-1), y * self.gate(x).sigmoid().mean(1, keepdim=True)


def test_what_only_a_statistic_reads_stays() -> None:
    """Classes of which the greatest is taken, and a gate's channels, are no layer's to lose; scores need no reader then."""
    model, x = Unread(), torch.randn(2, 5)

    channels = secateur.watch(model, x)

    assert widths(channels) == {"a": 8}
    assert {
        one.tensor for one in channels.fixed if one.reason == "is read by no layer, only by a statistic"
    } == {
        "gate.weight",
        "gate.bias",
    }


class Stretch(nn.Module):
    """A statistic over channels that the code takes by their positions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.b(y) + y[:, 1:4].mean(1, keepdim=True)


def test_a_statistic_over_a_fixed_stretch_of_channels_keeps_them_whole() -> None:
    """After a cut the code would take other channels, as many as before, so that nothing would seem wrong."""
    assert secateur.watch(Stretch(), torch.randn(2, 5)).groups == ()
