"""Rows through remote functions: conversions, chunk order, and functions that misbehave."""

import json
import math
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError

from core.calls.rows import run_rows
from core.catalog import OnError, Parameter, Signature, read_catalog
from core.errors import (
    ArgumentError,
    FunctionError,
    RateLimited,
    ResultError,
    TaskError,
    ThrottleError,
    TransientError,
)
from core.remote import load_function
from tests.unit.fake_aws import client_error

Function = Callable[..., Any]
POLICIES: list[OnError] = ["fail", "null", "object"]

# What fails for a reason that passes is called again, after a pause on the tests' clock.
pytestmark = pytest.mark.usefixtures("aws")


def signature(*types: str, returns: str = "Any", variadic: bool = False, **options: Any) -> Signature:
    parameters = tuple(Parameter("abc"[index], kind) for index, kind in enumerate(types))
    return Signature("f", parameters, variadic, returns, **options)


def run(function: Function, rows: list[list[Any]], declared: Signature, first_row: int = 0) -> list[Any]:
    """The values that rows become."""
    return [json.loads(text, parse_float=Decimal) for text in run_rows(declared, function, rows, first_row)]


def failure(function: Function, rows: list[list[Any]], declared: Signature) -> TaskError:
    with pytest.raises(TaskError) as raised:
        run_rows(declared, function, rows, 40)
    return raised.value


# Arguments


@pytest.mark.parametrize(
    ("kind", "sent", "got"),
    [
        ("str", "", ""),
        ("str", "é😀", "é😀"),
        ("int", 12345678901234567890123456789012345678, 12345678901234567890123456789012345678),
        ("int", Decimal("1E+3"), 1000),
        ("int", Decimal("7.00"), 7),
        ("float", 3, 3.0),
        ("float", Decimal("0.1"), 0.1),
        ("float", "inf", math.inf),
        ("float", "-inf", -math.inf),
        ("Decimal", Decimal("1.10"), Decimal("1.10")),
        ("Decimal", 7, Decimal(7)),
        ("bool", True, True),
        ("date", "2026-11-22", date(2026, 11, 22)),
        ("time", "03:04:05.123", time(3, 4, 5, 123000)),
        ("time", "03:04:05.123456789", time(3, 4, 5, 123456)),
        ("datetime", "2026-11-22 03:04:05.123456789", datetime(2026, 11, 22, 3, 4, 5, 123456)),
        ("datetime", "2026-11-22T03:04:05Z", datetime(2026, 11, 22, 3, 4, 5, tzinfo=UTC)),
        ("bytes", "00FF7f", b"\x00\xff\x7f"),
        ("dict", {"a": [1]}, {"a": [1]}),
        ("list", [1, None], [1, None]),
        ("Any", {"a": Decimal("1.10")}, {"a": Decimal("1.10")}),
    ],
)
def test_an_argument_arrives_as_its_hint_says(kind: str, sent: Any, got: Any) -> None:
    arrived: list[Any] = []
    run(arrived.append, [[sent], [None]], signature(kind))
    assert arrived == [got, None]
    assert type(arrived[0]) is type(got)
    assert str(arrived[0]) == str(got)


def test_not_a_number_is_a_float() -> None:
    arrived: list[float] = []
    run(arrived.append, [["NaN"]], signature("float"))
    assert math.isnan(arrived[0])


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("str", 1),
        ("int", "1"),
        ("int", True),
        ("int", Decimal("1.5")),
        ("float", "1.5"),
        ("float", False),
        ("Decimal", "1"),
        ("Decimal", True),
        ("bool", 1),
        ("bool", "true"),
        ("date", "yesterday"),
        ("date", 20261122),
        ("time", "25:00"),
        ("datetime", {}),
        ("bytes", "xyz"),
        ("dict", []),
        ("list", {}),
    ],
)
def test_an_argument_of_another_type_is_named_without_its_value(kind: str, sent: Any) -> None:
    error = failure(lambda _: None, [[None], [sent]], signature(kind))
    assert type(error) is ArgumentError
    assert str(error).startswith("row 41: a is ")
    assert f"which is not {kind}" in str(error)
    assert "yesterday" not in str(error)


def test_arguments_of_a_variadic_function() -> None:
    declared = signature("str", "int", variadic=True)
    assert run(lambda a, *b: [a, *b], [["x"], ["x", 1], ["x", 1, Decimal(2)]], declared) == [
        ["x"],
        ["x", 1],
        ["x", 1, 2],
    ]


