"""Objects land in the bucket of the local stack: each content is ingested once, whatever fails."""

import gzip
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from stepflake.runs import runs_of
from stepflake.stack import Stack
from tests.caller import Caller
from tests.runs import Run, end_of, wait_for

Json = Any


@dataclass(frozen=True)
class Bucket:
    """The stack's bucket and table, and the runs that its objects start. `keys`: of the runs seen so far."""

    stack: Stack
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.stack.outputs["Bucket"]

    @property
    def machine(self) -> str:
        return self.stack.outputs["IngestStateMachineArn"]

    def upload(self, key: str, body: str | bytes, content_type: str = "text/csv") -> Mapping[str, Any]:
        """Puts an object; returns what S3's event has of it."""
        data = body.encode() if isinstance(body, str) else body
        answer = self.stack.client("s3").put_object(
            Bucket=self.name, Key=key, Body=data, ContentType=content_type
        )
        event = {"key": key, "etag": answer["ETag"].strip('"'), "size": len(data)}
        return event | ({"version-id": answer["VersionId"]} if "VersionId" in answer else {})

    def handles(self, key: str) -> list[str]:
        """The runs for a key, the first one first."""
        client = self.stack.client("stepfunctions")
        pages = client.get_paginator("list_executions").paginate(stateMachineArn=self.machine)
        runs = sorted((run for page in pages for run in page["executions"]), key=lambda run: run["startDate"])
        for arn in (run["executionArn"] for run in runs):
            if arn not in self.keys:
                self.keys[arn] = json.loads(client.describe_execution(executionArn=arn)["input"])["key"]
        return [run["executionArn"] for run in runs if self.keys[run["executionArn"]] == key]

    def started(self, key: str, number: int = 1) -> str:
        """The handle of the key's run of this number, once S3's event has started it."""
        handles: list[str] = wait_for(
            lambda: handles if len(handles := self.handles(key)) >= number else None,
            f"run {number} of {key}",
        )
        return handles[number - 1]

    def deliver(self, event: Mapping[str, Any]) -> str:
        """Starts a run as EventBridge does when it delivers an event; returns its handle."""
        answer = self.stack.client("stepfunctions").start_execution(
            stateMachineArn=self.machine, input=json.dumps(event)
        )
        return str(answer["executionArn"])

    def end(self, handle: str) -> Run:
        return end_of(self.stack, handle)

    def ingest(self, key: str, body: str | bytes, content_type: str = "text/csv") -> Run:
        """Uploads, and waits for the run which that starts."""
        before = len(self.handles(key))
        self.upload(key, body, content_type)
        return self.end(self.started(key, before + 1))

    def read(self, key: str) -> bytes:
        return bytes(self.stack.client("s3").get_object(Bucket=self.name, Key=key)["Body"].read())

    def rows(self, run: Run) -> list[Json]:
        """The lines of a run's output."""
        return [json.loads(line) for line in self.read(run.output["output"]).splitlines()]

    def lock(self, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The lock's item in the table, or None."""
        answer = self.stack.client("dynamodb").get_item(
            TableName=self.stack.outputs["Table"], Key=self.lock_key(event), ConsistentRead=True
        )
        item: Mapping[str, Any] | None = answer.get("Item")
        return item

    def lock_key(self, event: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        return {
            "pk": {"S": f"object#{self.name}/{event['key']}"},
            "sk": {"S": f"content#{event['etag']}"},
        }

    def change_lock(self, event: Mapping[str, Any], **values: dict[str, str]) -> None:
        """Sets attributes of the lock, such as a lease in the past: as if time had passed."""
        self.stack.client("dynamodb").update_item(
            TableName=self.stack.outputs["Table"],
            Key=self.lock_key(event),
            UpdateExpression="SET " + ", ".join(f"{name} = :{name}" for name in values),
            ExpressionAttributeValues={f":{name}": value for name, value in values.items()},
        )

    def working(self, event: Mapping[str, Any]) -> None:
        """Waits until a worker has started, which renews the lease."""
        wait_for(lambda: "renewals" in (self.lock(event) or {}), f"a worker on {event['key']}")


@pytest.fixture(scope="module")
def bucket(stack: Stack) -> Bucket:
    return Bucket(stack)


@pytest.fixture
def folder() -> str:
    """A folder of the test's own below the function's."""
    return uuid.uuid4().hex


@pytest.mark.faults
def test_csv_goes_through_the_function_that_the_key_names(bucket: Bucket, folder: str) -> None:
    key = f"ingest/sentiment/{folder}/reviews.csv"

    run = bucket.ingest(key, 'id,text\r\n007,"I am happy,\nvery happy"\r\n\r\n2,\r\n')

    etag = run.output["etag"]
    output = f"ingested/sentiment/{folder}/reviews.csv/{etag}.jsonl"
    assert run.output == {
        "outcome": "processed",
        "bucket": bucket.name,
        "key": key,
        "etag": etag,
        "version_id": None,
        "content_type": "text/csv",
        "bytes": 45,
        "function": "sentiment",
        "rows": 2,
        "output": output,
    }
    first, second = bucket.rows(run)
    assert first["row"] == {"id": "007", "text": "I am happy,\nvery happy"}
    assert first["result"]["Positive"] > 0.5
    assert second == {"row": {"id": "2", "text": None}, "result": None}


@pytest.mark.parametrize(
    ("name", "content_type", "body"),
    [
        (
            "a.jsonl",
            "binary/octet-stream",
            b'{"text": "fine", "n": 1.10}\n\n{"n": 12345678901234567890123}\n',
        ),
        ("a.json", "binary/octet-stream", b'[{"text": "fine", "n": 1.10},\n {"n": 12345678901234567890123}]'),
        ("a", "application/x-ndjson", b'{"text": "fine", "n": 1.10}\n{"n": 12345678901234567890123}'),
        (
            "a.json.gz",
            "application/gzip",
            gzip.compress(b'{"text": "fine", "n": 1.10}\n{"n": 12345678901234567890123}', mtime=0),
        ),
    ],
)
def test_json_keeps_its_digits(
    bucket: Bucket, folder: str, name: str, content_type: str, body: bytes
) -> None:
    run = bucket.ingest(f"ingest/sentiment/{folder}/{name}", body, content_type)

    first, second = bucket.read(run.output["output"]).splitlines()
    assert first.startswith(b'{"row":{"text":"fine","n":1.10},"result":{"Positive":')
    assert second == b'{"row":{"n":12345678901234567890123},"result":null}'


@pytest.mark.parametrize(
    "name",
    ["two words + plus.csv", "日本語 レビュー.csv", "100%25 & 'quotes' \"too\" (1)=é.csv", "a//b/./c.csv"],
)
def test_a_key_may_hold_any_character(bucket: Bucket, folder: str, name: str) -> None:
    run = bucket.ingest(f"ingest/sentiment/{folder}/{name}", "text\nfine\n")

    assert (run.status, run.output["outcome"]) == ("SUCCEEDED", "processed")
    assert run.output["key"] == f"ingest/sentiment/{folder}/{name}"
    assert [line["row"] for line in bucket.rows(run)] == [{"text": "fine"}]


def test_rows_that_wait_for_a_limit_longer_than_a_worker_has_are_each_called_once(
    bucket: Bucket, caller: Caller, folder: str
) -> None:
    # 40 calls a second are allowed, and a worker has 6 seconds.
    lines = "".join(f"{folder},text {number}\n" for number in range(300))

    run = bucket.ingest(f"ingest/limited/{folder}/a.csv", f"key,text\n{lines}")

    assert (run.status, run.output["rows"]) == ("SUCCEEDED", 300)
    assert [line["result"] for line in bucket.rows(run)] == [f"TEXT {number}" for number in range(300)]
    (notes,) = caller.call("noted", [[folder]]).values
    called = [note["called"] for note in notes if "called" in note]
    assert sorted(called) == sorted(f"text {number}" for number in range(300))


@pytest.mark.faults
def test_one_event_delivered_several_times_at_once_is_processed_once(bucket: Bucket, folder: str) -> None:
    event = bucket.upload(f"ingest/sleep/{folder}/slow.csv", "seconds\n0.5\n")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(bucket.deliver, [event] * 4))

    bucket.started(str(event["key"]), 5)
    runs = [bucket.end(handle) for handle in bucket.handles(str(event["key"]))]

    outcomes = sorted(run.output["outcome"] for run in runs)
    assert [run.status for run in runs] == ["SUCCEEDED"] * 5
    assert outcomes.count("processed") == 1
    assert set(outcomes) <= {"processed", "held", "skipped"}


@pytest.mark.faults
def test_the_same_content_is_skipped_and_new_content_is_processed(bucket: Bucket, folder: str) -> None:
    key = f"ingest/sentiment/{folder}/a.csv"
    first = bucket.ingest(key, "text\ngood\n")
    handle = bucket.handles(key)[0]

    again = bucket.ingest(key, "text\ngood\n")
    other = bucket.ingest(key, "text\nbad\n")
    back = bucket.ingest(key, "text\ngood\n")

    run = handle.rpartition(":")[2]
    skipped = {"outcome": "skipped", "message": f"this content was ingested before, by run {run}"}
    assert again.output == back.output == first.output | skipped
    assert other.output["outcome"] == "processed"
    assert [line["row"] for line in bucket.rows(other)] == [{"text": "bad"}]
    # Each content has an output of its own, so the content that returned has the right one.
    assert [line["row"] for line in bucket.rows(back)] == [{"text": "good"}]


@pytest.mark.faults
def test_a_failure_releases_the_lock_and_a_new_upload_is_processed(bucket: Bucket, folder: str) -> None:
    key = f"ingest/fail/{folder}/a.csv"

    first = bucket.ingest(key, "n,message\n1,no luck\n")
    second = bucket.ingest(key, "n,message\n1,no luck\n")

    assert (first.status, first.error) == ("FAILED", "FunctionError")
    assert first.cause == f"s3://{bucket.name}/{key}: fail, line 2: RuntimeError: no luck"
    assert second == first


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("a.csv", b'text\nfine\n"open\nquote', "line 3: not CSV: unexpected end"),
        ("a.csv", b"text,n\nfine,1\nfine\n", "line 3: 1 fields, and the header has 2"),
        ("a.csv", b"text,n\nfine,1\nna\xefve,2\n", "line 3: not UTF-8: byte 0xef"),
        ("a.csv", b"review\nfine\n", "no row has the column 'text', which sentiment(text VARCHAR)"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": \n', "line 2: not JSON"),
        ("a.json", b'[{"text": "fine"},\n\n {"text" "bad"}]', "line 3: not JSON"),
        (
            "a.json.gz",
            gzip.compress(b"text", mtime=0)[:-4],
            "the file cannot be unpacked: it ends in the middle",
        ),
    ],
)
def test_bad_input_fails_and_the_failure_names_the_line(
    bucket: Bucket, folder: str, name: str, body: bytes, message: str
) -> None:
    key = f"ingest/sentiment/{folder}/{name}"

    run = bucket.ingest(key, body, "")

    assert (run.status, run.error) == ("FAILED", "RowError")
    assert run.cause.startswith(f"s3://{bucket.name}/{key}: {message}")


