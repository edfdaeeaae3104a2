"""Kept results: found by later invocations, bounded, and never a reason to lose a row."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError

from core import deadline, table
from core.calls import reuse
from core.calls.reuse import MAX_RESULT_BYTES, Kind, Reuse, read_period
from core.calls.rows import run_rows
from core.calls.versions import code_version
from core.catalog import CallOptions
from core.errors import FunctionError
from core.settings import SettingError
from core.table import MAX_BATCH_READS, MAX_BATCH_WRITES
from tests.unit.core.calls.counted import Counted, write_code
from tests.unit.fake_aws import FakeAws, FakeContext

DAY = 24 * 3600
UNREACHABLE: list[Exception] = [
    EndpointConnectionError(endpoint_url="https://x"),
    ConnectTimeoutError(endpoint_url="https://x"),
]


@pytest.fixture(autouse=True)
def code(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_code(tmp_path, monkeypatch, "f")
    # What DynamoDB leaves undone is asked for again at once.
    monkeypatch.setattr(table, "_BATCH_PAUSE_SECONDS", 0.0)
    # A write has as many results as fit, or all, however slow this machine is.
    monkeypatch.setattr(reuse, "_COLLECT_SECONDS", 60.0)
    return tmp_path / "f.py"


def remember(**options: Any) -> Counted:
    """The function, in another execution environment."""
    code_version.cache_clear()
    return Counted(**{"reuse": "7 days", **options})


def kept(code: Path, name: str = "f", kind: Kind = "function", period: str = "7 days") -> Reuse:
    found = Reuse.of(kind, name, CallOptions(reuse=period), code)
    assert found
    return found


def results(aws: FakeAws) -> list[Any]:
    """The values that are kept."""
    return [json.loads(item["text"]["S"]) for item in aws.dynamodb.reuse_items.values() if "text" in item]


def day(aws: FakeAws, date: str, name: str = "function#f") -> dict[str, int]:
    """The numbers of a day."""
    item = aws.dynamodb.reuse_items[name, f"day#{date}"]
    return {key: int(item[key]["N"]) for key in ("hits", "misses", "entries", "bytes")}


# --- what is found ---


@pytest.mark.parametrize("shape", [{}, {"vectorized": True, "rows_per_call": 7}, {"concurrency": 3}])
def test_a_result_is_used_by_every_later_batch(shape: dict[str, Any]) -> None:
    rows = [f"é{n}" for n in range(250)]
    assert remember(**shape).run(rows[:200]) == [[row] for row in rows[:200]]

    later = remember(**shape)
    assert later.run(list(reversed(rows)), first=7) == [[row] for row in reversed(rows)]
    assert sorted(later.called) == sorted(rows[200:])


def test_nulls_are_kept(aws: FakeAws) -> None:
    assert remember(answer=lambda _: None).run(["a"]) == [None]

    later = remember()
    assert later.run(["a"]) == [None]
    assert later.calls == []
    assert results(aws) == [None]


@pytest.mark.parametrize("shape", [{}, {"vectorized": True}])
@pytest.mark.parametrize("on_error", ["fail", "null", "object"])
def test_errors_are_not_kept(aws: FakeAws, on_error: str, shape: dict[str, Any]) -> None:
    def picky(value: Any) -> Any:
        if value == "bad":
            raise ValueError("no")
        return "good"

    rows = ["a", "bad", "b"]
    function = remember(answer=picky, on_error=on_error, **shape)
    if on_error == "fail":
        with pytest.raises(FunctionError):
            function.run(rows)
    else:
        function.run(rows)
    assert set(results(aws)) == {"good"}

    later = remember(answer=lambda value: "better", on_error=on_error, **shape)
    assert later.run(["bad", "a"]) == ["better", "good"]
    assert later.called == ["bad"]


def test_a_result_is_kept_by_kind_and_name(code: Path) -> None:
    for kind, name in (("function", "f"), ("function", "g"), ("service", "f")):
        each = kept(code, name, kind)  # type: ignore[arg-type]
        each.save(each.digest("x"), f'"{kind} {name}"')
        each.close()

    found = kept(code)
    assert found.load([found.digest("x")]) == {found.digest("x"): '"function f"'}
    assert kept(code, "h").load([found.digest("x")]) == {}


def test_other_code_or_another_named_version_starts_afresh(code: Path) -> None:
    def is_called(**options: Any) -> bool:
        function = remember(**options)
        function.run(["a"])
        return bool(function.calls)

    assert [is_called(), is_called()] == [True, False]
    assert [is_called(version="2"), is_called(version="2"), is_called()] == [True, False, False]
    (code.parent / "g.py").write_text("def g(a): ...  # another file\n")
    assert not is_called()
    code.write_text("def f(a): ...  # other code\n")
    assert [is_called(), is_called(), is_called(version="2")] == [True, False, True]


def test_a_version_may_be_a_variable_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for model in ("small", "small", "large"):
        monkeypatch.setenv("MODEL", model)
        function = remember(version="${MODEL}")
        function.run(["a"])
        called.append(len(function.calls))
    assert called == [1, 0, 1]


@pytest.mark.parametrize("period", ["none", "${PERIOD}"])
def test_none_keeps_nothing(aws: FakeAws, monkeypatch: pytest.MonkeyPatch, period: str) -> None:
    monkeypatch.setenv("PERIOD", "none")
    function = remember(reuse=period)

    function.run(["a"])
    function.run(["a"])

    assert (len(function.calls), aws.faults.calls) == (2, [])


def test_what_has_expired_is_not_used_before_dynamodb_deletes_it(aws: FakeAws) -> None:
    remember(reuse="1 hour").run(["a"])
    aws.clock.sleep(3599)
    assert remember(reuse="1 hour").run(["a"]) == [["a"]]

    aws.clock.sleep(1)
    function = remember(answer=lambda _: "new", reuse="1 hour")
    assert function.run(["a"]) == ["new"]
    assert results(aws) == ["new"]


def test_each_item_expires(aws: FakeAws) -> None:
    remember(reuse="12 hours").run(["a"])

    expiries = {
        int(item["expires_at"]["N"]) - int(aws.clock.now) for item in aws.dynamodb.reuse_items.values()
    }
    assert expiries == {12 * 3600, 12 * 3600 + DAY}


def test_arguments_are_not_kept(aws: FakeAws) -> None:
    remember(answer=lambda _: 1).run(["a secret text"])
    assert "secret" not in str(aws.dynamodb.reuse_items)


# --- in batches ---


def test_reads_and_writes_are_batches(aws: FakeAws) -> None:
    count = 2 * MAX_BATCH_READS + 1
    remember().run(list(range(count)))

    operations = aws.faults.operations()
    assert operations.count("batch_get_item") == 3
    assert operations.count("batch_write_item") == -(-count // MAX_BATCH_WRITES)
    assert len(results(aws)) == count


def test_results_are_spread_over_partitions(aws: FakeAws) -> None:
    remember().run(list(range(300)))
    partitions = {pk for pk, _ in aws.dynamodb.reuse_items}
    assert partitions == {"function#f", *(f"function#f#{digit}" for digit in "0123456789abcdef")}


def test_keys_that_are_left_unprocessed_are_asked_for_again(aws: FakeAws) -> None:
    rows = list(range(60))
    remember().run(rows)
    for left in (40, 20, 1):
        aws.faults.leave_unprocessed("batch_get_item", left)

    function = remember()
    assert function.run(rows) == [[row] for row in rows]
    assert function.calls == []


@pytest.mark.parametrize("error", ["ThrottlingException", *UNREACHABLE], ids=str)
def test_what_was_read_before_the_rest_was_refused_is_used(aws: FakeAws, error: str | Exception) -> None:
    rows = list(range(60))
    remember().run(rows)
    aws.faults.leave_unprocessed("batch_get_item", 10)
    aws.faults.fail("batch_get_item", error)

    function = remember()
    assert function.run(rows) == [[row] for row in rows]
    assert len(function.called) == 10


def test_results_that_are_left_unprocessed_are_written_again(aws: FakeAws) -> None:
    aws.faults.leave_unprocessed("batch_write_item", 1, times=1)
    remember().run(list(range(60)))
    assert len(results(aws)) == 60


def lost_of(function: Counted, rows: list[Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many results could not be kept."""
    made: list[Reuse] = []
    of = Reuse.of

    def find(*arguments: Any) -> Reuse | None:
        found = of(*arguments)
        assert found
        made.append(found)
        return found

    monkeypatch.setattr(Reuse, "of", find)
    assert function.run(rows) == [[row] for row in rows]
    return made[-1].lost


