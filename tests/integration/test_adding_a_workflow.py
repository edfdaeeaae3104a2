"""The workflow that docs/adding-a-workflow.md adds, on the stack: started from SQL, waiting, and resumed."""

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batch.store import WorkflowBatch
from core.catalog import read_workflows
from core.executions import execution_name
from stepflake.runs import machine_arn, start
from stepflake.snowflake.client import SnowflakeClient
from stepflake.snowflake.ddl import workflow_functions
from stepflake.snowflake.session import Session, SqlError, session_on
from stepflake.stack import Stack
from tests.caller import Caller, new_batch_id
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


@pytest.fixture
def unlisted(stack: Stack) -> Iterator[str]:
    """A workflow that is deployed, but that the list of the workflows that SQL may start leaves out."""
    client, name = stack.client("stepfunctions"), f"unlisted-{uuid.uuid4().hex[:8]}"
    like = client.describe_state_machine(stateMachineArn=machine_arn(stack, NAME))
    machine = client.create_state_machine(
        name=machine_arn(stack, name).rpartition(":")[2],
        definition=json.dumps({"StartAt": "Do", "States": {"Do": {"Type": "Pass", "End": True}}}),
        roleArn=like["roleArn"],
    )["stateMachineArn"]
    yield name
    client.delete_state_machine(stateMachineArn=machine)


@pytest.mark.parametrize("detached", [True, False])
def test_a_workflow_that_the_list_in_the_template_lacks_is_refused_to_sql(
    stack: Stack, caller: Caller, unlisted: str, *, detached: bool
) -> None:
    batch_id = new_batch_id()
    batch = WorkflowBatch(batch_id, "", "", 1, 1, 1, workflow=unlisted, documents=[{}], detached=detached)
    client, machine = stack.client("stepfunctions"), stack.outputs["BatchStateMachineArn"]
    # What initiate does: it would refuse the name, since the bundle has no input.json for it.
    client.start_execution(
        stateMachineArn=machine,
        name=execution_name("workflows", unlisted, batch_id),
        input=json.dumps(batch.to_input()),
    )
    answer = wait_for(
        lambda: (
            found
            if (found := caller.get(unlisted, batch_id, kind="workflows")).status not in (202, 404)
            else None
        ),
        "the batch",
    )
    (value,) = answer.values
    assert value["error"] == "StepFunctions.AWSStepFunctionsException"
    role = client.describe_state_machine(stateMachineArn=machine)["roleArn"].rpartition("/")[2]
    assert f":assumed-role/{role}/" in value["cause"]
    missing = f"states:StartExecution on resource: {machine_arn(stack, unlisted)} because no identity-based"
    assert missing in value["cause"]
