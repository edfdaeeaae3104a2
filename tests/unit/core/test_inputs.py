"""A workflow's input: what its schema says, and numbers as its state machine reads them."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.catalog import Workflow
from core.exact_json import dump_json, parse_json
from core.inputs import InputError, validate

SCHEMA = {
    "type": "object",
    "properties": {
        "size": {"type": "integer", "minimum": 1},
        "rate": {"type": "number"},
        "name": {"type": "string", "maxLength": 100},
        "mode": {"enum": ["fast", "slow"]},
        "list": {"type": "array", "items": {"type": "object"}},
    },
    "oneOf": [{"required": ["size"]}, {"required": ["list"]}],
    "additionalProperties": False,
}
WORKFLOW = Workflow("w", "", SCHEMA, "run_id")
ANYTHING = Workflow("any", "", {}, "run_id")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"size": 0}', "at $.size: 0 is less than the minimum of 1"),
        ('{"size": 1.5}', "at $.size: 1.5 is not of type 'integer'"),
        ('{"size": true}', "at $.size: true is not of type 'integer'"),
        ('{"size": null}', "at $.size: null is not of type 'integer'"),
        ('{"size": 1, "mode": "none"}', "at $.mode: 'none' is not one of ['fast', 'slow']"),
        ('{"list": [{}, "é"]}', "at $.list[1]: 'é' is not of type 'object'"),
        ('{"list": [{"a": null}, [null, "é"]]}', "at $.list[1]: [null, \"é\"] is not of type 'object'"),
        ("{}", "at $: 'size' is a required property, or 'list' is a required property"),
        ("[]", "at $: [] is not of type 'object'"),
        ('{"size": 1, "siez": 2}', "at $: Additional properties are not allowed ('siez' was unexpected)"),
    ],
)
def test_a_bad_value_is_named_with_its_path(text: str, message: str) -> None:
    with pytest.raises(InputError, match=r"^at \$") as raised:
        validate(WORKFLOW, parse_json(text))
    assert str(raised.value) == message


@pytest.mark.parametrize("document", [{"size": 1, "name": "é" * 100_000}, {"size": 1, "x" * 100_000: 1}])
def test_a_message_is_shortened(document: Any) -> None:
    with pytest.raises(InputError, match=r"^at \$") as raised:
        validate(WORKFLOW, document)
    assert len(str(raised.value)) < 600


def test_a_message_about_a_long_value_says_that_it_is_too_long() -> None:
    with pytest.raises(InputError, match="… is too long"):
        validate(WORKFLOW, {"size": 1, "name": "a" * 101})


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("1.000000000000000e+01", "10"),
        ("10.0", "10"),
        ("-0.0", "0"),
        ("1.10", "1.1"),
        ("3.333333333333333e-01", "0.3333333333333333"),
        ("9007199254740992", "9007199254740992.0"),
        ("1e300", "1e+300"),
        ("true", "true"),
        ('"1.10"', '"1.10"'),
    ],
)
def test_numbers_are_those_that_a_state_machine_reads(text: str, read: str) -> None:
    assert dump_json(validate(ANYTHING, parse_json(f'{{"a": [{text}]}}'))) == f'{{"a":[{read}]}}'


@pytest.mark.parametrize(
    "text",
    ["9007199254740993", "12345678901234567890", "0.1000000000000000055", "1e-400", "-9007199254740993"],
)
def test_a_number_that_would_change_is_refused(text: str) -> None:
    number = parse_json(text)
    with pytest.raises(InputError, match=r"^at \$\.a\[1\]\.b: .* has more digits than a state machine keeps"):
        validate(ANYTHING, {"a": [1, {"b": number}]})


numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | numbers,
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_a_document_of_doubles_keeps_its_values(document: Any) -> None:
    assert validate(ANYTHING, document) == document
    assert validate(ANYTHING, parse_json(json.dumps(document))) == document


def test_the_given_document_is_not_changed() -> None:
    document = {"a": [Decimal("1.0")]}
    validate(ANYTHING, document)
    assert dump_json(document) == '{"a":[1.0]}'
