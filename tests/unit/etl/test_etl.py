"""The steps of etl, run one after another as the machine does: what they load, and what a crash repeats."""

import gzip
import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from botocore.response import StreamingBody
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core import checkpoints
from core.checkpoints import CheckpointError
from core.errors import TransientError, named_for_retry
from core.records import DatasetError
from core.settings import settings
from etl import extract, load, schedule, stored_files, transform, verify
from etl.cleaning import clean, dump_line
from etl.stored_files import PartError
from tests.unit.fake_aws import FakeS3, client_error

CSV = (
    b"id,day,amount\n001,2026-11-01,1.10\n002,2026-11-02, 2.20 \n003,2026-11-02,\n"
    b"broken\n005,,5\n006,soon,6\n"
)
JSON_LINES = b'{"id":"100","amount":12345678901234567890.10,"day":"2026-11-01"}\n{oops\n'
SALES = {"datasets/sales/a.csv": CSV, "datasets/sales/b.jsonl.gz": gzip.compress(JSON_LINES)}
INPUT = {"dataset_id": "sales", "batch_size": 2, "partition_by": "day"}


class Crash(Exception):
    """The worker dies here."""


class Bucket(FakeS3):
    """With the calls that etl makes besides."""

    def __init__(self, crash: Callable[[str], None]) -> None:
        super().__init__()
        self.crash = crash
        self.log: list[tuple[str, str]] = []

    def put_object(self, **request: Any) -> dict[str, Any]:
        self.crash("before")
        answer = super().put_object(**request)
        self.log.append(("put", request["Key"]))
        self.crash("after")
        return answer

    def get_object(self, **request: Any) -> dict[str, Any]:
        self.crash("before")
        self.log.append(("get", request["Key"]))
        return super().get_object(**request)

    def copy_object(self, *, Bucket: str, Key: str, CopySource: dict[str, str]) -> dict[str, Any]:
        self.crash("before")
        self.faults.check("copy_object")
        if CopySource["Key"] not in self.objects:
            raise client_error("NoSuchKey", "CopyObject")
        self.log.append(("copy", Key))
        self.objects[Key] = self.objects[CopySource["Key"]]
        self.crash("after")
        return {}

    def get_paginator(self, operation: str) -> "Bucket":
        assert operation == "list_objects_v2"
        return self

    def paginate(self, *, Bucket: str, Prefix: str) -> Iterator[dict[str, Any]]:
        self.faults.check("list_objects_v2")
        keys = sorted((key for key in self.objects if key.startswith(Prefix)), key=str.encode)
        yield from ({"Contents": [{"Key": key}]} for key in keys)
        yield {}

    def under(self, prefix: str) -> dict[str, bytes]:
        return {key: body for key, (body, _) in sorted(self.objects.items()) if key.startswith(prefix)}


class Table:
    """The records of checkpoints."""

    def __init__(self, crash: Callable[[str], None]) -> None:
        self.items: dict[tuple[str, str], dict[str, Any]] = {}
        self.crash = crash

    def get_item(self, *, Key: dict[str, str], ConsistentRead: bool) -> dict[str, Any]:
        assert ConsistentRead
        self.crash("before")
        item = self.items.get((Key["pk"], Key["sk"]))
        return {"Item": item} if item else {}

    def put_item(self, *, Item: dict[str, Any], ConditionExpression: str) -> None:
        assert ConditionExpression == "attribute_not_exists(pk)"
        self.crash("before")
        if (Item["pk"], Item["sk"]) in self.items:
            raise client_error("ConditionalCheckFailedException", "PutItem")
        self.items[Item["pk"], Item["sk"]] = Item
        self.crash("after")

    def steps(self, run_id: str) -> set[str]:
        return {sk.removeprefix("step#") for pk, sk in self.items if pk == f"run#{run_id}"}


class Aws:
    """A bucket and a table; `crash_at = (n, "after")` lets the worker die after its nth call from now on."""

    def __init__(self) -> None:
        self.s3, self.table = Bucket(self.crash), Table(self.crash)
        self.crash_at: tuple[int, str] | None = None
        self.calls = 0
        self._lock = threading.Lock()

    def crash(self, when: str) -> None:
        with self._lock:
            self.calls += when == "before"
            if self.crash_at == (self.calls, when):
                raise Crash

    def put(self, objects: dict[str, bytes]) -> None:
        self.s3.objects.update({key: (body, {}) for key, body in objects.items()})


