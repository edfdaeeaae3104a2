"""etl on the local stack: real objects are loaded, and runs that end at any step are resumed."""

import gzip
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pytest
import urllib3

from stepflake.runs import runs_of
from stepflake.stack import Stack
from tests.runs import Run, end_of, wait_for

ROWS = 9
CSV = "id,day,amount\n" + "".join(f"{n:03},2026-11-{n % 3 + 1:02},{n}.10\n" for n in range(ROWS))
YES = {"approved": True, "by": "test"}


@dataclass(frozen=True)
class Etl:
    """The stack's workflow, and one dataset of the test's own."""

    stack: Stack
    dataset: str

    @property
    def bucket(self) -> str:
        return self.stack.outputs["Bucket"]

    def upload(self, name: str, body: str | bytes) -> None:
        data = body.encode() if isinstance(body, str) else body
        key = f"datasets/{self.dataset}/{name}"
        self.stack.client("s3").put_object(Bucket=self.bucket, Key=key, Body=data)

    def keys(self, prefix: str) -> list[str]:
        listed = self.stack.client("s3").list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for item in listed.get("Contents", [])]

    def read(self, key: str) -> bytes:
        return bytes(self.stack.client("s3").get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def delete(self, keys: list[str]) -> None:
        assert keys
        for key in keys:
            self.stack.client("s3").delete_object(Bucket=self.bucket, Key=key)

    def start(self, machine: str | None = None, **document: Any) -> str:
        """Starts a run over the dataset in batches of 3 rows, or as the input says; returns its handle."""
        answer = self.stack.client("stepfunctions").start_execution(
            stateMachineArn=machine or self.stack.outputs["EtlStateMachineArn"],
            input=json.dumps({"dataset_id": self.dataset, "batch_size": 3, **document}),
        )
        return str(answer["executionArn"])

    def end(self, handle: str) -> Run:
        return end_of(self.stack, handle)

    def run(self, machine: str | None = None, **document: Any) -> Run:
        return self.end(self.start(machine, **document))

    def states(self, handle: str) -> list[str]:
        """The states that the run has entered, without those inside of others."""
        client = self.stack.client("stepfunctions")
        pages = client.get_paginator("get_execution_history").paginate(executionArn=handle)
        events = [event for page in pages for event in page["events"]]
        names = [e["stateEnteredEventDetails"]["name"] for e in events if "stateEnteredEventDetails" in e]
        return [name for name in names if name not in ("Transform batch", "Verify rows", "Verify rejects")]

    def request(self, handle: str) -> Mapping[str, Any]:
        """The request for approval that a run has put into the queue."""
        client, queue = self.stack.client("sqs"), self.stack.outputs["ApprovalQueueUrl"]

        def take() -> Any:
            # Requests of other runs stay in the queue.
            answer = client.receive_message(QueueUrl=queue, VisibilityTimeout=0, MaxNumberOfMessages=10)
            for message in answer.get("Messages", []):
                if json.loads(message["Body"])["execution"] == handle:
                    client.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
                    return json.loads(message["Body"])
            return None

        request: Mapping[str, Any] = wait_for(take, "a request for approval")
        return request

    def approve(self, handle: str) -> None:
        token = self.request(handle)["task_token"]
        self.stack.client("stepfunctions").send_task_success(taskToken=token, output=json.dumps(YES))

    def load(self, run: Run) -> dict[str, bytes]:
        """All objects of a load."""
        return {key: self.read(key) for key in self.keys(run.output["prefix"])}

    def rows(self, run: Run) -> list[Any]:
        return [
            json.loads(line)
            for key, body in self.load(run).items()
            if "/data/" in key
            for line in gzip.decompress(body).splitlines()
        ]


@pytest.fixture
def etl(stack: Stack) -> Etl:
    return Etl(stack, f"d{uuid.uuid4().hex}")


@pytest.fixture
def changed_machine(stack: Stack) -> Iterator[Callable[[Callable[[Any], None]], str]]:
    """`changed_machine(change)`: the ARN of a copy of the machine, its states changed in place."""
    client, made = stack.client("stepfunctions"), []

    def make(change: Callable[[Any], None]) -> str:
        machine = client.describe_state_machine(stateMachineArn=stack.outputs["EtlStateMachineArn"])
        definition = json.loads(machine["definition"])
        change(definition["States"])
        made.append(
            client.create_state_machine(
                name=f"changed-{uuid.uuid4().hex}",
                definition=json.dumps(definition),
                roleArn=machine["roleArn"],
            )["stateMachineArn"]
        )
        return str(made[-1])

    yield make
    for machine in made:
        client.delete_state_machine(stateMachineArn=machine)


def crash_after(state: str) -> Callable[[Any], None]:
    """A change: after this state the run ends."""

    def change(states: Any) -> None:
        states[state]["Next"] = "Crash"
        states["Crash"] = {"Type": "Fail", "Error": "Crash", "Cause": f"after {state}"}

    return change


@pytest.mark.faults
def test_rows_of_several_objects_are_loaded_by_day(etl: Etl) -> None:
    etl.upload("a b.csv", "\ufeff" + CSV)
    etl.upload(
        "ü+.jsonl.gz",
        gzip.compress('{"id":"x","day":"2026-11-01","amount":1.10,"text":" 日本 "}\n{'.encode()),
    )

    run = etl.run(partition_by="day", key_columns=["id"])

    assert (run.status, run.error, run.cause) == ("SUCCEEDED", "", "")
    output = run.output
    assert (output["dataset_id"], output["rows"], output["rejected"]) == (etl.dataset, ROWS + 1, 1)
    assert output["verified"]["data"]["rows"] == ROWS + 1
    files = etl.load(run)
    assert {key.removeprefix(output["prefix"]).rpartition("/")[0] for key in files} == {
        "",
        "data/day=2026-11-01",
        "data/day=2026-11-02",
        "data/day=2026-11-03",
        "rejects",
    }
    manifest = json.loads(files[output["manifest"]])
    assert [file["key"] for file in manifest["data"] + manifest["rejects"]] == [
        key
        for kind in ("data", "rejects")
        for key in sorted(files, key=lambda k: (k[-14:], k))
        if f"/{kind}/" in key
    ]
    assert {"id": "x", "day": "2026-11-01", "amount": 1.1, "text": "日本"} in etl.rows(run)


def test_the_files_are_read_as_gzipped_json_lines(etl: Etl, tmp_path: Any) -> None:
    """DuckDB's reader in place of Snowflake's: it too recognizes gzip by the name, and a line is a row."""
    etl.upload("a.csv", CSV)
    for key, body in etl.load(etl.run()).items():
        if "/data/" in key:
            (tmp_path / key.rpartition("/")[2]).write_bytes(body)

    with duckdb.connect() as database:
        loaded = database.execute(
            "select count(*), min(id), sum(amount::decimal(9, 2))::varchar from read_json("
            f"'{tmp_path}/*.jsonl.gz', columns = {{'id': 'varchar', 'day': 'date', 'amount': 'varchar'}})"
        ).fetchall()

    assert loaded == [(ROWS, "000", "36.90")]


@pytest.mark.faults
def test_loading_twice_leaves_one_copy(etl: Etl) -> None:
    etl.upload("a.csv", CSV)
    first, second = etl.run(), etl.run()

    assert first.output["run_id"] != second.output["run_id"]
    assert first.output["prefix"] == second.output["prefix"]
    assert sorted(row["id"] for row in etl.rows(second)) == [f"{n:03}" for n in range(ROWS)]
    assert set(etl.keys(f"loads/{etl.dataset}/")) == set(etl.load(first))


# --- a crash, and the resumed run ---


@pytest.mark.faults
@pytest.mark.parametrize(
    ("state", "useless"),
    [
        ("Extract", ["datasets/{dataset}/"]),
        ("Transform", ["datasets/{dataset}/", "runs/{run_id}/extract/"]),
        ("Schedule", ["datasets/{dataset}/", "runs/{run_id}/extract/"]),
        ("Load", ["datasets/{dataset}/", "runs/{run_id}/extract/", "runs/{run_id}/transform/"]),
        (
            "Verify",
            ["datasets/{dataset}/", "runs/{run_id}/extract/", "runs/{run_id}/transform/", "loads/{dataset}/"],
        ),
    ],
)
def test_a_run_resumes_after_the_step_that_finished(
    etl: Etl, changed_machine: Callable[..., str], state: str, useless: list[str]
) -> None:
    etl.upload("a.csv", CSV)
    run_id = f"crashed-{uuid.uuid4().hex}"
    crashed = etl.run(changed_machine(crash_after(state)), run_id=run_id)
    assert (crashed.error, crashed.cause) == ("Crash", f"after {state}")
    loaded = {key: etl.read(key) for key in etl.keys(f"loads/{etl.dataset}/")}
    # The input of the finished steps is deleted: repeating one would fail.
    for prefix in useless:
        keys = etl.keys(prefix.format(dataset=etl.dataset, run_id=run_id))
        etl.delete([key for key in keys if not key.endswith(".json") or not key.startswith("runs/")])

    resumed = etl.run(run_id=run_id)

    assert (resumed.status, resumed.error, resumed.cause) == ("SUCCEEDED", "", "")
    assert (resumed.output["run_id"], resumed.output["rows"]) == (run_id, ROWS)
    if state != "Verify":
        assert {key: body for key, body in etl.load(resumed).items() if key in loaded} == loaded
        assert len(etl.rows(resumed)) == ROWS


@pytest.mark.faults
def test_a_run_that_failed_continues_where_it_did(etl: Etl) -> None:
    """What Transform reads is gone for a while: the run fails there, and is resumed with what it needs."""
    etl.upload("a.csv", CSV)
    handle = etl.start(approval=True)
    request = etl.request(handle)
    client = etl.stack.client("stepfunctions")
    run_id = handle.rpartition(":")[2]
    batches = {key: etl.read(key) for key in etl.keys(f"runs/{run_id}/transform/")}
    etl.delete(list(batches))
    client.send_task_success(taskToken=request["task_token"], output=json.dumps(YES))
    failed = etl.end(handle)
    assert failed.status == "FAILED"
    entered = etl.states(handle)

    for key, body in batches.items():
        etl.stack.client("s3").put_object(Bucket=etl.stack.outputs["Bucket"], Key=key, Body=body)
    assert runs_of(etl.stack).resume(handle).arn == handle

    run = etl.end(handle)
    assert (run.status, run.output["rows"], len(etl.rows(run))) == ("SUCCEEDED", ROWS, ROWS)
    # The state that failed is not entered again, and no state before it.
    assert etl.states(handle)[: len(entered)] == entered
    assert [etl.states(handle).count(name) for name in entered] == [1] * len(entered)


def test_transformed_batches_are_not_transformed_again(etl: Etl, changed_machine: Callable[..., str]) -> None:
    etl.upload("a.csv", CSV)
    run_id = f"crashed-{uuid.uuid4().hex}"
    etl.run(changed_machine(crash_after("Extract")), run_id=run_id)
    batches = {key: etl.read(key) for key in etl.keys(f"runs/{run_id}/extract/") if key.endswith(".gz")}
    lost = next(key for key, body in batches.items() if b'"003"' in gzip.decompress(body))
    etl.delete([lost])

    failed = etl.run(run_id=run_id)
    assert (failed.error, failed.cause) == ("StoredFileError", f"{lost} is gone")
    # The others have finished: their input may be deleted, and only what was lost is stored again.
    etl.delete([key for key in batches if key != lost])
    etl.stack.client("s3").put_object(Bucket=etl.bucket, Key=lost, Body=batches[lost])

    assert sorted(row["id"] for row in etl.rows(etl.run(run_id=run_id))) == [f"{n:03}" for n in range(ROWS)]


def test_a_load_that_ended_in_the_middle_is_completed(etl: Etl) -> None:
    etl.upload("a.csv", CSV)
    run = etl.run()
    whole = etl.load(run)
    # As after a worker that died before it wrote the manifest and its checkpoint.
    etl.delete([run.output["manifest"], next(key for key in whole if "/data/" in key)])
    for step in ("load", "verify-data", "verify-rejects"):
        etl.stack.client("dynamodb").delete_item(
            TableName=etl.stack.outputs["Table"],
            Key={"pk": {"S": f"run#{run.output['run_id']}"}, "sk": {"S": f"step#{step}"}},
        )

    assert etl.run(run_id=run.output["run_id"]) == run
    assert etl.load(run) == whole


# --- waits ---


@pytest.fixture
def instant_waits(stack: Stack) -> Iterator[None]:
    """Waits take no time; afterwards a fiftieth of it again, as in tests/conftest.py."""

    def scale(value: float) -> None:
        urllib3.request(
            "POST",
            f"{stack.aws_endpoint_url}/_ministack/config",
            json={"stepfunctions._SFN_WAIT_SCALE": value},
        )

    scale(0)
    yield
    scale(0.02)


@pytest.mark.usefixtures("instant_waits")
def test_the_load_waits_for_the_off_peak_hour(etl: Etl) -> None:
    etl.upload("a.csv", CSV)
    hour = (datetime.now(UTC) + timedelta(hours=2)).hour
    handle = etl.start(off_peak_hour=hour, time_zone="Etc/UTC", rate_limit_seconds=3600)

    run = etl.end(handle)

    assert run.output["rows"] == ROWS
    assert etl.states(handle) == [
        "Extract",
        "Arrived?",
        "Wait for rate limit",
        "Transform",
        "Approval?",
        "Schedule",
        "Wait until off-peak",
        "Load",
        "Verify",
        "Loaded",
    ]
    client = etl.stack.client("stepfunctions")
    entered = {
        event["stateEnteredEventDetails"]["name"]: json.loads(event["stateEnteredEventDetails"]["input"])
        for event in client.get_execution_history(executionArn=handle)["events"]
        if "stateEnteredEventDetails" in event
    }
    load_at = datetime.fromisoformat(entered["Wait until off-peak"]["load_at"])
    assert load_at.hour == hour
    assert timedelta(0) < load_at - datetime.now(UTC) <= timedelta(hours=2)


def test_a_dataset_that_arrives_late_is_waited_for(etl: Etl) -> None:
    handle = etl.start(arrival_timeout_seconds=500)
    wait_for(lambda: "Wait for dataset" in etl.states(handle), "the first look")
    etl.upload("a.csv", CSV)

    assert etl.end(handle).output["rows"] == ROWS
    states = etl.states(handle)
    assert states.count("Extract") == states.count("Wait for dataset") + 1


# --- bad input ---


def failure(run: Run) -> tuple[str, str]:
    assert run.status == "FAILED"
    return run.error, run.cause


@pytest.mark.usefixtures("instant_waits")
def test_a_dataset_that_never_arrives_fails_the_run(etl: Etl) -> None:
    error, message = failure(etl.run(arrival_timeout_seconds=15))
    assert error == "DatasetError"
    assert message.startswith(f"there is no dataset '{etl.dataset}': no object datasets/{etl.dataset}/*.csv")
    assert "within 15 s" in message


@pytest.mark.parametrize(
    ("change", "path"),
    [({"batch_size": 0}, "$.batch_size"), ({"time_zone": "Mars/Olympus"}, "$.time_zone"), ({"no": 1}, "$")],
)
def test_bad_input_is_refused_by_its_path(etl: Etl, change: dict[str, Any], path: str) -> None:
    error, message = failure(etl.run(**change))
    assert error == "InputError"
    assert message.startswith(f"the input, at {path}: ")


def test_a_file_without_a_header_is_named(etl: Etl) -> None:
    etl.upload("a.csv", "id,\n1,2\n")
    message = f"datasets/{etl.dataset}/a.csv, line 1: column 2 has no name; fix the header"
    assert failure(etl.run()) == ("DatasetError", message)


# --- approval ---


@pytest.mark.faults
def test_a_load_may_need_an_approval(etl: Etl) -> None:
    etl.upload("a.csv", CSV + "broken\n")
    handle = etl.start(approval=True)
    request = etl.request(handle)

    assert {key: request[key] for key in ("workflow", "dataset_id", "rows", "rejected")} == {
        "workflow": "etl",
        "dataset_id": etl.dataset,
        "rows": ROWS,
        "rejected": 1,
    }
    assert etl.keys(f"loads/{etl.dataset}/") == []
    token = request["task_token"]
    etl.stack.client("stepfunctions").send_task_success(taskToken=token, output=json.dumps(YES))
    assert etl.end(handle).output["rows"] == ROWS


def test_a_refusal_ends_the_run_with_its_reason_and_a_resumed_run_asks_again(etl: Etl) -> None:
    etl.upload("a.csv", CSV)
    handle = etl.start(approval=True)
    client = etl.stack.client("stepfunctions")
    client.send_task_failure(
        taskToken=etl.request(handle)["task_token"], error="ApprovalRefused", cause="wrong day"
    )
    refused = etl.end(handle)
    assert (refused.status, refused.error, refused.cause) == ("FAILED", "ApprovalRefused", "wrong day")
    assert etl.keys(f"loads/{etl.dataset}/") == []

    assert runs_of(etl.stack).resume(handle).arn == handle
    etl.approve(handle)

    run = etl.end(handle)
    assert etl.states(handle).count("Ask for approval") == 1
    assert (run.output["run_id"], run.output["rows"]) == (handle.rpartition(":")[2], ROWS)


def test_an_answer_without_approved_true_loads_nothing(etl: Etl) -> None:
    etl.upload("a.csv", CSV)
    handle = etl.start(approval=True)
    etl.stack.client("stepfunctions").send_task_success(
        taskToken=etl.request(handle)["task_token"], output='{"approved": false}'
    )
    assert failure(etl.end(handle))[0] == "ApprovalRefused"
    assert etl.keys(f"loads/{etl.dataset}/") == []


def test_an_approval_that_is_not_answered_times_out(etl: Etl, changed_machine: Callable[..., str]) -> None:
    etl.upload("a.csv", CSV)
    machine = changed_machine(lambda states: states["Ask for approval"].update(TimeoutSeconds=1))
    run = etl.run(machine, approval=True)
    assert (run.status, run.error) == ("FAILED", "States.Timeout")
    assert etl.keys(f"loads/{etl.dataset}/") == []


@pytest.mark.faults
def test_a_stopped_run_is_resumed_with_the_approval_it_has(
    etl: Etl, changed_machine: Callable[..., str]
) -> None:
    etl.upload("a.csv", CSV)
    run_id = f"crashed-{uuid.uuid4().hex}"
    handle = etl.start(changed_machine(crash_after("Wait until off-peak")), approval=True, run_id=run_id)
    etl.approve(handle)
    assert etl.end(handle).error == "Crash"

    resumed = etl.start(approval=True, run_id=run_id)
    assert etl.end(resumed).output["rows"] == ROWS
    assert "Ask for approval" not in etl.states(resumed)