def test_a_corrected_upload_is_processed(bucket: Bucket, folder: str) -> None:
    key = f"ingest/sentiment/{folder}/a.jsonl"
    failed = bucket.ingest(key, '{"text"}', "")

    run = bucket.ingest(key, '{"text": "fine"}', "")

    assert (failed.status, run.status, run.output["rows"]) == ("FAILED", "SUCCEEDED", 1)


def test_an_unknown_function_is_an_error_that_lists_all(bucket: Bucket, folder: str) -> None:
    run = bucket.ingest(f"ingest/sentimant/{folder}/a.csv", "text\nfine\n")

    assert (run.status, run.error) == ("FAILED", "ObjectError")
    assert "there is no function 'sentimant', which the key names; there are: " in run.cause
    assert "sentiment" in run.cause


@pytest.mark.parametrize("name", ["sentiment/{}/photo.png", "{}.csv", "sentiment/{}/"])
def test_an_object_without_rows_or_function_is_recorded(bucket: Bucket, folder: str, name: str) -> None:
    key = f"ingest/{name.format(folder)}"

    run = bucket.ingest(key, b"\x89PNG", "image/png" if name.endswith("png") else "application/x-directory")
    again = bucket.ingest(key, b"\x89PNG", "image/png" if name.endswith("png") else "application/x-directory")

    assert run.output["outcome"] == "recorded"
    assert (run.output["function"], run.output["output"], run.output["bytes"]) == (None, None, 4)
    assert again.output["outcome"] == "skipped"


