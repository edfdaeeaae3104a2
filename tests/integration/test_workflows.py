"""Workflows from SQL and from a terminal, on the local stack: what each row is answered with.

The workflow is mostly the pipeline with the tests' own service `unstable` in it, which fails on demand.
"""

import gzip
import json
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner, Result

from stepflake.cli import main
from stepflake.commands import runs as runs_command
from stepflake.runs import machine_arn
from stepflake.snowflake.session import Session, SqlError, session_on
from stepflake.stack import Stack
from tests import turns
from tests.caller import Caller, Response, new_batch_id
from tests.runs import wait_for

SERVICES = ["language", "sentiment", "unstable", "keywords"]


def review(text: str = "A lovely place", *, fails: int = 0) -> dict[str, Any]:
    """A run's input; the service `unstable` fails so many times for it."""
    trouble = {"key": uuid.uuid4().hex, "how": "raise", "times": fails}
    return {"document": {"text": text, **({"trouble": trouble} if fails else {})}}


@dataclass
class Sql:
    """A SQL user."""

    session: Session

    def query(self, function: str, *arguments: Any) -> list[Any]:
        """The function's values for these rows of one argument each, in order."""
        rows = ", ".join(
            f"({number}, $${argument if isinstance(argument, str) else json.dumps(argument)}$$)"
            for number, argument in enumerate(arguments)
        )
        value = "column2" if isinstance(arguments[0], str) else "parse_json(column2)"
        (result,) = self.session.execute(f"select {function}({value}) from values {rows} order by column1")
        return [row[0] for row in result.rows]

    def end(self, handle: str) -> dict[str, Any]:
        """The run's status, once it has ended."""
        status: dict[str, Any] = wait_for(
            lambda: (
                state if (state := self.query("run_status", handle)[0]).get("status") != "RUNNING" else None
            ),
            f"the end of {handle}",
        )
        return status


@pytest.fixture(autouse=True)
def services_work(stack: Stack) -> Iterator[None]:
    """No test in the other process breaks the pipeline's Lambda meanwhile."""
    with turns.together():
        yield


@pytest.fixture
def sql(stack: Stack) -> Iterator[Sql]:
    with session_on(stack) as session:
        yield Sql(session)


@pytest.fixture
def waiting(stack: Stack) -> Iterator[dict[str, Any]]:
    """The input of an ETL run that waits for an approval in vain; its runs are stopped afterwards."""
    dataset = uuid.uuid4().hex
    stack.client("s3").put_object(
        Bucket=stack.outputs["Bucket"], Key=f"datasets/{dataset}/a.jsonl", Body=b'{"n": 1}\n'
    )
    document = {"dataset_id": dataset, "approval": True}
    yield document
    for name, _ in started(stack, "etl", document):
        arn = machine_arn(stack, "etl").replace(":stateMachine:", ":execution:") + f":{name}"
        stack.client("stepfunctions").stop_execution(executionArn=arn)


