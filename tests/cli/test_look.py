"""The commands that only look: watch, evaluate, load, data, and the program itself."""

import json
from importlib import metadata

import pytest

from secateur.data import names
from secateur.errors import WatchError


def test_watch_shows_groups_costs_and_reasons(secateur):
    """Each group stands there with its width and costs, and what stays with its reason."""
    said = secateur("watch", "lenet5")

    assert said.code == 0
    assert "4 groups, 226 units" in said.out
    assert "reads the network's input" in said.out
    assert "61,706 parameters, 416,520 MACs" in said.out


def test_watch_for_programs_counts_the_same(secateur):
    """The JSON has the groups, members and totals; the input's features count where they are asked for."""
    plain = json.loads(secateur("watch", "lenet300-100", "--json").out)
    inputs = json.loads(secateur("watch", "lenet300-100", "--json", "--inputs").out)

    assert plain["parameters"] == 266_610
    assert [(group["name"], group["width"]) for group in plain["groups"]] == [
        ("dense1", 300),
        ("dense2", 100),
    ]
    assert plain["groups"][0]["members"][0]["tensor"] == "dense1.weight"
    assert sum(group["width"] for group in inputs["groups"]) == 784 + 400


def test_watch_says_which_blocks_can_go(secateur):
    """How many blocks there are is one line, below the tree and the table; the JSON has all of them."""
    document = json.loads(secateur("watch", "resnet20", "--json").out)

    assert [block["name"] for block in document["blocks"]] == [
        "stages.0.0", "stages.0.1", "stages.0.2", "stages.1.1", "stages.1.2", "stages.2.1", "stages.2.2",
    ]  # fmt: skip
    assert document["blocks"][0]["parameters"] == 4_672
    line = "Blocks that can go whole: 7 (stages.0.0, stages.0.1, stages.0.2 and 4 more)"
    assert line in secateur("watch", "resnet20").out.splitlines()
    assert line in secateur("watch", "resnet20", "--groups").out.splitlines()
    assert "Blocks that can go whole: none" in secateur("watch", "lenet5").out