def test_empty_files_have_no_rows(bucket: Bucket, folder: str) -> None:
    runs = [
        bucket.ingest(f"ingest/sentiment/{folder}/{name}", body, "")
        for name, body in [("a.csv", ""), ("b.csv", "text\n"), ("c.json", "[]"), ("d.jsonl", "\n")]
    ]

    assert [(run.output["outcome"], run.output["rows"], bucket.rows(run)) for run in runs] == [
        ("processed", 0, [])
    ] * 4


def test_when_a_run_dies_its_lease_expires_and_the_next_delivery_takes_over(
    bucket: Bucket, folder: str
) -> None:
    event = bucket.upload(f"ingest/sleep/{folder}/a.csv", "seconds\n2\n")
    dead = bucket.started(str(event["key"]))
    bucket.working(event)
    bucket.stack.client("stepfunctions").stop_execution(executionArn=dead)

    held = bucket.end(bucket.deliver(event))
    bucket.change_lock(event, lease_until={"N": str(int(time.time()) - 1)})
    taken_over = bucket.end(bucket.deliver(event))
    after = bucket.end(bucket.deliver(event))

    assert bucket.end(dead).status == "ABORTED"
    assert held.output["outcome"] == "held"
    assert f"run {dead.rpartition(':')[2]} is ingesting this content" in held.output["message"]
    assert taken_over.output["outcome"] == "processed"
    assert after.output["outcome"] == "skipped"