def started(stack: Stack, workflow: str, document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Names and inputs of the runs whose input holds all of this."""
    client = stack.client("stepfunctions")
    pages = client.get_paginator("list_executions").paginate(stateMachineArn=machine_arn(stack, workflow))
    names = [(each["name"], each["executionArn"]) for page in pages for each in page["executions"]]
    inputs = [(name, json.loads(client.describe_execution(executionArn=arn)["input"])) for name, arn in names]
    return [(name, given) for name, given in inputs if given.items() >= document.items()]


def statuses(output: dict[str, Any]) -> list[str]:
    assert [step["service"] for step in output["steps"]] == SERVICES
    return [step["status"] for step in output["steps"]]


# --- from SQL, attached ---


@pytest.mark.faults
def test_each_row_is_answered_in_order_and_a_failed_one_affects_no_other(sql: Sql) -> None:
    good, bad, other = sql.query("pipeline", review("I love it"), review(fails=99), review("I hate it"))

    assert "error" not in good, good
    assert (good["document"]["text"], other["document"]["text"]) == ("I love it", "I hate it")
    assert statuses(good) == statuses(other) == ["run"] * 4
    assert good["document"]["sentiment"]["label"] == "Positive"
    assert set(bad) == {"error", "cause", "execution"}
    assert (bad["error"], bad["cause"]) == (
        "ServiceError",
        "unstable: ValueError: the thirteenth row of thirteen",
    )
    assert sql.query("run_status", bad["execution"])[0]["status"] == "FAILED"


@pytest.mark.faults
def test_a_duplicate_post_starts_no_second_run(stack: Stack, caller: Caller) -> None:
    documents = [review(uuid.uuid4().hex) for _ in range(2)]
    batch_id = new_batch_id()

    def post(_: int) -> Response:
        return caller.post("pipeline", [[document] for document in documents], batch_id, kind="workflows")

    with ThreadPoolExecutor(3) as pool:
        assert {response.status for response in pool.map(post, range(3))} <= {200, 202}
    answer = wait_for(
        lambda: (
            response
            if (response := caller.get("pipeline", batch_id, kind="workflows")).status != 202
            else None
        ),
        "the batch",
    )

    assert [value["document"]["text"] for value in answer.values] == [
        d["document"]["text"] for d in documents
    ]
    assert post(0).values == answer.values
    assert [len(started(stack, "pipeline", document)) for document in documents] == [1, 1]


def test_rows_that_the_time_of_a_batch_is_too_short_for_say_so_and_their_runs_continue(
    stack: Stack, waiting: dict[str, Any]
) -> None:
    client = stack.client("stepfunctions")
    machine = client.describe_state_machine(stateMachineArn=stack.outputs["BatchStateMachineArn"])
    # The same machine, where runs have 8 s instead of 560 and are not started in the last 4, two at a time.
    definition = (
        machine["definition"].replace("+ 560000", "+ 8000").replace("$millis() + 10000", "$millis() + 4000")
    )
    definition = re.sub(r'"MaxConcurrency": "\{% \d+ %\}"', '"MaxConcurrency": 2', definition)
    name = f"hurried-{uuid.uuid4().hex}"
    hurried = client.create_state_machine(name=name, definition=definition, roleArn=machine["roleArn"])
    batch = {
        "batch_id": name,
        "query_id": "q",
        "digest": "d",
        "row_count": 3,
        "chunk_rows": 1,
        "chunks": 3,
        "workflow": "etl",
        "documents": [waiting] * 3,
        "detached": False,
    }

    execution = client.start_execution(
        stateMachineArn=hurried["stateMachineArn"], name=name, input=json.dumps(batch)
    )["executionArn"]
    ended = wait_for(
        lambda: (
            described
            if (described := client.describe_execution(executionArn=execution))["status"] != "RUNNING"
            else None
        ),
        "the end of the batch",
    )

    assert ended["status"] == "SUCCEEDED", ended
    key = f"batches/{name}/result.json.gz"
    body = stack.client("s3").get_object(Bucket=stack.outputs["Bucket"], Key=key)["Body"].read()
    values = [value for _, value in json.loads(gzip.decompress(body))["data"]]
    assert [value["error"] for value in values] == ["States.Timeout", "States.Timeout", "RunNotStarted"]
    for value in values[:2]:
        assert client.describe_execution(executionArn=value["execution"])["status"] == "RUNNING"
    assert len(started(stack, "etl", waiting)) == 2


# --- what is refused ---


REFUSED: dict[str, tuple[str, list[list[Any]], int, str]] = {
    "a bad value in the second row": (
        "fan_out",
        [[{"names": []}], [{"names": [{"name": "a"}, 7]}]],
        400,
        "row 1, at $.names[1]: 7 is not of type 'object'",
    ),
    "nothing that must be there": (
        "pipeline",
        [[{"skip": []}]],
        400,
        "row 0, at $: 'document' is a required property, or 'request_id' is a required property",
    ),
    "null": ("etl", [[None]], 400, "row 0, at $: null is not of type 'object'"),
    "no argument": ("etl", [[]], 400, "row 0 has 0 arguments; a workflow takes one, its input"),
    "two arguments": ("etl", [[{}, {}]], 400, "row 0 has 2 arguments; a workflow takes one, its input"),
    "more digits than a double keeps": (
        "fan_out",
        [[{"names": [{"id": 12345678901234567890}]}]],
        400,
        "row 0, at $.names[0].id: 12345678901234567890 has more digits than a state machine keeps; "
        "send it as a string",
    ),
    "no such workflow": (
        "fan_in",
        [[{}]],
        404,
        "there is no workflow 'fan_in'; there are: etl, fan_out, ingest, pipeline, remind",
    ),
    "too many rows": (
        "fan_out",
        [[{"names": []}]] * 301,
        413,
        "the batch has 301 runs, and 300 fit; lower MAX_BATCH_ROWS on the external function",
    ),
    "too much": (
        "fan_out",
        [[{"names": [{"name": "x" * 100_000}]}]] * 3,
        413,
        "the runs' inputs exceed 258,048 bytes together; lower MAX_BATCH_ROWS on the external function",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_an_invalid_request_is_refused(caller: Caller, case: str) -> None:
    workflow, rows, status, message = REFUSED[case]

    response = caller.post(workflow, rows, new_batch_id(), kind="workflows")

    assert (response.status, response.document["message"]) == (status, message)


def test_another_mode_is_refused(caller: Caller) -> None:
    response = caller.post(
        "etl", [[{"dataset_id": "x"}]], new_batch_id(), kind="workflows", headers={"sf-custom-mode": "later"}
    )

    assert response.status == 400
    assert "sf-custom-mode is 'later'" in response.document["message"]


def test_a_sql_user_sees_what_is_wrong_and_where(sql: Sql) -> None:
    with pytest.raises(SqlError) as raised:
        sql.query("fan_out", {"names": []}, {"names": 3})

    assert "row 1, at $.names: 3 is not of type 'array'" in str(raised.value)


# --- from SQL, detached ---


@pytest.mark.faults
def test_detached_rows_are_handles_to_follow_and_to_resume(sql: Sql) -> None:
    good, bad = sql.query("pipeline_detached", review("I love it"), review(fails=1))

    ended, failed = sql.end(good), sql.end(bad)
    assert (ended["workflow"], ended["status"], ended["error"]) == ("pipeline", "SUCCEEDED", None)
    assert ended["started"] < ended["stopped"]
    assert (failed["status"], failed["error"]) == ("FAILED", "ServiceError")
    output, error = sql.query("run_result", good, bad)
    assert output["document"]["text"] == "I love it"
    assert error == {"error": "ServiceError", "cause": failed["cause"], "execution": bad}

    assert sql.query("run_resume", bad) == [bad]
    assert sql.end(bad)["status"] == "SUCCEEDED"
    (output,) = sql.query("run_result", bad)
    assert statuses(output) == ["run"] * 4
    with pytest.raises(SqlError, match="succeeded; there is nothing to resume"):
        sql.query("run_resume", bad)


def test_a_detached_run_that_waits_has_no_result_yet(sql: Sql, stack: Stack, waiting: dict[str, Any]) -> None:
    (handle,) = sql.query("etl_detached", waiting)

    assert sql.query("run_status", handle)[0]["status"] == "RUNNING"
    assert sql.query("run_result", handle) == [None]
    assert sql.query("run_resume", handle) == [handle]

    client = stack.client("stepfunctions")
    client.stop_execution(executionArn=handle, error="Stopped", cause="maintenance")
    assert sql.query("run_result", handle) == [
        {"error": "Stopped", "cause": "maintenance", "execution": handle}
    ]
    assert sql.query("run_resume", handle) == [handle]
    assert sql.query("run_status", handle)[0]["status"] == "RUNNING"
    assert len(started(stack, "etl", waiting)) == 1


def test_an_invalid_handle_is_its_row_s_error(sql: Sql) -> None:
    arn = "arn:aws:states:us-east-1:000000000000:execution"
    values = sql.query(
        "run_status",
        "",
        "nonsense",
        f"{arn}:stepflake-etl:never",
        f"{arn}:other-etl:a",
        f"{arn}:stepflake-prod-etl:a",
        f"{arn}:stepflake-batch:a",
    )

    assert [value["error"] for value in values] == ["RunError"] * 6
    said = ["''", "'nonsense'", "there is no run", *["not a run of this stack's workflows"] * 3]
    assert [part in value["cause"] for part, value in zip(said, values, strict=True)] == [True] * 6
    with pytest.raises(SqlError, match="there is no run"):
        sql.query("run_resume", f"{arn}:stepflake-etl:never")


# --- from a terminal ---


class Terminal:
    """Calls `stepflake runs` on the session's stack."""

    def call(self, *arguments: str, exit_code: int = 0, given: str | None = None) -> Result:
        runner = CliRunner(mix_stderr=False)
        result = runner.invoke(main, ["runs", *arguments], input=given, catch_exceptions=False)
        assert result.exit_code == exit_code, result.output
        return result

    def json(self, *arguments: str) -> Any:
        return json.loads(self.call(*arguments, "--json").stdout)


@pytest.fixture
def terminal(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setattr(runs_command, "find_stack", lambda **_: stack)
    return Terminal()


def test_a_run_is_started_shown_and_resumed_from_a_terminal(terminal: Terminal) -> None:
    name = f"terminal-{uuid.uuid4().hex}"
    failed = terminal.call(
        "start", "pipeline", "-", "--run", name, given=json.dumps(review(fails=1)), exit_code=1
    )
    assert f"pipeline {name}: FAILED" in failed.stdout
    assert "unstable: ValueError: the thirteenth row of thirteen" in failed.stdout
    assert f"stepflake runs resume {name}" in failed.stderr
    again = terminal.call("start", "pipeline", json.dumps(review()), "--run", name, exit_code=1)
    assert f"There is already a run {name!r} of pipeline;" in again.stderr

    shown = terminal.json("show", name)
    assert (shown["workflow"], shown["status"], shown["run_id"]) == ("pipeline", "FAILED", name)
    assert (shown["output"], shown["error"]) == (None, "ServiceError")
    assert shown["states"][-1]["outcome"] == "ServiceError"
    assert [state["outcome"] for state in shown["states"][:-1]][-1] == "done"
    assert "ServiceError" in terminal.call("show", name).stdout

    resumed = terminal.call("resume", name)
    assert f"{name} is resumed\n" in resumed.stderr
    document = json.loads(resumed.stdout.partition("\n")[2])
    assert statuses(document) == ["run"] * 4
    again = terminal.json("show", name)
    assert (again["output"], again["status"], again["error"]) == (document, "SUCCEEDED", None)
    assert again["states"][: len(shown["states"]) - 1] == shown["states"][:-1]
    assert again["states"][len(shown["states"]) - 1]["outcome"] == "done after ServiceError"
    assert {state["outcome"] for state in again["states"]} == {"done", "done after ServiceError"}
    nothing = terminal.call("resume", name, exit_code=1)
    assert "succeeded; there is nothing to resume" in nothing.stderr

    other = f"terminal-{uuid.uuid4().hex}"
    terminal.call("start", "pipeline", json.dumps(review(fails=1)), "--run", other, exit_code=1)
    listed = {run["run"]: run for run in terminal.json("list", "pipeline", "--limit", "1000")}
    assert (listed[name]["status"], listed[other]["status"]) == ("SUCCEEDED", "FAILED")
    assert terminal.json("show", listed[name]["handle"])["handle"] == shown["handle"]
    every = terminal.json("list", "--status", "FAILED")
    assert other in [run["run"] for run in every]
    assert {run["status"] for run in every} == {"FAILED"}
    assert [run["started"] for run in every] == sorted((run["started"] for run in every), reverse=True)
    assert name in terminal.call("list", "pipeline", "--limit", "1000").stdout


@pytest.mark.faults
def test_a_run_is_stopped_and_resumed_from_a_terminal(terminal: Terminal, waiting: dict[str, Any]) -> None:
    handle = terminal.call("start", "etl", json.dumps(waiting), "--no-wait").stdout.strip()
    name = handle.rpartition(":")[2]

    assert f"stepflake runs resume {name}" in terminal.call("stop", name, "--cause", "enough").stderr

    shown = terminal.json("show", handle)
    assert (shown["status"], shown["error"], shown["cause"]) == ("ABORTED", "Stopped", "enough")
    assert "is not running: ABORTED" in terminal.call("stop", name, exit_code=1).stderr
    assert terminal.call("resume", name, "--no-wait").stdout.strip() == handle
    shown = terminal.json("show", handle)
    assert (shown["status"], shown["error"], shown["input"]) == ("RUNNING", None, waiting)
    assert terminal.call("resume", name, "--no-wait").stdout.strip() == handle


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["show", "never-started"], 1, "There is no run 'never-started'"),
        (["stop", "never-started"], 1, "see: stepflake runs list"),
        (["resume", "arn:nonsense"], 1, "'arn:nonsense' is not a run of this stack"),
        (["start", "fan_in", "{}"], 1, "There is no workflow 'fan_in'; there are: etl, fan_out"),
        (["list", "fan_in"], 1, "There is no workflow 'fan_in'"),
        (["start", "etl", '{"dataset_id": 3}'], 1, "at $.dataset_id: 3 is not of type 'string'"),
        (["start", "etl", "{"], 1, "The input of etl: "),
        (["start", "etl", "@nowhere.json"], 1, "There is no file nowhere.json"),
        (["start", "etl", '{"dataset_id": "x"}', "--run", "a b"], 2, "at most 80 letters"),
        (["list", "--limit", "0"], 2, "0 is not in the range"),
        (["list", "--status", "GONE"], 2, "'GONE' is not one of"),
        (["show"], 2, "Missing argument 'RUN'"),
    ],
)  # fmt: skip
def test_an_impossible_command_says_why_and_has_its_exit_code(
    terminal: Terminal, arguments: list[str], exit_code: int, said: str
) -> None:
    assert said in terminal.call(*arguments, exit_code=exit_code).stderr