# Values


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("str", "é\n\u2028", '"é\\n\u2028"'),
        ("str", "", '""'),
        ("int", 12345678901234567890123456789012345678, "12345678901234567890123456789012345678"),
        ("float", 0.1, "0.1"),
        ("float", 3, "3"),
        ("Decimal", Decimal("1.10"), "1.10"),
        ("Decimal", 0.5, "0.5"),
        ("bool", True, "true"),
        ("date", date(2026, 11, 22), '"2026-11-22"'),
        ("time", time(3, 4, 5), '"03:04:05"'),
        ("datetime", datetime(2026, 11, 22, 3, 4, 5, tzinfo=UTC), '"2026-11-22T03:04:05+00:00"'),
        ("bytes", b"\x00\xff", '"00ff"'),
        ("bytes", bytearray(b"\x01"), '"01"'),
        ("dict", {"a": {"b": Decimal("1.10")}}, '{"a":{"b":1.10}}'),
        ("list", (1, None), "[1,null]"),
        ("Any", {"when": date(2026, 1, 2), "what": [b"\x01"]}, '{"when":"2026-01-02","what":["01"]}'),
    ],
)
@pytest.mark.parametrize("vectorized", [True, False])
def test_a_value_is_written_as_snowflake_reads_it(kind: str, value: Any, text: str, vectorized: bool) -> None:
    declared = signature("Any", returns=kind, vectorized=vectorized)
    function: Function = (lambda a: [value, None]) if vectorized else (lambda a: value if a else None)
    assert run_rows(declared, function, [[1], [None]], 0) == [text, "null"]


ITSELF: list[Any] = []
ITSELF.append(ITSELF)

WRONG: list[tuple[str, Any]] = [
    ("str", 1),
    ("int", "1"),
    ("int", True),
    ("int", 1.5),
    ("float", "1.5"),
    ("float", math.nan),
    ("float", math.inf),
    ("Decimal", Decimal("NaN")),
    ("Decimal", Decimal("1E+400")),
    ("bool", 1),
    ("date", "2026-11-22"),
    ("bytes", "00"),
    ("dict", [1]),
    ("list", {}),
    ("Any", {1, 2}),
    ("Any", object()),
    ("Any", "\ud800"),
    ("Any", {(1, 2): 3}),
    ("Any", [math.inf]),
    ("Any", ITSELF),
]


@pytest.mark.parametrize(("kind", "value"), WRONG, ids=[f"{kind}-{n}" for n, (kind, _) in enumerate(WRONG)])
@pytest.mark.parametrize("vectorized", [True, False])
def test_a_value_that_cannot_be_sent_is_an_error_in_its_row(kind: str, value: Any, vectorized: bool) -> None:
    rows: list[list[Any]] = [[0], [1]]
    function: Function = (lambda a: [None, value]) if vectorized else (lambda a: value if a else None)
    declared = signature("Any", returns=kind, vectorized=vectorized)
    error = failure(function, rows, declared)
    assert type(error) is ResultError
    assert str(error).startswith("f, row 41: the value it returned cannot be sent: ")
    declared = signature("Any", returns=kind, vectorized=vectorized, on_error="null")
    assert run(function, rows, declared) == [None, None]
    declared = signature("Any", returns=kind, vectorized=vectorized, on_error="object")
    good, bad = run(function, rows, declared)
    assert good is None
    assert bad["error"] == "ResultError"


# Errors


def picky(a: int) -> int:
    if a == 2:
        raise ValueError(f"no {a}s")
    return a * 10


def picky_list(a: list[int]) -> list[Any]:
    return [ValueError("no 2s") if value == 2 else value * 10 for value in a]


@pytest.mark.parametrize(
    ("function", "options"),
    [(picky, {}), (picky, {"concurrency": 3}), (picky_list, {"vectorized": True})],
    ids=["row by row", "in parallel", "vectorized"],
)
def test_one_bad_row_is_handled_as_on_error_says(function: Function, options: dict[str, Any]) -> None:
    rows: list[list[Any]] = [[1], [2], ["x"], [3]]
    error = failure(function, [[1], [2], [3]], signature("int", **options))
    assert type(error) is FunctionError
    assert str(error) == "f, row 41: ValueError: no 2s"
    assert run(function, rows, signature("int", on_error="null", **options)) == [10, None, None, 30]
    assert run(function, rows, signature("int", on_error="object", **options)) == [
        10,
        {"error": "ValueError", "cause": "no 2s"},
        {"error": "ArgumentError", "cause": "a is str, which is not int"},
        30,
    ]


def test_a_vectorized_function_that_raises_fails_all_its_rows() -> None:
    def function(a: list[int]) -> list[int]:
        raise KeyError(len(a))

    rows: list[list[Any]] = [[1], ["x"], [2]]
    error = failure(function, [[1], [2]], signature("int", vectorized=True))
    assert (type(error), str(error)) == (FunctionError, "f: KeyError: 2")
    assert run(function, rows, signature("int", vectorized=True, on_error="null")) == [None] * 3
    errors = run(function, rows, signature("int", vectorized=True, on_error="object"))
    assert [row["error"] for row in errors] == ["KeyError", "ArgumentError", "KeyError"]


def test_a_vectorized_function_is_not_called_without_rows() -> None:
    def function(a: list[int]) -> list[int]:
        raise AssertionError

    assert run(function, [], signature("int", vectorized=True)) == []
    assert run(function, [["x"]], signature("int", vectorized=True, on_error="null")) == [None]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("returned", [[], [1], [1, 2, 3], "ab", None, {0: 1, 1: 2}, (1, 2)])