@pytest.mark.faults
def test_a_run_that_was_stopped_is_resumed_at_once(bucket: Bucket, folder: str) -> None:
    event = bucket.upload(f"ingest/sleep/{folder}/a.csv", "seconds\n2\n")
    stopped = bucket.started(str(event["key"]))
    bucket.working(event)
    client = bucket.stack.client("stepfunctions")
    client.stop_execution(executionArn=stopped)
    bucket.end(stopped)

    resumed = runs_of(bucket.stack).resume(stopped)

    assert bucket.end(resumed.arn).output["outcome"] == "processed"


def test_a_late_owner_cannot_complete(bucket: Bucket, folder: str) -> None:
    event = bucket.upload(f"ingest/sleep/{folder}/a.csv", "seconds\n2\n")
    late = bucket.started(str(event["key"]))
    bucket.working(event)
    bucket.change_lock(event, lock_owner={"S": "another-run"}, run_id={"S": "another-run"})

    run = bucket.end(late)

    assert (run.status, run.error) == ("FAILED", "LockLost")
    assert f"the lock on s3://{bucket.name}/{event['key']} was lost: run another-run holds it" in run.cause
    lock = bucket.lock(event)
    assert lock
    assert (lock["lock_owner"], lock["state"]) == ({"S": "another-run"}, {"S": "held"})


def test_a_late_owner_cannot_unlock(bucket: Bucket, folder: str) -> None:
    event = bucket.upload(f"ingest/sleep/{folder}/a.csv", "seconds\n2\n-1\n")
    late = bucket.started(str(event["key"]))
    bucket.working(event)
    bucket.change_lock(event, lock_owner={"S": "another-run"}, run_id={"S": "another-run"})

    run = bucket.end(late)

    assert (run.status, run.error) == ("FAILED", "FunctionError")
    assert "sleep, line 3: ValueError" in run.cause
    lock = bucket.lock(event)
    assert lock
    assert (lock["lock_owner"], lock["state"]) == ({"S": "another-run"}, {"S": "held"})


