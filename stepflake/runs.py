"""Runs of workflows on a deployed stack: lists, describes, starts and follows them."""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from core.catalog import Workflow, read_workflows
from core.executions import MAX_PAYLOAD_BYTES
from core.runs import Run, RunError, Runs
from stepflake.errors import UserError
from stepflake.progress import console
from stepflake.stack import Stack

FOLLOW_SECONDS = 0.5

# DescribeExecution is eventually consistent: a run that was just started may not be visible yet.
VISIBLE_SECONDS = 3.0

# The events of a try that failed.
_FAILURES = frozenset(
    f"{call}{end}" for call in ("Task", "LambdaFunction", "Activity") for end in ("Failed", "TimedOut")
) | {"TaskSubmitFailed", "TaskStartFailed", "LambdaFunctionScheduleFailed", "EvaluationFailed"}


class RunsError(UserError):
    """A run, a workflow or an input that a command cannot use; the message says why."""


def runs_of(stack: Stack) -> Runs:
    """The stack's runs. The template names each machine {stack}-{workflow}."""
    prefix = stack.outputs["BatchStateMachineArn"].removesuffix("batch")
    return Runs(stack.client("stepfunctions"), prefix)


def machine_arn(stack: Stack, workflow: str) -> str:
    """The ARN of a workflow's machine."""
    return runs_of(stack).machine_prefix + workflow


def find_workflow(name: str) -> Workflow:
    """The workflow of this name. Raises RunsError, which lists all."""
    workflows = read_workflows()
    if name not in workflows:
        raise RunsError(f"There is no workflow {name!r}; there are: {', '.join(workflows)}")
    return workflows[name]


def list_runs(stack: Stack, workflows: list[str], status: str | None, limit: int) -> list[dict[str, str]]:
    """The newest runs, up to `limit` of each workflow: workflow, run, status, started, handle."""
    client = stack.client("stepfunctions")
    rows = []
    for name in workflows:
        query = {"stateMachineArn": machine_arn(stack, name), "maxResults": limit}
        answer = client.list_executions(**query, **({"statusFilter": status} if status else {}))
        rows += [
            {
                "workflow": name,
                "run": item["name"],
                "status": item["status"],
                "started": item["startDate"].isoformat(timespec="milliseconds"),
                "handle": item["executionArn"],
            }
            for item in answer["executions"][:limit]
        ]
    return sorted(rows, key=lambda row: row["started"], reverse=True)


def find(stack: Stack, handle_or_name: str) -> Run:
    """The run of this handle or name. Raises RunsError."""
    runs = runs_of(stack)
    if handle_or_name.startswith("arn:"):
        try:
            return runs.find(handle_or_name)
        except RunError as error:
            raise RunsError(str(error)) from error
    for name in read_workflows():
        handle = machine_arn(stack, name).replace(":stateMachine:", ":execution:") + f":{handle_or_name}"
        try:
            return runs.find(handle)
        except RunError:
            continue
    raise RunsError(f"There is no run {handle_or_name!r}; see: stepflake runs list")


def start(stack: Stack, workflow: str, document: Any, name: str | None = None) -> str:
    """Starts a run, and returns its handle. `name`: of the run. Raises RunsError."""
    text = json.dumps(document, ensure_ascii=False)
    if (size := len(text.encode())) > MAX_PAYLOAD_BYTES:
        raise RunsError(
            f"The input has {size:,} bytes; a run takes {MAX_PAYLOAD_BYTES:,}. Put the data in S3."
        )
    named = {"name": name} if name else {}
    try:
        answer = stack.client("stepfunctions").start_execution(
            stateMachineArn=machine_arn(stack, workflow), input=text, **named
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ExecutionAlreadyExists":
            raise
        raise RunsError(
            f"There is already a run {name!r} of {workflow}; see: stepflake runs show {name}"
        ) from None
    return str(answer["executionArn"])


def follow(stack: Stack, handle: str) -> Run:
    """Waits until a run has ended, and shows its current state meanwhile. Raises RunsError."""
    runs = runs_of(stack)
    visible_by = time.monotonic() + VISIBLE_SECONDS
    with console.status("Starting ...") as status:
        while True:
            try:
                run = runs.find(handle)
            except RunError as error:
                if time.monotonic() >= visible_by:
                    raise RunsError(str(error)) from error
            else:
                if not run.is_running:
                    return run
                status.update(f"{run.workflow}: {_newest_state(stack, run.arn)} ...")
            time.sleep(FOLLOW_SECONDS)


def entered_states(stack: Stack, handle: str) -> list[dict[str, str]]:
    """The states that a run entered, in order: state, entered, outcome (the error where it failed)."""
    pages = stack.client("stepfunctions").get_paginator("get_execution_history")
    return states_of([event for page in pages.paginate(executionArn=handle) for event in page["events"]])


def states_of(events: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The states that a history's events tell of, as `entered_states` returns them.

    Events of the iterations of a Map and of a Parallel's branches are mixed; each names the one before it.
    """
    states: list[dict[str, str]] = []
    # By an event's id: the state that it is about.
    about: dict[int, dict[str, str]] = {}
    for event in events:
        state = about.get(event.get("previousEventId", 0))
        if details := event.get("stateEnteredEventDetails"):
            entered = event["timestamp"].isoformat(timespec="milliseconds")
            state = {"state": details["name"], "entered": entered, "outcome": ""}
            states.append(state)
        elif details := event.get("stateExitedEventDetails"):
            if state is None or state["state"] != details["name"]:  # of a Map: the event before is a part's
                state = _newest_open(states, details["name"])
            if state is not None:
                failed = state["outcome"]
                state["outcome"] = f"done after {failed}" if failed else "done"
        elif state is not None and event["type"] in _FAILURES:
            key = f"{event['type'][0].lower()}{event['type'][1:]}EventDetails"
            state["outcome"] = event.get(key, {}).get("error", "failed")
        elif state is not None and event["type"].endswith("StateAborted"):
            state["outcome"] = "stopped"
        if state is not None:
            about[event["id"]] = state
    return states


def _newest_state(stack: Stack, handle: str) -> str:
    # One page from the end: a history has up to 25,000 events.
    page = stack.client("stepfunctions").get_execution_history(executionArn=handle, reverseOrder=True)
    entered = (event.get("stateEnteredEventDetails") for event in page["events"])
    return next((str(details["name"]) for details in entered if details), "starting")


def _newest_open(states: list[dict[str, str]], name: str) -> dict[str, str] | None:
    of_name = (state for state in reversed(states) if state["state"] == name)
    return next((state for state in of_name if not state["outcome"].startswith("done")), None)
