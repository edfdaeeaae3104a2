"""Waits for what a test started on the stack: for a condition, or for the end of a run."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stepflake.stack import Stack

# Long for anything that a test starts, on a machine that is busy with other things.
PATIENCE_SECONDS = 240


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` returns once that is true; fails the test where it stays false."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    # DescribeExecution and its like have rates: what takes long is asked for less often.
    pause = 0.05
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s for {what}"
        time.sleep(pause)
        pause = min(pause * 1.2, 0.4)
    return value


@dataclass(frozen=True)
class Run:
    """A finished run. `cause`: the message, where the cause is a Lambda's error document."""

    status: str
    output: Any
    error: str
    cause: str


def end_of(stack: Stack, handle: str) -> Run:
    """How a run ended, once it has."""
    client = stack.client("stepfunctions")
    execution = wait_for(
        lambda: (
            run if (run := client.describe_execution(executionArn=handle))["status"] != "RUNNING" else None
        ),
        f"the end of {handle}",
    )
    cause = execution.get("cause", "")
    return Run(
        status=execution["status"],
        output=json.loads(execution["output"]) if execution["status"] == "SUCCEEDED" else None,
        error=execution.get("error", ""),
        cause=json.loads(cause)["errorMessage"] if cause.startswith("{") else cause,
    )