@pytest.mark.parametrize("how", ["transient", "kill", "hang"])
def test_a_worker_that_dies_or_hangs_is_retried(bucket: Bucket, folder: str, how: str) -> None:
    run = bucket.ingest(f"ingest/attempts/{folder}/a.csv", f"key,how,times\n{folder},{how},1\n")

    assert [line["result"] for line in bucket.rows(run)] == [2]


@pytest.mark.faults
@pytest.mark.parametrize("again", ["uploaded", "resumed"])
def test_finished_chunks_are_not_repeated(bucket: Bucket, folder: str, again: str) -> None:
    key = f"ingest/attempts/{folder}/a.csv"
    lines = [f"{folder}-{number},raise,{number // 4}" for number in range(5)]
    body = "\n".join(["key,how,times", *lines])

    failed = bucket.ingest(key, body)
    if again == "uploaded":
        run = bucket.ingest(key, body)
    else:
        run = bucket.end(runs_of(bucket.stack).resume(bucket.started(key)).arn)

    assert (failed.status, failed.error) == ("FAILED", "FunctionError")
    assert "attempts, line 6: ValueError" in failed.cause
    # The function, with two rows in a chunk here, counts its calls: only the last chunk was repeated.
    assert [line["result"] for line in bucket.rows(run)] == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_an_object_that_is_deleted_before_its_event_arrives_is_not_an_error(
    bucket: Bucket, folder: str, change: str
) -> None:
    key = f"ingest/sentiment/{folder}/a.png"
    event = bucket.upload(key, "text\nfine\n", "image/png")
    bucket.end(bucket.started(key))
    if change == "deleted":
        bucket.stack.client("s3").delete_object(Bucket=bucket.name, Key=key)
    else:
        bucket.ingest(key, "text\nbetter\n", "image/png")

    run = bucket.end(bucket.deliver(event))

    assert run.output["outcome"] == "gone"
    assert run.output["message"].startswith(f"s3://{bucket.name}/{key} was deleted or replaced")


@pytest.fixture
def versions(bucket: Bucket) -> Iterator[None]:
    s3 = bucket.stack.client("s3")
    s3.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    yield
    s3.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Suspended"})


@pytest.mark.usefixtures("versions")
def test_with_versioning_each_version_is_processed_once(bucket: Bucket, folder: str) -> None:
    key = f"ingest/sentiment/{folder}/a.csv"
    first = bucket.upload(key, "text\nfine\n")
    ended = bucket.end(bucket.started(key))
    second = bucket.upload(key, "text\nfine\n")
    ended_again = bucket.end(bucket.started(key, 2))
    bucket.stack.client("s3").delete_object(Bucket=bucket.name, Key=key)

    late = bucket.end(bucket.deliver(first))

    assert first["version-id"] != second["version-id"]
    assert [run.output["outcome"] for run in (ended, ended_again, late)] == [
        "processed",
        "processed",
        "skipped",
    ]
    assert [run.output["version_id"] for run in (ended, ended_again)] == [
        first["version-id"],
        second["version-id"],
    ]
    assert ended.output["output"] != ended_again.output["output"]


def test_keys_outside_of_the_prefix_start_nothing(bucket: Bucket, folder: str) -> None:
    inside = f"ingest/sentiment/{folder}/a.csv"
    bucket.upload(f"other/{folder}/a.csv", "text\nfine\n")
    run = bucket.ingest(inside, "text\nfine\n")

    started = bucket.end(bucket.deliver({"key": f"other/{folder}/a.csv"}))

    assert bucket.handles(run.output["output"]) == []
    assert len(bucket.handles(f"other/{folder}/a.csv")) == 1
    assert (started.status, started.error) == ("FAILED", "ObjectError")
    assert "is not below ingest/" in started.cause
