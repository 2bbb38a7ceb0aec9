"""Text that is the same whenever the values are the same."""

import json
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import SettingsError
from secateur.store.documents import canonical_json, to_toml

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def types_in(value):
    """The types of a nested value, since True == 1 == 1.0."""
    if isinstance(value, dict):
        return {key: types_in(item) for key, item in value.items()}
    return [types_in(item) for item in value] if isinstance(value, list) else type(value)


@settings(deadline=None)
@given(st.dictionaries(texts, values, max_size=4))
def test_toml_gives_back_what_was_written(document):
    """Any settings that TOML can hold come back equal, and of the same types."""
    again = tomllib.loads(to_toml(document))

    assert again == document
    assert types_in(again) == types_in(document)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"a": {"b": None}}, "setting a.b is None"),
        ({"a": [object()]}, "setting a is <object"),
        ({1: 2}, "setting 1 is not named by text"),
        ({"a": "\ud800"}, "half a surrogate pair"),
    ],
)
def test_toml_refuses_what_it_cannot_hold(document, message):
    """A value without a TOML form is refused by its name, never written as something else."""
    with pytest.raises(SettingsError, match=message):
        to_toml(document)


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 200), st.floats(allow_nan=False, allow_infinity=False), max_size=12))
def test_canonical_json_is_a_fixed_point(document):
    """Writing, reading and writing again gives the same text, number keys included."""
    text = canonical_json(document, what="it")

    assert canonical_json(json.loads(text), what="it") == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": object()}, {("a",): 1}])
def test_canonical_json_refuses_what_json_lacks(value):
    """NaN, infinity and objects are refused with the name of what holds them."""
    with pytest.raises(SettingsError, match=r"^evaluation cannot be written as JSON"):
        canonical_json(value, what="evaluation")