@pytest.fixture
def fresh_aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Aws]]:
    """Makes an account in which there are the objects of SALES."""
    for name in ("BUCKET", "TABLE", "STATE_MACHINE_PREFIX"):
        monkeypatch.setenv(name, name.lower())
    for name in ("POST_WAIT_SECONDS", "GET_WAIT_SECONDS"):
        monkeypatch.setenv(name, "0")
    settings.cache_clear()

    def make() -> Aws:
        aws = Aws()
        aws.put(SALES)
        for module in (checkpoints, stored_files, extract, load):
            monkeypatch.setattr(module, "s3", lambda: aws.s3)
        monkeypatch.setattr(checkpoints, "table", lambda: aws.table)
        return aws

    yield make
    settings.cache_clear()


@pytest.fixture
def aws(fresh_aws: Callable[[], Aws]) -> Aws:
    return fresh_aws()


def run(document: dict[str, Any] = INPUT, run_id: str = "r", approval: Any = None) -> dict[str, Any]:
    """All steps in the machine's order, and its output."""
    extracted = extract.handler({"run_id": run_id, "input": document, "looks": 0}, None)
    assert extracted["arrived"]
    for batch in range(extracted["batches"]):
        transform.handler({"run_id": run_id, "batch": batch}, None)
    schedule.handler({"run_id": run_id, "approval": approval}, None)
    loaded = load.handler({"run_id": run_id}, None)
    rows = verify.handler({"run_id": run_id, "kind": "data"}, None)
    rejects = verify.handler({"run_id": run_id, "kind": "rejects"}, None)
    return {**loaded, "verified": {"data": rows, "rejects": rejects}}


def lines(aws: Aws, prefix: str) -> list[Any]:
    """The JSON of all lines under a prefix, file by file."""
    return [
        json.loads(line)
        for body in aws.s3.under(prefix).values()
        for line in gzip.decompress(body).splitlines()
    ]


def test_a_dataset_is_loaded_by_day_with_its_rejects_beside_it(aws: Aws) -> None:
    output = run()

    assert (output["rows"], output["rejected"]) == (5, 3)
    prefix = output["prefix"]
    assert list(aws.s3.under(prefix)) == [
        prefix + name
        for name in (
            "data/day=2026-11-01/part-00000.jsonl.gz",
            "data/day=2026-11-01/part-00003.jsonl.gz",
            "data/day=2026-11-02/part-00000.jsonl.gz",
            "data/day=2026-11-02/part-00001.jsonl.gz",
            "data/day=null/part-00002.jsonl.gz",
            "manifest.json",
            "rejects/part-00001.jsonl.gz",
            "rejects/part-00002.jsonl.gz",
            "rejects/part-00003.jsonl.gz",
        )
    ]
    assert b'"amount":12345678901234567890.10,' in gzip.decompress(
        aws.s3.under(prefix)[prefix + "data/day=2026-11-01/part-00003.jsonl.gz"]
    )
    assert [(r["source"], r["line"], r["raw"]) for r in lines(aws, prefix + "rejects/")] == [
        ("datasets/sales/a.csv", 5, "broken\n"),
        ("datasets/sales/a.csv", 7, '{"id":"006","day":"soon","amount":"6"}'),
        ("datasets/sales/b.jsonl.gz", 2, "{oops"),
    ]


def test_the_manifest_lists_each_file_with_its_rows_and_hashes_and_is_written_last(aws: Aws) -> None:
    output = run()

    manifest = json.loads(aws.s3.objects[output["manifest"]][0])
    assert manifest["sources"] == list(SALES)
    for kind, total in (("data", manifest["rows"]), ("rejects", manifest["rejected"])):
        assert sum(file["rows"] for file in manifest[kind]) == total == output["verified"][kind]["rows"]
        for file in manifest[kind]:
            text = gzip.decompress(aws.s3.objects[file["key"]][0])
            assert (len(text.splitlines()), hashlib.sha256(text).hexdigest()) == (
                file["rows"],
                file["sha256"],
            )
    digests = [hashlib.sha256(json_line).digest() for json_line in all_lines(aws, output["prefix"] + "data/")]
    total_digest = sum(int.from_bytes(digest) for digest in digests) % 2**256
    assert manifest["rows_sha256"] == output["verified"]["data"]["rows_sha256"] == f"{total_digest:064x}"
    written = [key for call, key in aws.s3.log if call in ("put", "copy") and key.startswith("loads/")]
    assert written[-1] == output["manifest"]


def all_lines(aws: Aws, prefix: str) -> list[bytes]:
    return [line for body in aws.s3.under(prefix).values() for line in gzip.decompress(body).splitlines()]


ROW = st.dictionaries(
    st.sampled_from(["id", "a", " a", "b"]),
    st.none() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    max_size=3,
)


