"""Runs of workflows on a deployed stack: lists, describes, starts and follows them."""

import json
import time
from typing import Any

from botocore.exceptions import ClientError

from core.catalog import Workflow, read_workflows
from core.executions import MAX_PAYLOAD_BYTES
from core.runs import Run, RunError, Runs
from stepflake.errors import UserError
from stepflake.progress import console
from stepflake.stack import Stack

FOLLOW_SECONDS = 0.5


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
    """Waits until a run has ended, and shows its current state meanwhile."""
    runs = runs_of(stack)
    with console.status("Starting ...") as status:
        while (run := runs.find(handle)).is_running:
            status.update(f"{run.workflow}: {_newest_state(stack, run.arn)} ...")
            time.sleep(FOLLOW_SECONDS)
    return run


def entered_states(stack: Stack, handle: str) -> list[dict[str, str]]:
    """The states that a run entered, in order: state, entered, outcome (the error where it failed)."""
    pages = stack.client("stepfunctions").get_paginator("get_execution_history")
    states: list[dict[str, str]] = []
    for page in pages.paginate(executionArn=handle):
        for event in page["events"]:
            if "stateEnteredEventDetails" in event:
                name = event["stateEnteredEventDetails"]["name"]
                entered = event["timestamp"].isoformat(timespec="milliseconds")
                states.append({"state": name, "entered": entered, "outcome": ""})
            elif "stateExitedEventDetails" in event:
                _settle(states, event["stateExitedEventDetails"]["name"], "done")
            elif states and "taskFailedEventDetails" in event:
                states[-1]["outcome"] = event["taskFailedEventDetails"].get("error", "failed")
    return states


def _newest_state(stack: Stack, handle: str) -> str:
    # One page from the end: a history has up to 25,000 events.
    page = stack.client("stepfunctions").get_execution_history(executionArn=handle, reverseOrder=True)
    entered = (event.get("stateEnteredEventDetails") for event in page["events"])
    return next((str(details["name"]) for details in entered if details), "starting")


def _settle(states: list[dict[str, str]], name: str, outcome: str) -> None:
    for state in reversed(states):
        if state["state"] == name and not state["outcome"].startswith("done"):
            failed = state["outcome"]
            state["outcome"] = f"{outcome} after {failed}" if failed else outcome
            return
