"""The batch machine, in place of Step Functions: runs an execution, without its retries."""

import json

from batch import collect, process
from tests.unit.fake_aws import CONTEXT, FakeAws, FakeExecution
from tests.unit.fake_aws.invocations import error_document


def run_batch(execution: FakeExecution) -> None:
    """Takes each chunk through `process`, then `collect`."""
    assert execution.machine == "batch"
    name, batch = execution.name, json.loads(execution.input)
    execution.runs += 1
    try:
        for chunk in range(batch["chunks"]):
            process.handler({"execution": name, "batch": batch, "chunk": chunk, "again": False}, CONTEXT)
        if batch["chunks"] > 1:
            collect.handler({"execution": name, "batch": batch}, CONTEXT)
    except Exception as error:  # noqa: BLE001 - whatever a Lambda raises fails the execution
        execution.error, execution.cause = type(error).__name__, error_document(error)
        execution.status = "FAILED"
    else:
        execution.status, execution.output = "SUCCEEDED", "{}"


def finish(aws: FakeAws) -> None:
    """Runs the executions that have not run yet."""
    for execution in aws.step_functions.executions.values():
        if execution.status == "RUNNING":
            run_batch(execution)


def only_execution(aws: FakeAws) -> FakeExecution:
    """The only execution that was started; it is the batch machine's."""
    (execution,) = aws.step_functions.executions.values()
    assert execution.machine == "batch"
    return execution
