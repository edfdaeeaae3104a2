"""One row of a workflow batch: what its run returned, as the row's value."""

import time
from typing import Any, NotRequired, TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import ClientError

from batch import store, wire
from batch.store import WorkflowBatch
from core.errors import reraise_transient
from core.exact_json import Json, dump_json
from core.executions import Execution, describe_execution, execution_arn

logger = Logger()

TOO_LONG = (
    "the run continues, but takes longer than SQL waits; follow it with run_status and run_result, and start "
    "such runs detached"
)


class RunUnfinished(Exception):
    """A run that an earlier attempt started is still running; the machine asks again after a pause."""


class Outcome(TypedDict):
    """How the run's task ended: `output` where it is known, else the `error` and `cause` of the task."""

    output: NotRequired[Any]
    error: NotRequired[str]
    cause: NotRequired[str]


class Event(TypedDict):
    """What the batch machine sends for each row. `run`: the name of the row's execution.

    `until`: when to stop asking for the run's end, in milliseconds since 1970. Version 0.1 does not send it.
    """

    execution: str
    batch: dict[str, Any]
    row: int
    run: str
    outcome: Outcome
    until: NotRequired[float]


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> None:
    """Stores the row's value: the run's output, its handle, or an error object. Raises RunUnfinished."""
    batch = WorkflowBatch.from_input(event["batch"])
    logger.append_keys(execution=event["execution"], row=event["row"], workflow=batch.workflow)
    arn = execution_arn(batch.workflow, event["run"])
    is_last = time.time() * 1000 >= event.get("until", float("inf"))
    value = row_value(batch, arn, event["outcome"], is_last=is_last)
    rendered = wire.render_rows([dump_json(value)], event["row"])
    store.store_chunk(event["execution"], batch, event["row"], rendered)


def row_value(batch: WorkflowBatch, arn: str, outcome: Outcome, *, is_last: bool) -> Json:
    """What the SQL user gets for a row. Raises RunUnfinished, unless it is the last time that this is asked.

    Where the task failed, the run may nevertheless run or have succeeded: an earlier attempt started it, or
    its output is too large for the task's result. So the run itself is described.
    """
    if "output" in outcome:
        return arn if batch.detached else outcome["output"]
    run = _find_run(arn)
    if run is None:
        return {"error": outcome["error"], "cause": outcome["cause"], "execution": arn}
    if batch.detached:
        return arn
    if run.is_running and not is_last and outcome["error"] != "States.Timeout":
        raise RunUnfinished(f"{arn} is still running")
    if run.is_running:
        return {"error": "States.Timeout", "cause": TOO_LONG, "execution": arn}
    if run.status == "SUCCEEDED":
        return run.output
    return {"error": run.error, "cause": run.cause, "execution": arn}


def _find_run(arn: str) -> Execution | None:
    # Both roles name the workflows that SQL may start: what may not be described was not started either, and
    # the task's own error says which permission is missing.
    try:
        return describe_execution(arn)
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDeniedException":
            raise
        return None