@given(
    st.lists(ROW | st.sampled_from([b"{broken", b"\xff", b"[1]"]), max_size=12),
    st.integers(1, 5),
    st.integers(0, 12),
)
@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_loaded_is_what_cleaning_each_row_gives(
    fresh_aws: Callable[[], Aws], table: list[dict[str, Any] | bytes], size: int, cut: int
) -> None:
    aws = fresh_aws()
    texts = [row if isinstance(row, bytes) else dump_line(row) for row in table]
    aws.put({f"datasets/d/{n}.jsonl": b"\n".join(part) for n, part in enumerate((texts[:cut], texts[cut:]))})
    expected = []
    for row in table:
        with suppress(ValueError):
            expected += [clean(row)] if isinstance(row, dict) else []

    output = run({"dataset_id": "d", "batch_size": size})

    assert lines(aws, output["prefix"] + "data/") == expected
    assert output["rejected"] == len(table) - len(expected) == len(lines(aws, output["prefix"] + "rejects/"))


# --- again, and after a crash ---


def test_the_same_run_again_computes_nothing_and_answers_the_same(aws: Aws) -> None:
    first = run()
    aws.s3.log.clear()

    assert run() == first
    assert {call for call, _ in aws.s3.log} == {"get"}
    assert not [key for _, key in aws.s3.log if not key.startswith("runs/r/")]


def test_another_run_over_the_same_rows_leaves_one_copy(aws: Aws) -> None:
    first = run()
    before = aws.s3.under("loads/")
    aws.s3.log.clear()

    assert run(run_id="other") == first
    assert aws.s3.under("loads/") == before
    assert not [key for call, key in aws.s3.log if call in ("put", "copy") and key.startswith("loads/")]


def test_a_crash_at_any_call_resumes_there(fresh_aws: Callable[[], Aws]) -> None:
    aws = fresh_aws()
    document = {**INPUT, "batch_size": 4}
    output, wanted, calls = run(document), aws.s3.under("loads/"), aws.calls
    assert calls > 40

    crashes = 0
    for call in range(1, calls + 1):
        for when in ("before", "after"):
            aws = fresh_aws()
            aws.crash_at = (call, when)
            try:
                run(document)
            except Crash:
                crashes += 1
            done = aws.table.steps("r")
            aws.crash_at = None
            aws.s3.log.clear()
            if "extract" in done:
                # What is extracted is the run's: the source may be gone or changed by then.
                aws.put(dict.fromkeys(SALES, b"changed"))

            assert run(document) == output
            assert aws.s3.under("loads/") == wanted
            # Nothing that had finished was computed again: computing ends with a write of the checkpoint.
            again = {
                key.split("/")[2] for call_, key in aws.s3.log if call_ == "put" and key.startswith("runs/")
            }
            assert not again & done
    assert crashes > calls


def test_two_workers_at_one_step_agree_on_what_the_first_one_recorded(aws: Aws) -> None:
    late = extract.extract("r", extract.complete(INPUT), list(SALES), list(SALES))
    aws.put({"datasets/sales/a.csv": CSV + b"007,2026-11-03,7\n"})
    output = run()

    # The late worker's record is refused, and what it stored stands under other keys.
    assert checkpoints.save_checkpoint("r", "extract", late) != late
    assert output["rows"] == 6
    assert run() == output


