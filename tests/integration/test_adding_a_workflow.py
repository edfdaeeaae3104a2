"""The workflow that docs/adding-a-workflow.md adds, on the stack: started from SQL, waiting, and resumed."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core.catalog import read_workflows
from stepflake.runs import start
from stepflake.snowflake.client import SnowflakeClient
from stepflake.snowflake.ddl import workflow_functions
from stepflake.snowflake.session import Session, SqlError, session_on
from stepflake.stack import Stack
from tests.conftest import PROJECT
from tests.documented_workflow import NAME
from tests.runs import end_of, wait_for


def stored(stack: Stack, key: str) -> bytes:
    body: bytes = stack.client("s3").get_object(Bucket=stack.outputs["Bucket"], Key=key)["Body"].read()
    return body


def entered(stack: Stack, handle: str) -> list[str]:
    history: dict[str, Any] = stack.client("stepfunctions").get_execution_history(executionArn=handle)
    events = (event.get("stateEnteredEventDetails") for event in history["events"])
    return [details["name"] for details in events if details]


def compose_returned(stack: Stack, handle: str) -> str:
    """The time for the message that the run's first step returned."""
    history = stack.client("stepfunctions").get_execution_history(executionArn=handle)
    outputs = (event.get("taskSucceededEventDetails") for event in history["events"])
    payload = json.loads(next(details["output"] for details in outputs if details))["Payload"]
    return str(payload["due_at"])


@pytest.fixture
def sql(stack: Stack) -> Iterator[Callable[[str], Any]]:
    """The value of a call of the workflow's external function."""
    declared = workflow_functions([read_workflows(PROJECT / "lambdas")[NAME]], stack.api_url)
    with (
        SnowflakeClient(stack.credentials, stack.region) as client,
        Session(client, declared) as session,
    ):
        yield lambda document: session.execute(f"select {NAME}(parse_json($${document}$$))")[0].rows[0][0]


def test_sql_starts_a_run_and_gets_its_output(stack: Stack, sql: Callable[[str], Any]) -> None:
    assert stored(stack, sql('{"message": "water the plants"}')["key"]) == b"water the plants"


def test_an_input_that_violates_the_schema_starts_nothing(sql: Callable[[str], Any]) -> None:
    with pytest.raises(SqlError, match=r"400 .*row 0, at \$\.message"):
        sql('{"message": ""}')


def test_a_run_stopped_while_it_waits_is_resumed_without_repeating_steps(stack: Stack) -> None:
    client = stack.client("stepfunctions")
    handle = start(stack, NAME, {"message": "call back", "delay_seconds": 200})
    wait_for(lambda: "Wait until due" in entered(stack, handle), "the wait")
    client.stop_execution(executionArn=handle)
    wait_for(lambda: client.describe_execution(executionArn=handle)["status"] == "ABORTED", "the stop")
    with session_on(stack) as session:
        ((resumed,),) = session.execute(f"select run_resume('{handle}')")[0].rows
    run = end_of(stack, resumed)
    assert run.status == "SUCCEEDED", run.cause
    assert stored(stack, run.output["key"]) == b"call back"
    assert run.output["key"] == f"reminders/{handle.rpartition(':')[2]}.txt"
    assert entered(stack, resumed) == ["Compose", "Due?", "Wait until due", "Send"]
    assert compose_returned(stack, resumed) == compose_returned(stack, handle)
