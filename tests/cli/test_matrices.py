"""`secateur compare` with treatments."""

from __future__ import annotations

import pytest

MATRIX = """
networks = "digits-net"
data = "digits"
target = "torch"
runs = 3

[train]
epochs = 2

[[treatment]]
name = "trained"

[[treatment]]
name = "half <of> it"
sparsity = 0.5
pruning = { epochs = 2 }
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "matrix.toml"
    path.write_text(MATRIX, encoding="utf-8")
    return path


def test_a_matrix_ends_in_tables_and_a_page(secateur, file, tmp_path):
    """It says what it does, ends with where everything is, and is reported again from its folder; resuming finds nothing left."""
    said = secateur("compare", file, "--out", tmp_path / "run")

    assert said.code == 0, said.err
    assert "2 cells from 1 trained networks; 0 are done" in said.err
    assert "2 of 2  digits-net, half <of> it, seed 0: " in said.err
    assert "half <of> it" in said.out
    assert "2 of 2 cells done. Page: " in said.out
    assert "half &lt;of&gt; it" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")

    (tmp_path / "run" / "report.html").unlink()
    again = secateur("compare", tmp_path / "run", "--report")
    assert again.code == 0, again.err
    assert (tmp_path / "run" / "report.html").exists()
    assert again.out == said.out

    rest = secateur("compare", tmp_path / "run", "--resume")
    assert rest.code == 0, rest.err
    assert "2 are done" in rest.err


def test_the_cells_can_be_listed_first(secateur, file, tmp_path):
    said = secateur("compare", file, "--plan")

    assert (said.code, said.err) == (0, "")
    assert "2 cells in all, from 1 trained networks" in said.out
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (("sparsity", "sparsty"), (), "did you mean 'sparsity'?"),
        (("digits-net", "digits-nut"), (), "digits-nut"),
        (("", ""), ("--workers", "2"), "a matrix measures time"),
        (('target = "torch"', 'target = "tourch"'), (), "did you mean 'torch'?"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(  # noqa: PLR0917
    secateur, file, tmp_path, change, options, said
):
    file.write_text(MATRIX.replace(*change) if change[0] else MATRIX, encoding="utf-8")

    found = secateur("compare", file, "--out", tmp_path / "run", *options)

    assert found.code == 2
    assert said in found.err
    assert found.err.count("\n") == 1
    assert not (tmp_path / "run").exists()