# --- bad input ---


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"batch_size": 0}, "at $.batch_size: 0 is less than the minimum of 1"),
        ({"batch_size": "2"}, "at $.batch_size: '2' is not of type 'integer'"),
        ({"off_peak_hour": 24}, "at $.off_peak_hour: 24 is greater than the maximum of 23"),
        ({"dataset_id": "../x"}, "at $.dataset_id: '../x' does not match"),
        ({"key_columns": []}, "at $.key_columns: [] should be non-empty"),
        ({"batchsize": 1}, "at $: Additional properties are not allowed ('batchsize' was unexpected)"),
        (
            {"time_zone": "Mars/Olympus"},
            "at $.time_zone: 'Mars/Olympus' is not in the IANA time zone database",
        ),
        ({"time_zone": "../etc/passwd"}, "at $.time_zone: '../etc/passwd' is not in the IANA"),
        ({"time_zone": ""}, "at $.time_zone: '' is not in the IANA"),
    ],
)
def test_bad_input_names_the_path(aws: Aws, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(extract.InputError) as error:
        run({**INPUT, **change})
    assert str(error.value).startswith(f"the input, {problem}")


def test_a_run_id_belongs_to_one_input(aws: Aws) -> None:
    run()
    run({**INPUT, "run_id": "r"})

    with pytest.raises(extract.RunConflict, match="run r had another input"):
        run({**INPUT, "batch_size": 3})


def test_a_run_id_that_is_none_says_so(aws: Aws) -> None:
    with pytest.raises(CheckpointError, match="this one is 'a b'"):
        run(run_id="a b")


def look(looks: int, timeout: int) -> Any:
    document = {"dataset_id": "later", "arrival_timeout_seconds": timeout}
    return extract.handler({"run_id": "r", "input": document, "looks": looks}, None)


@pytest.mark.parametrize(("timeout", "most"), [(0, 0), (1, 1), (60, 12), (3600, 100), (604800, 100)])
def test_a_dataset_that_never_comes_ends_the_run_within_its_time(aws: Aws, timeout: int, most: int) -> None:
    aws.put({"datasets/later/readme.txt": b"soon", "datasets/later/": b""})
    seconds = 0
    for looks in range(most):
        answer = look(looks, timeout)
        assert (answer["arrived"], answer["looks"]) == (False, looks + 1)
        seconds += answer["look_again_seconds"]
    with pytest.raises(DatasetError) as error:
        look(most, timeout)
    assert timeout <= seconds <= timeout + 5 + timeout / 50
    assert "no dataset 'later': no object datasets/later/*.csv or *.jsonl" in str(error.value)
    assert f"within {timeout} s, and 2 of other names" in str(error.value)


def test_a_dataset_that_comes_late_is_taken(aws: Aws) -> None:
    assert not look(3, 60)["arrived"]
    aws.put({"datasets/later/a.jsonl": b'{"a":1}'})
    assert look(4, 60)["arrived"]


def test_objects_of_other_names_are_ignored_and_said_so(aws: Aws) -> None:
    aws.put({"datasets/sales/": b"", "datasets/sales/readme.txt": b"x", "datasets/sales2/a.csv": CSV})
    manifest = json.loads(aws.s3.objects[run()["manifest"]][0])
    assert manifest["ignored"] == ["datasets/sales/readme.txt"]
    assert manifest["sources"] == list(SALES)


def test_a_dataset_without_rows_is_loaded_as_such(aws: Aws) -> None:
    aws.put({"datasets/empty/a.csv": b"id\n"})
    output = run({"dataset_id": "empty"})
    assert (output["files"], output["rows"], output["rejected"]) == (0, 0, 0)
    assert list(aws.s3.under(output["prefix"])) == [output["manifest"]]


@pytest.mark.parametrize(
    "body", [b"not gzip", gzip.compress(CSV, mtime=0)[:-9], gzip.compress(CSV, mtime=0)[:20] + b"\0" * 40]
)
def test_gzip_that_is_broken_fails_the_run_and_names_the_object(aws: Aws, body: bytes) -> None:
    aws.put({"datasets/bad/a.csv.gz": body})
    with pytest.raises(DatasetError, match=r"datasets/bad/a\.csv\.gz cannot be unpacked"):
        run({"dataset_id": "bad"})
    assert aws.table.steps("r") == set()


def test_more_batches_than_a_history_holds_ask_for_larger_ones(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "MAX_BATCHES", 3)
    with pytest.raises(DatasetError, match="more than 3 batches of 2 rows; raise batch_size"):
        run()
    assert run({**INPUT, "batch_size": 3})["rows"] == 5


# --- what AWS does ---


@pytest.mark.parametrize("operation", ["list_objects_v2", "get_object", "put_object"])
def test_a_throttle_is_retried_by_its_name(aws: Aws, operation: str) -> None:
    aws.s3.faults.add(operation, "SlowDown")
    with pytest.raises(TransientError, match="SlowDown"):
        run()
    assert run()["rows"] == 5


def test_a_source_that_goes_while_it_is_read_is_tried_again(aws: Aws) -> None:
    aws.s3.faults.add("get_object", "NoSuchKey")
    with pytest.raises(TransientError, match=r"datasets/sales/a\.csv was deleted"):
        run()


def test_a_denied_call_is_not_retried(aws: Aws) -> None:
    aws.s3.faults.add("put_object", "AccessDenied")
    with pytest.raises(Exception, match="AccessDenied") as error:
        run()
    assert not isinstance(error.value, TransientError)


# --- schedule and approval ---


def test_a_load_waits_for_the_hour_that_was_computed_first(aws: Aws) -> None:
    document = {**INPUT, "off_peak_hour": 3, "time_zone": "Asia/Tokyo"}
    extract.handler({"run_id": "r", "input": document, "looks": 0}, None)

    first = schedule.handler({"run_id": "r", "approval": None}, None)
    aws.s3.log.clear()

    assert schedule.handler({"run_id": "r", "approval": None}, None) == first
    assert {call for call, _ in aws.s3.log} == {"get"}


@pytest.mark.parametrize("answer", [None, {}, {"approved": False}, {"approved": "true"}, True, [1]])
def test_nothing_but_a_yes_is_a_yes(aws: Aws, answer: Any) -> None:
    document = {**INPUT, "approval": True}
    with pytest.raises(schedule.ApprovalRefused, match="started again with this run_id it asks again"):
        run(document, approval=answer)
    assert aws.s3.under("loads/") == {}

    assert run(document, approval={"approved": True, "by": "somebody"})["rows"] == 5


def test_an_approval_is_asked_for_until_it_is_given(aws: Aws) -> None:
    event: extract.Event = {"run_id": "r", "input": {**INPUT, "approval": True}, "looks": 0}
    assert extract.handler(event, None)["approval"]
    assert extract.handler(event, None)["approval"]
    schedule.handler({"run_id": "r", "approval": {"approved": True}}, None)
    assert not extract.handler(event, None)["approval"]


# --- verify ---


def loaded_file(aws: Aws, kind: str = "data") -> str:
    """Loads without verifying; the key of one file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "verify", lambda run_id, kind: {})
        patch.setattr(verify, "run_step", lambda *_: {})
        output = run()
    return next(key for key in aws.s3.under(output["prefix"]) if f"/{kind}/" in key)


def check(kind: str) -> Any:
    return verify.handler({"run_id": "r", "kind": kind}, None)  # type: ignore[typeddict-item]


@pytest.mark.parametrize("kind", ["data", "rejects"])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda text: text + text, "rows, and"),
        (lambda text: text.replace(b"a", b"b"), "its SHA-256 is not what was written"),
        (lambda text: text.rstrip(b"\n"), "its SHA-256 is not what was written"),
    ],
)
def test_a_loaded_file_that_is_not_what_was_transformed_is_found(
    aws: Aws, kind: str, damage: Callable[[bytes], bytes], problem: str
) -> None:
    key = loaded_file(aws, kind)
    aws.put({key: gzip.compress(damage(gzip.decompress(aws.s3.objects[key][0])))})
    with pytest.raises(PartError, match=problem) as error:
        check(kind)
    assert key in str(error.value)


def test_a_loaded_file_that_is_gone_or_broken_is_found(aws: Aws) -> None:
    key = loaded_file(aws)
    body, _ = aws.s3.objects.pop(key)
    with pytest.raises(PartError, match="is gone"):
        check("data")
    aws.put({key: body[:-4]})
    with pytest.raises(PartError, match="not gzip any more"):
        check("data")
    aws.put({key: body})
    assert check("data")["rows"] == 5


def test_a_file_that_is_not_of_the_load_is_found(aws: Aws) -> None:
    stray = f"{loaded_file(aws).partition('/data/')[0]}/data/copy.jsonl.gz"
    aws.put({stray: b""})
    with pytest.raises(
        verify.VerificationError, match=r"1 objects .* not of this load, for instance .*copy\.jsonl\.gz"
    ):
        check("data")
    del aws.s3.objects[stray]
    assert check("data")["rows"] == 5


def test_a_part_that_is_gone_before_the_load_names_itself(aws: Aws) -> None:
    loaded_file(aws)
    aws.table.items.pop(("run#r", "step#load"))
    for key in [*aws.s3.under("runs/r/transform/"), *aws.s3.under("loads/")]:
        del aws.s3.objects[key]
    with pytest.raises(PartError, match=r"runs/r/transform/.* is gone"):
        load.handler({"run_id": "r"}, None)


def test_a_step_without_what_comes_before_it_says_so(aws: Aws) -> None:
    with pytest.raises(CheckpointError, match="step extract of run r has no checkpoint"):
        load.handler({"run_id": "r"}, None)


@pytest.mark.parametrize("key", ["a.csv", "a.jsonl"])
def test_a_body_that_comes_in_pieces_is_read_whole_and_one_that_breaks_off_is_tried_again(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    class Pieces(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            return super().readinto(memoryview(buffer)[:3])

    body = CSV if key == "a.csv" else b'{"a":1}\n' * 6

    def serve(sent: bytes) -> None:
        answer = {"Body": StreamingBody(Pieces(sent), len(body))}
        monkeypatch.setattr(aws.s3, "get_object", lambda **_: answer)

    serve(body)
    assert len(list(extract.read_object(key))) == 6
    serve(body[:32])
    with pytest.raises(TransientError, match="IncompleteReadError"), named_for_retry():
        list(extract.read_object(key))
