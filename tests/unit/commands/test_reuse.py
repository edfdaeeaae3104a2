"""`stepflake reuse`: what is counted of kept results, and that they can be deleted."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from core.calls.reuse import Reuse
from stepflake import reuse, tables
from stepflake.cli import main
from stepflake.commands import reuse as command
from tests.unit.commands.stack import STACK, Write, connect
from tests.unit.fake_aws import FakeAws
from tests.unit.fake_aws.dynamodb import MAX_BATCH_REQUESTS

FUNCTION = """
    @remote_function(reuse="${PERIOD}")
    def score(text: str) -> str: ...
"""
SERVICE = """
    @service(reuse="12 hours")
    def score(document): ...
"""
PLAIN = """
    @remote_function()
    def plain(text: str) -> str: ...
"""
DAY = 24 * 3600
WEEK = 7 * DAY


@pytest.fixture
def write(aws: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Write:
    monkeypatch.setattr(reuse, "time", aws.clock)
    monkeypatch.setattr(tables, "time", aws.clock)
    monkeypatch.setattr(command, "find_stack", lambda **_: STACK)
    write = connect(aws, monkeypatch, tmp_path, PERIOD="7 days")
    write(plain=PLAIN)
    return write


def call(*arguments: str, exit_code: int = 0, given: str | None = None) -> Result:
    result = CliRunner(mix_stderr=False).invoke(
        main, ["reuse", *arguments], input=given, catch_exceptions=False
    )
    assert result.exit_code == exit_code, result.stdout + result.stderr
    return result


def listed() -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = json.loads(call("stats", "--json").stdout)
    return kept


def keep(kind: Any, name: str, count: int, *, hits: int = 0, version: str = "v1", first: int = 0) -> None:
    """As an invocation of a Lambda does that keeps so many results."""
    results = Reuse(kind, name, version, WEEK)
    results.hits, results.misses = hits, count
    for number in range(first, first + count):
        results.save(results.digest(str(number)), '"x"')
    results.close()


def kept(aws: FakeAws) -> int:
    """The results that the table has."""
    return sum(1 for _, sk in aws.dynamodb.reuse_items if not sk.startswith("day#"))


def test_what_is_kept_and_what_it_spared(aws: FakeAws, write: Write) -> None:
    write(score=FUNCTION)
    keep("function", "score", 30, hits=10)
    keep("function", "score", 10, hits=110, version="v2", first=30)
    assert listed() == [
        {
            "kind": "function",
            "name": "score",
            "reuse": "7 days",
            "reuse_seconds": WEEK,
            "entries": 40,
            "bytes": 40 * 253,
            "hits": 120,
            "misses": 40,
            "hit_share": 0.75,
            "version": "v2",
        }
    ]
    lines = [line.split() for line in call("stats").stdout.splitlines()]
    assert ["function", "score", "7", "days", "40", "0.0", "120", "40", "75.0%", "v2"] in lines


def test_a_function_and_a_service_of_the_same_name(aws: FakeAws, write: Write) -> None:
    write(score=FUNCTION)
    write(score=SERVICE)
    keep("service", "score", 3)
    found = [(each["kind"], each["entries"], each["hit_share"]) for each in listed()]
    assert found == [("function", 0, None), ("service", 3, 0.0)]


def test_days_before_the_period_do_not_count(aws: FakeAws, write: Write) -> None:
    write(score=FUNCTION)
    keep("function", "score", 5)
    aws.clock.now += 4 * DAY
    keep("function", "score", 6, first=5)
    assert listed()[0]["entries"] == 11
    aws.clock.now += 4 * DAY
    assert listed()[0]["entries"] == 6


def test_it_says_when_no_more_is_kept(aws: FakeAws, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(score=FUNCTION)
    monkeypatch.setitem(STACK.parameters, "ReuseMegabytes", "1")
    keep("function", "score", 4)
    assert "full" not in call("stats").stdout
    key = ("function#score", "day#1970-01-01")
    aws.dynamodb.reuse_items[key]["bytes"] = {"N": str(1 << 20)}
    assert "1.0 (full)" in call("stats").stdout


def test_no_function_that_reuses_and_one_for_which_it_is_off(
    aws: FakeAws, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert 'To declare it: @remote_function(reuse="7 days")' in call("stats").stdout
    write(score=FUNCTION)
    connect(aws, monkeypatch, tmp_path, PERIOD="none")
    assert listed() == []


def test_results_of_one_name_are_deleted(aws: FakeAws, write: Write) -> None:
    write(score=FUNCTION, other=FUNCTION.replace("score", "other"))
    keep("function", "score", 130, hits=5)
    keep("service", "score", 3)
    keep("function", "other", 4)
    result = call("clear", "score", "--yes")
    assert result.stdout == "Deleted 133 results: 130 of function score, 3 of service score.\n"
    assert kept(aws) == 4
    of_other, of_score = listed()
    assert (of_other["entries"], of_score["entries"], of_score["bytes"]) == (4, 0, 0)
    # What was spared stays true.
    assert (of_score["hits"], of_score["misses"]) == (5, 130)
    assert call("clear", "score", "--yes").stdout == "No results were kept for score.\n"
    assert listed()[1]["entries"] == 0


def test_all_results_are_deleted_also_those_of_functions_that_are_gone(aws: FakeAws, write: Write) -> None:
    write(score=FUNCTION)
    keep("function", "score", 60)
    keep("service", "gone", 70)
    result = call("clear", "-y")
    assert result.stdout == "Deleted 130 results: 60 of function score, 70 of service gone.\n"
    assert kept(aws) == 0
    assert listed()[0]["entries"] == 0
    assert call("clear", "-y").stdout == "No results were kept.\n"


def test_it_asks_first(aws: FakeAws, write: Write) -> None:
    write(score=FUNCTION)
    keep("function", "score", 2)
    for answer in ("n\n", ""):
        result = call("clear", "score", given=answer, exit_code=1)
        assert "Delete all results that are kept for score on stack 'prod'?" in result.stderr
        assert kept(aws) == 2
    call("clear", "score", given="y\n")
    assert kept(aws) == 0


def test_an_unknown_name_is_an_error_unless_something_is_kept_of_it(aws: FakeAws, write: Write) -> None:
    write(score=FUNCTION)
    error = call("clear", "scores", "--yes", exit_code=1).stderr
    assert "There is no function or service 'scores'; those that reuse results: score" in error
    keep("service", "scores", 1)
    assert "1 of service scores" in call("clear", "scores", "--yes").stdout


def test_what_dynamodb_leaves_unprocessed_or_refuses_is_deleted_later(aws: FakeAws, write: Write) -> None:
    write(score=FUNCTION)
    keep("function", "score", 60)
    aws.faults.leave_unprocessed("batch_write_item", 1, times=5)
    aws.faults.fail("batch_write_item", "ThrottlingException", times=5)
    assert "Deleted 60 results" in call("clear", "score", "--yes").stdout
    assert kept(aws) == 0


def test_after_an_error_the_next_call_goes_on(aws: FakeAws, write: Write) -> None:
    write(score=FUNCTION)
    keep("function", "score", 60)
    aws.faults.fail("batch_write_item", "AccessDeniedException")
    assert "The table reuse: " in call("clear", "score", "--yes", exit_code=1).stderr
    assert kept(aws) > 0
    assert listed()[0]["entries"] == 60
    call("clear", "score", "--yes")
    assert (kept(aws), listed()[0]["entries"]) == (0, 0)


def test_results_that_are_kept_meanwhile_are_counted(aws: FakeAws, write: Write) -> None:
    write(score=FUNCTION)
    keep("function", "score", 60)
    aws.faults.meanwhile("batch_write_item", lambda: keep("function", "score", 1, first=60))
    call("clear", "score", "--yes")
    assert listed()[0]["entries"] == 1


def test_two_calls_at_the_same_time_take_a_day_out_once(aws: FakeAws, write: Write) -> None:
    write(score=FUNCTION)
    keep("function", "score", 10)
    aws.faults.meanwhile("update_item", lambda: reuse.clear(STACK, "score", lambda _count: None))
    call("clear", "score", "--yes")
    assert listed()[0]["entries"] == 0


def test_progress_counts_what_is_deleted(aws: FakeAws, write: Write) -> None:
    keep("function", "score", 60)
    counts: list[int] = []
    assert reuse.clear(STACK, None, counts.append) == {"function score": 60}
    assert counts == sorted(counts)
    assert counts[-1] == 60


def test_a_batch_of_which_nothing_is_ever_deleted_is_an_error(
    aws: FakeAws, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tables.Table(aws.client("dynamodb"), "reuse")
    keys = [{"pk": "function#score#0", "sk": str(number)} for number in range(MAX_BATCH_REQUESTS)]

    def leave(*, RequestItems: Any) -> Any:
        return {"UnprocessedItems": RequestItems}

    monkeypatch.setattr(aws.dynamodb, "batch_write_item", leave)
    with pytest.raises(tables.TableError, match="The table reuse is throttled, again and again; try later"):
        list(table.delete(keys))


def test_threads_end_when_one_has_failed(aws: FakeAws, write: Write) -> None:
    keep("function", "score", 400)
    aws.faults.fail("batch_write_item", "AccessDeniedException", times=100)
    call("clear", "score", "--yes", exit_code=1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("clear")]
    assert kept(aws) == 400
