"""What happens to an object: limits, chunks and the time that is left; the rest is tested on the stack."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.catalog import Parameter, Signature
from ingest import ingestion
from ingest.file_rows import RowError
from ingest.ingestion import (
    Table,
    check_rows,
    checkpoints_id,
    find_signature,
    function_name,
    ingest,
    output_key,
)
from ingest.landed_objects import Content, Object, ObjectError
from ingest.locks import LEASE_SECONDS
from tests.unit.fake_aws import FakeAws

MACHINE = Path(__file__).parents[3] / "statemachines" / "ingest.asl.json"
TWICE = Signature("twice", (Parameter("n", "int"),), variadic=False, returns="int", chunk_rows=2)


def landed(key: str, size: int = 10, content_type: str = "text/csv") -> Object:
    content = {"bucket": "bucket", "key": key, "etag": "e1", "version_id": None}
    return Object(content=content, content_type=content_type, bytes=size)


@pytest.fixture
def calls(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that the function `twice` was called for. Checkpoints are kept in memory."""
    made: list[int] = []
    kept: dict[tuple[str, str], Any] = {}

    def twice(n: int) -> int:
        made.append(n)
        return 2 * n

    monkeypatch.setattr(ingestion, "s3", lambda: aws.s3)
    monkeypatch.setattr(ingestion, "read_catalog", lambda: {"twice": TWICE})
    monkeypatch.setattr(ingestion, "load_function", lambda _name: twice)
    monkeypatch.setattr(
        ingestion, "load_checkpoint", lambda run, step: ((run, step) in kept, kept.get((run, step)))
    )
    monkeypatch.setattr(
        ingestion, "save_checkpoint", lambda run, step, value: kept.setdefault((run, step), value)
    )
    monkeypatch.setattr(ingestion, "time", aws.time)
    monkeypatch.setattr(ingestion, "read_content", lambda _content: b"n\n1\n2\n3\n4\n5\n")
    return made


def test_a_call_stops_between_chunks_when_its_time_is_nearly_over(aws: FakeAws, calls: list[int]) -> None:
    found = landed("ingest/twice/a.csv")

    results = [ingest(found, lambda: 0.0) for _ in range(3)]

    # Each call gets one chunk further, even without any time: what never fits ends by the Lambda's timeout.
    assert [result and result["rows"] for result in results] == [None, None, 5]
    assert calls == [1, 2, 3, 4, 5]
    body, metadata = aws.s3.objects["ingested/twice/a.csv/e1.jsonl"]
    assert body.splitlines()[4] == b'{"row":{"n":"5"},"result":10}'
    assert metadata == {"rows": "5"}


def test_with_time_all_chunks_are_one_call(calls: list[int]) -> None:
    result = ingest(landed("ingest/twice/a.csv"), lambda: 280.0)

    assert result
    assert (result["outcome"], result["rows"], calls) == ("processed", 5, [1, 2, 3, 4, 5])


def test_an_output_that_is_there_is_not_made_again(calls: list[int]) -> None:
    first = ingest(landed("ingest/twice/a.csv"), lambda: 280.0)

    again = ingest(landed("ingest/twice/a.csv"), lambda: 280.0)

    assert again == first
    assert calls == [1, 2, 3, 4, 5]


def test_a_late_worker_does_not_change_the_output(
    aws: FakeAws, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def written_meanwhile(_content: Content) -> bytes:
        aws.s3.objects["ingested/twice/a.csv/e1.jsonl"] = (b"first", {"rows": "1"})
        return b"n\n1\n"

    monkeypatch.setattr(ingestion, "read_content", written_meanwhile)

    ingest(landed("ingest/twice/a.csv"), lambda: 280.0)

    assert aws.s3.objects["ingested/twice/a.csv/e1.jsonl"][0] == b"first"
    assert calls == [1]


def test_what_is_gone_is_said_to_be(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "read_content", lambda _content: None)

    result = ingest(landed("ingest/twice/a.csv"), lambda: 280.0)

    assert result
    assert (result["outcome"], calls) == ("gone", [])


def test_too_large_an_object_is_refused_before_it_is_read(calls: list[int]) -> None:
    with pytest.raises(
        ObjectError, match=r"has 33,554,433 bytes and at most 33,554,432 are ingested; split it"
    ):
        ingest(landed("ingest/twice/a.csv", 32 * 1024 * 1024 + 1), lambda: 280.0)

    assert calls == []


@pytest.mark.usefixtures("calls")
def test_too_many_chunks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "MAX_CHUNKS", 2)

    with pytest.raises(
        ObjectError, match=r"has 5 rows, and twice takes at most 4 of one object \(2 chunks\)"
    ):
        ingest(landed("ingest/twice/a.csv"), lambda: 280.0)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("ingest/sentiment/a.csv", "sentiment"),
        ("ingest/sentiment/2026/a.csv", "sentiment"),
        ("ingest/sentiment/", None),
        ("ingest/a.csv", None),
        ("ingest//a.csv", None),
    ],
)
def test_the_second_segment_of_the_key_names_the_function(key: str, name: str | None) -> None:
    assert function_name(key) == name


def test_the_output_s_key_holds_the_content() -> None:
    assert output_key(Content("b", "ingest/f/日 本+.csv", "e1", "v1")) == "ingested/f/日 本+.csv/e1.v1.jsonl"


def test_a_key_whose_output_s_key_would_be_too_long_is_refused() -> None:
    key = "ingest/f/" + "é" * 500

    with pytest.raises(ObjectError, match="shorten it by 26 bytes"):
        output_key(Content("b", key, "0" * 32))


def test_functions_that_columns_cannot_be_matched_with_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    echo = Signature("echo", (Parameter("arguments", "Any"),), variadic=True, returns="list")
    monkeypatch.setattr(ingestion, "read_catalog", lambda: {"echo": echo, "twice": TWICE})

    with pytest.raises(
        ObjectError, match=r"echo\(arguments VARIANT \.\.\.\) -> ARRAY takes any number of arguments"
    ):
        find_signature("echo")
    with pytest.raises(
        ObjectError, match=r"no function 'thrice', which the key names; there are: echo, twice"
    ):
        find_signature("thrice")


def test_all_rows_are_checked_before_any_is_run() -> None:
    assert check_rows(Table('{"n": 1}\n{"m": 2}', "json", TWICE)) == 2
    with pytest.raises(RowError, match=r"no row has the column 'n', which twice.* takes; there are: m, o"):
        check_rows(Table('{"m": 1}\n{"o": 2}', "json", TWICE))
    with pytest.raises(RowError, match="line 3: the column 'n' is not a number"):
        check_rows(Table("n\n1\nx\n", "csv", TWICE))


def test_checkpoints_belong_to_one_content() -> None:
    contents = [
        Content("b", "k", "e"),
        Content("b", "k", "e", "v"),
        Content("b", "k", "f"),
        Content("b", "l", "e"),
        Content("c", "k", "e"),
    ]

    assert len({checkpoints_id(content) for content in contents}) == len(contents)
    assert all(len(checkpoints_id(content)) == 47 for content in contents)


def test_the_lease_is_longer_than_what_is_done_without_renewing_it() -> None:
    state = json.loads(MACHINE.read_text())["States"]["Ingest"]

    waits = [
        min(retry["IntervalSeconds"] * retry["BackoffRate"] ** number, retry.get("MaxDelaySeconds", 3600))
        for retry in state["Retry"]
        for number in range(retry["MaxAttempts"])
    ]
    assert state["TimeoutSeconds"] + sum(waits) < LEASE_SECONDS