def test_results_that_stay_unprocessed_are_lost_and_counted(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last is refused as a whole, as DynamoDB does where nothing of a batch can be written.
    aws.faults.leave_unprocessed("batch_write_item", 1, times=8)

    lost = lost_of(remember(), ["a", "b", "c"], monkeypatch)

    assert (lost, len(results(aws))) == (1, 2)
    assert day(aws, "1970-01-01")["entries"] == 2


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [("x" * (MAX_RESULT_BYTES - 4), True), ("x" * (MAX_RESULT_BYTES - 3), False), ("é" * 9000, False)],
)
def test_a_large_result_is_not_kept(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch, text: str, is_kept: bool
) -> None:
    lost = lost_of(remember(), [text], monkeypatch)

    assert (results(aws) == [[text]]) is is_kept
    assert lost == (0 if is_kept else 1)


# --- the bound ---


def test_what_exceeds_the_bound_is_not_kept(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REUSE_MEGABYTES", "1")
    for number in range(8):
        remember().run([f"{number}{'x' * 10_000}{row}" for row in range(20)])
    # The bound is looked at once for each invocation.
    assert 1 << 20 <= day(aws, "1970-01-01")["bytes"] < 1.3 * (1 << 20)

    assert lost_of(remember(), ["a", "b"], monkeypatch) == 2
    assert ["a"] not in results(aws)


def test_what_has_expired_leaves_room(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REUSE_MEGABYTES", "0.01")
    remember(reuse="3 days").run(["x" * 15_000])
    aws.clock.sleep(2 * DAY)
    assert lost_of(remember(reuse="3 days"), ["a"], monkeypatch) == 1
    aws.clock.sleep(2 * DAY)
    assert lost_of(remember(reuse="3 days"), ["a"], monkeypatch) == 0


def test_each_function_has_the_bound_for_itself(
    aws: FakeAws, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REUSE_MEGABYTES", "0.01")
    remember().run(["x" * 15_000])

    other = kept(code, "g")
    other.save(other.digest("x"), "1")
    other.close()

    assert other.lost == 0


# --- a table that does not answer ---


@pytest.mark.parametrize("error", ["ThrottlingException", "InternalServerError", *UNREACHABLE], ids=str)
@pytest.mark.parametrize("shape", [{}, {"vectorized": True, "rows_per_call": 10, "concurrency": 3}])
def test_a_table_that_cannot_be_read_costs_calls_and_no_row(
    aws: FakeAws, error: str | Exception, shape: dict[str, Any]
) -> None:
    rows = list(range(1500))
    remember().run(rows)
    aws.faults.fail("batch_get_item", error, times=1000)
    aws.faults.calls.clear()

    function = remember(**shape)
    assert function.run(rows) == [[row] for row in rows]

    assert sorted(function.called) == rows
    # It is not asked again and again: each answer may take as long as a client waits.
    assert aws.faults.operations().count("batch_get_item") <= 4


@pytest.mark.parametrize("error", ["ThrottlingException", "InternalServerError", *UNREACHABLE], ids=str)
@pytest.mark.parametrize("operation", ["batch_write_item", "query", "update_item"])
def test_a_table_that_cannot_be_written_costs_no_row(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch, operation: str, error: str | Exception
) -> None:
    aws.faults.fail(operation, error, times=1000)

    lost = lost_of(remember(), list(range(300)), monkeypatch)

    assert lost == (0 if operation == "update_item" else 300)
    assert aws.faults.operations().count(operation) == 1


def test_a_table_that_takes_only_a_part_is_soon_left_alone(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.faults.leave_unprocessed("batch_write_item", 1, times=1000)
    lost = lost_of(remember(vectorized=True), list(range(500)), monkeypatch)

    assert lost + len(results(aws)) == 500
    assert lost >= 400
    assert aws.faults.operations().count("batch_write_item") <= 3 * 8


def test_a_table_that_denies_is_an_error(aws: FakeAws) -> None:
    aws.faults.fail("batch_get_item", "AccessDeniedException")

    with pytest.raises(ClientError, match="AccessDenied"):
        remember().run(["a"])


def test_a_write_that_is_not_answered_does_not_outlast_the_invocation(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuse, "_LEAST_CLOSE_SECONDS", 0.01)
    deadline.begin(FakeContext(seconds_left=0))
    is_over = threading.Event()
    aws.faults.meanwhile("batch_write_item", lambda: is_over.wait(30))

    assert remember().run(["a"]) == [["a"]]
    assert results(aws) == []
    is_over.set()


def test_equal_results_of_two_workers_are_one(aws: FakeAws, code: Path) -> None:
    for _ in range(2):
        worker = kept(code)
        worker.save(worker.digest("x"), '"same"')
        worker.save(worker.digest("x"), '"same"')
        worker.close()

    assert results(aws) == ["same"]


# --- statistics ---


def test_each_day_is_counted(aws: FakeAws) -> None:
    remember(deduplicate=True).run(["a", "b", "b", "c"])
    remember().run(["a", "b", "d"])
    assert day(aws, "1970-01-01") == {
        "hits": 2,
        "misses": 4,
        "entries": 4,
        "bytes": 4 * (reuse._ITEM_BYTES + len('["a"]')),
    }

    aws.clock.sleep(DAY)
    remember().run(["a"])
    assert day(aws, "1970-01-02") == {"hits": 1, "misses": 0, "entries": 0, "bytes": 0}
    assert day(aws, "1970-01-01")["hits"] == 2


def test_errors_are_misses_and_no_entries(aws: FakeAws) -> None:
    def refuse(_: Any) -> Any:
        raise ValueError

    remember(answer=refuse, on_error="null").run(["a", "b"])
    assert day(aws, "1970-01-01") == {"hits": 0, "misses": 2, "entries": 0, "bytes": 0}


def test_an_invocation_is_counted_with_one_write(aws: FakeAws) -> None:
    remember(concurrency=4).run(list(range(100)))
    assert aws.faults.operations().count("update_item") == 1
    aws.faults.calls.clear()

    remember().run([])
    assert aws.faults.operations() == []


# --- how long ---


@pytest.mark.parametrize(
    ("option", "seconds"),
    [("none", 0), ("1 minute", 60), ("30 minutes", 1800), ("1 hour", 3600), ("7 days", 7 * DAY)],
)
def test_a_period_is_read(monkeypatch: pytest.MonkeyPatch, option: str, seconds: int) -> None:
    monkeypatch.setenv("PERIOD", option)
    assert read_period(option) == read_period("${PERIOD}") == seconds


@pytest.mark.parametrize("value", ["", "7", "days", "0 days", "-1 days", "7 weeks", "7days", "1.5 hours"])
def test_a_variable_that_is_no_period_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PERIOD", value)
    with pytest.raises(SettingError, match=r"\$\{PERIOD\} is '.*', which is no period such as \"7 days\""):
        read_period("${PERIOD}")


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(SettingError, match="the environment variable NOWHERE is not set"):
        run_rows(remember(reuse="${NOWHERE}").signature, lambda a: a, [["a"]], 0)