def test_watch_takes_inputs_of_any_kind(secateur, refused, tmp_path, monkeypatch):
    """A function of the user's gives token numbers or several tensors; one that cannot is told in a sentence."""
    (tmp_path / "own_text.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.table, self.head = nn.Embedding(9, 6), nn.Linear(6, 2)\n"
        "    def forward(self, tokens, mask):\n"
        "        return self.head(self.table(tokens) * mask[..., None])\n"
        "def tokens(): return {'tokens': torch.zeros(1, 5, dtype=torch.long), 'mask': torch.ones(1, 5)}\n"
        "def nothing(): return 'text'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    said = secateur("watch", "own_text:Net", "--example", "own_text:tokens")
    assert said.code == 0
    assert "1 group, 6 units" in said.out
    assert "one example of shape [5]" in said.out
    assert "returned a str without a tensor" in refused(
        "watch", "own_text:Net", "--example", "own_text:nothing"
    )
    assert "AttributeError" in refused("watch", "own_text:Net", "--example", "own_text:missing")
    assert "give one" in refused(
        "watch", "own_text:Net", "--example", "own_text:tokens", "--input-shape", "5"
    )


def test_watch_works_where_nothing_runs_on_values(secateur, monkeypatch):
    """Where blocks cannot be tried, everything else is shown, with a note that says why."""

    def fails(*_: object) -> None:
        raise WatchError("the network's forward pass failed on values")

    monkeypatch.setattr("secateur.cli.watch.blocks_of", fails)

    said = secateur("watch", "lenet5")
    assert said.code == 0
    assert "Note: no blocks were looked for: the network's forward pass failed on values" in said.out
    assert "Blocks that can go" not in said.out
    assert "no blocks were looked for" in secateur("watch", "lenet5", "--json").out


def test_watch_takes_a_shape_and_arguments(secateur):
    """Arguments and the shape of an example can be given."""
    said = secateur("watch", "lenet5", "--arg", "channels=3", "--arg", "size=32", "--input-shape", "3,32,32")

    assert said.code == 0, said.err
    assert "[3, 32, 32]" in said.out


def test_evaluate_measures_a_file(secateur, base):
    """Accuracy, top-k, each class, parameters, MACs and bytes are shown."""
    said = secateur("evaluate", base / "model.safetensors", "--data", "digits")

    assert said.code == 0, said.err
    for words in (
        "accuracy on test",
        "of 360",
        "top-3",
        "top-5",
        "worst class",
        "40,618",
        "616,064",
        "kB",
        "examples",
    ):
        assert words in said.out


def test_evaluate_compares_pairwise(secateur, base, small):
    """Against another file the change comes with its interval, overall and for each class, and the sizes."""
    said = secateur("evaluate", small, "--data", "digits", "--against", base, "--split", "validation")

    assert said.code == 0, said.err
    table = said.out[said.out.index("Change against") :]
    assert "95 % interval" in table
    assert sum(line.strip().startswith(tuple("0123456789")) for line in table.splitlines()) >= 10
    assert "parameters: 40,618 → " in table


def test_a_comparison_has_a_page(secateur, refused, base, small, tmp_path):
    """The page shows what the table shows; without another network, or in place of a foreign file, there is none."""
    page = tmp_path / "page.html"
    asked = ("evaluate", small, "--data", "digits")

    said = secateur(*asked, "--against", base, "--report", page)

    assert said.code == 0, said.err
    assert f"The page: {page}" in said.out
    assert "Only before " in said.out
    assert "Secateur comparison" in page.read_text(encoding="utf-8")
    assert "--against" in refused(*asked, "--report", page)
    page.write_text("mine")
    assert "no page of Secateur's" in refused(*asked, "--against", base, "--report", page)


def test_a_network_does_not_differ_from_itself(secateur, base):
    """Compared with itself, a network changed by 0.00 points everywhere."""
    said = secateur("evaluate", base, "--data", "digits", "--against", base)

    rows = [line for line in said.out.splitlines() if " to " in line]
    assert len(rows) == 11
    assert all(" 0.00 " in row for row in rows)


def test_load_describes_a_file(secateur, base, small):
    """A file says what network it is, how it was trained, and what was cut."""
    whole, cut = secateur("load", base / "model.safetensors"), secateur("load", small / "model.safetensors")

    assert (whole.code, cut.code) == (0, 0), whole.err + cut.err
    assert "digits-net" in whole.out
    assert "40,618" in whole.out
    assert "\nHistory\ntrain: " in whole.out
    events = cut.out.partition("\nHistory\n")[2].splitlines()
    assert [line.partition(":")[0] for line in events] == ["train", "reduce"]
    assert "max drop 5" in events[1]
    assert "beta" not in events[1]
    assert "units before and after" in cut.out


def test_data_lists_and_looks(secateur):
    """All known data sets are listed; one is described by its splits."""
    listed, looked = secateur("data"), secateur("data", "digits")

    assert (listed.code, looked.code) == (0, 0)
    assert all(name in listed.out for name in names())
    assert "1,077 examples of shape [1, 8, 8]" in looked.out


def test_missing_data_say_where_they_were_looked_for(refused, tmp_path):
    """A data set that is not there is named with the folder and the files that should be in it."""
    said = refused("data", "mnist", "--data-dir", tmp_path)

    assert str(tmp_path) in said
    assert "train-images" in said


def test_the_version_is_said(secateur):
    """--version is that of the installed package."""
    assert secateur("--version").out == f"secateur {metadata.version('secateur')}\n"


def test_help_lists_the_commands(secateur, monkeypatch):
    """Without a command, too, the commands are listed, each in one whole line, on terminals of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    asked, bare = secateur("--help"), secateur()

    listed = asked.out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == [
        "train",
        "reduce",
        "prune",
        "compress",
        "compare",
        "watch",
        "evaluate",
        "export",
        "quantise",
        "bench",
        "report",
        "load",
        "data",
    ]
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)
    assert asked == bare
    assert (asked.code, asked.err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["reduce", "--max-dorp", "1"], "--max-drop"),
        (["trian", "lenet5"], "train"),
        (["watch", "lenet55"], "lenet5"),
        (["train", "digits-net", "--data", "digitz", "--out", "x"], "digits"),
        (["train", "digits-net", "--data", "digits", "--out", "x", "--optimizer", "sdg"], "sgd"),
        (["reduce"], "name"),
        (["train", "digits-net", "--out", "x"], "--data"),
        (["train", "digits-net", "--data", "digits"], "--out"),
        (["train", "digits-net", "--data", "digits", "--out", "x", "--lr", "0"], "error: --lr cannot be"),
        (
            ["train", "digits-net", "--data", "digits", "--out", "x", "--validation", "9999"],
            "--validation 9999",
        ),
        (
            [
                "train",
                "digits-net",
                "--data",
                "digits",
                "--out",
                "x",
                "--epochs",
                "1",
                "--warmup-epochs",
                "2",
            ],
            "--warmup-epochs (2) is longer than --epochs (1)",
        ),
        (["reduce", "x", "--finish-epochs", "0"], "--finish-epochs"),
        (["watch", "lenet5", "--input-shape", "3x32"], "3,224,224"),
        (["watch", "lenet5", "--arg", "classes"], "classes=26"),
        (["train", "lenet5", "--arg", "clases=3", "--data", "digits", "--out", "x"], "classes"),
        (["evaluate", "nowhere.safetensors", "--data", "digits"], "nowhere.safetensors"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(refused, tmp_path, monkeypatch, arguments, hint):
    """What is misspelt or missing is answered in one sentence that helps, and nothing is made."""
    monkeypatch.chdir(tmp_path)

    assert hint in refused(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_watch_draws_a_tree(secateur):
    """Layers stand with role, width, cost and the number of the reason for what stays; --groups has a unit's cost."""
    said = secateur("watch", "lenet5")
    table = secateur("watch", "lenet5", "--groups")

    assert (said.code, table.code) == (0, 0)
    assert "conv1 Conv2d  writes own 6; 1 stay [1]" in said.out
    assert "[1] reads the network's input: conv1.weight[1]" in said.out
    assert "params/unit" in table.out


def test_watch_writes_a_page(secateur, refused, tmp_path):
    """The page is written and its place is said; where it cannot be, one sentence says why and nothing is written."""
    page = tmp_path / "net.html"
    other = tmp_path / "notes.txt"
    other.write_text("mine")

    assert f"The page: {page}" in secateur("watch", "lenet5", "--html", page).out
    assert secateur("watch", "lenet5", "--html", page).code == 0
    assert "make it first" in refused("watch", "lenet5", "--html", tmp_path / "missing" / "net.html")
    assert "no page of Secateur's" in refused("watch", "lenet5", "--html", other)
    assert "one at a time" in refused("watch", "lenet5", "--html", page, "--json")
    assert "lenet5" in refused("watch", "lenet55", "--html", tmp_path / "other.html")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.html", "notes.txt"]
    assert other.read_text() == "mine"