def test_too_few_too_many_or_no_rows_fail_the_batch(returned: Any, policy: OnError) -> None:
    declared = signature("int", vectorized=True, on_error=policy)
    error = failure(lambda a: returned, [[1], [2]], declared)
    assert type(error) is ResultError
    assert ("got 2 rows and returned" if isinstance(returned, list) else "must return a list") in str(error)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("vectorized", [True, False])
def test_a_transient_error_is_raised_whatever_the_policy(vectorized: bool, policy: OnError) -> None:
    def function(_: Any) -> Any:
        raise TransientError("busy")

    declared = signature("int", vectorized=vectorized, on_error=policy)
    error = failure(function, [[1]], declared)
    assert type(error) is TransientError
    assert "TransientError: busy" in str(error)
    one_row = failure(lambda a: [TransientError("busy")], [[1]], signature("int", vectorized=True))
    assert type(one_row) is TransientError


@pytest.mark.parametrize(
    "raised",
    [
        ConnectionResetError("reset"),
        TimeoutError("late"),
        client_error("InternalServerException", "BatchDetectSentiment"),
        EndpointConnectionError(endpoint_url="https://x"),
        ConnectTimeoutError(endpoint_url="https://x"),
    ],
    ids=lambda raised: type(raised).__name__,
)
def test_errors_of_the_network_and_internal_ones_are_transient_unless_on_error_answers_them(
    raised: Exception,
) -> None:
    def function(_: Any) -> Any:
        raise raised

    assert type(failure(function, [[1]], signature("int"))) is TransientError
    assert run(function, [[1]], signature("int", on_error="null")) == [None]


class TooMany(Exception):
    """An error of an HTTP client that has the status where urllib has it."""

    code = 429


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "raised",
    [
        ThrottleError("slower"),
        TooMany("slower"),
        client_error("ThrottlingException", "BatchDetectSentiment"),
        client_error("SlowDown", "GetObject"),
    ],
    ids=lambda raised: type(raised).__name__,
)
@pytest.mark.parametrize("vectorized", [True, False])
def test_a_throttled_call_is_repeated_whatever_the_policy(
    raised: Exception, policy: OnError, vectorized: bool
) -> None:
    refusals = [raised] * 10

    def function(a: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return a

    declared = signature("int", on_error=policy, vectorized=vectorized)
    assert run(function, [[1]], declared) == [1]
    refusals.extend([raised] * 100_000)
    error = failure(function, [[1]], declared)
    assert type(error) is RateLimited
    assert f"{type(raised).__name__}: " in str(error)


def test_a_persistent_error_of_aws_is_final() -> None:
    def function(_: Any) -> Any:
        raise client_error("AccessDenied", "GetObject")

    assert type(failure(function, [[1]], signature("int"))) is FunctionError


def test_a_long_message_is_cut_and_half_a_character_replaced() -> None:
    def function(_: Any) -> Any:
        raise ValueError("\ud800" + "x" * 1_000_000)

    error = failure(function, [[1]], signature("int"))
    assert str(error).startswith("f, row 40: ValueError: ?xxx")
    assert len(str(error)) == 500
    (row,) = run(function, [[1]], signature("int", on_error="object"))
    assert len(row["cause"]) == 500


def test_recursion_in_a_function_is_its_error() -> None:
    def function(a: int) -> Any:
        return function(a)

    assert "RecursionError" in str(failure(function, [[1]], signature("int")))


# In parallel


def test_rows_wait_in_parallel_and_are_returned_in_order() -> None:
    together = threading.Barrier(4, timeout=10)

    def function(a: int) -> int:
        together.wait()
        return a

    rows = [[n] for n in range(8)]
    assert run(function, rows, signature("int", concurrency=4)) == list(range(8))


def test_after_a_failure_rows_that_have_not_started_do_not_start() -> None:
    begun: list[int] = []
    failed = threading.Event()

    def function(a: int) -> int:
        begun.append(a)
        if a == 0:
            failed.set()
            raise ValueError
        failed.wait(10)
        return a

    failure(function, [[n] for n in range(1000)], signature("int", concurrency=2))
    assert len(begun) < 1000


# The functions that are shipped, and those of the tests

TEST_FUNCTIONS = Path(__file__).parents[2] / "functions"


def test_echo_fail_and_sleep_do_what_their_docstrings_say() -> None:
    catalog = read_catalog(diagnostics=True)
    assert run(load_function("echo"), [[1, "a", None], []], catalog["echo"]) == [[1, "a", None], []]
    assert run(load_function("sleep"), [[0], [None]], catalog["sleep"]) == [Decimal("0.0"), None]
    error = failure(load_function("fail"), [["oops"]], catalog["fail"])
    assert str(error) == "fail, row 40: RuntimeError: oops"


def test_the_tests_own_functions_are_remote_functions() -> None:
    assert len(read_catalog(TEST_FUNCTIONS)) >= 10
