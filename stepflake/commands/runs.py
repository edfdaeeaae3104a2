"""`stepflake runs`: start, follow, resume and stop workflows' runs, on the local stack or on AWS."""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from core.catalog import Workflow, read_workflows
from core.executions import MAX_PAYLOAD_BYTES
from core.runs import Run, RunError, find_run, resume_run
from stepflake.commands.ddl import find_stack, stack_options
from stepflake.local.stack import Stack, StackError
from stepflake.progress import console

FOLLOW_SECONDS = 0.5

# What workflows take as a run id, which an execution's name may become; Step Functions takes some more.
RUN_NAME = re.compile(r"[0-9A-Za-z_.-]{1,80}")

STATUSES = ["RUNNING", "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED", "PENDING_REDRIVE"]

# What was asked for goes to stdout, progress (`console`) to stderr.
# Into a pipe or a file go whole lines.
output = Console(width=None if sys.stdout.isatty() else 1000, soft_wrap=True, highlight=False)


class RunsError(click.ClickException):
    """What a user asked of a run that can't be done; the message says what can."""


def chosen_stack(**where: Any) -> Stack:
    """The stack that the options name. Raises RunsError."""
    try:
        return find_stack(**where)
    except StackError as error:
        raise RunsError(str(error)) from error


@click.group()
def runs() -> None:
    """List, show, start, resume and stop runs of workflows.

    A RUN is an execution's ARN (a handle), or its name as `runs list` shows it.
    """


@runs.command("list")
@click.argument("workflow", required=False)
@click.option("--status", type=click.Choice(STATUSES))
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="For each workflow."
)
@click.option("--json", "as_json", is_flag=True, help="A JSON list, for programs.")
@stack_options
def list_runs(workflow: str | None, status: str | None, limit: int, as_json: bool, **where: Any) -> None:
    """List runs, newest first: of one WORKFLOW, or of all."""
    stack = chosen_stack(**where)
    client = stack.client("stepfunctions")
    names = [_workflow(workflow).name] if workflow else list(read_workflows())
    rows = []
    for name in names:
        query = {"stateMachineArn": machine_arn(stack, name), "maxResults": limit}
        found = client.list_executions(**query, **({"statusFilter": status} if status else {}))
        rows += [
            {
                "workflow": name,
                "run": item["name"],
                "status": item["status"],
                "started": item["startDate"].isoformat(timespec="milliseconds"),
                "handle": item["executionArn"],
            }
            for item in found["executions"][:limit]
        ]
    rows.sort(key=lambda row: row["started"], reverse=True)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        output.print("No runs.")
        return
    table = Table("workflow", Column("run", overflow="fold"), "status", "started", box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(row["workflow"], row["run"], row["status"], row["started"][:19])
    output.print(table)


@runs.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="A JSON object, for programs.")
@stack_options
def show(run: str, as_json: bool, **where: Any) -> None:
    """Show a RUN: how it stands, its input and output, and the states it went through."""
    stack = chosen_stack(**where)
    found = _find(stack, run)
    states = entered_states(stack, found.arn)
    if as_json:
        click.echo(json.dumps({**_document(found), "states": states}, indent=2, ensure_ascii=False))
        return
    _print_run(found)
    table = Table("state", "entered", "outcome", box=SIMPLE_HEAD)
    for state in states:
        table.add_row(state["state"], state["entered"], state["outcome"])
    output.print(table)


@runs.command()
@click.argument("workflow")
@click.argument("document", metavar="INPUT")
@click.option("--run", "run_name", help="The run's name: starting the same name twice starts one run.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Follow the run to its end.")
@stack_options
def start(workflow: str, document: str, run_name: str | None, wait: bool, **where: Any) -> None:
    """Start a WORKFLOW with an INPUT: JSON, @FILE, or - for standard input."""
    stack = chosen_stack(**where)
    target = _workflow(workflow)
    if run_name and not RUN_NAME.fullmatch(run_name):
        raise click.BadParameter("at most 80 letters, digits and _ . -", param_hint="--run")
    text = json.dumps(_read_document(target, document), ensure_ascii=False)
    if (size := len(text.encode())) > MAX_PAYLOAD_BYTES:
        raise RunsError(
            f"The input has {size:,} bytes; a run takes {MAX_PAYLOAD_BYTES:,}. Put the data in S3."
        )
    client = stack.client("stepfunctions")
    named = {"name": run_name} if run_name else {}
    try:
        handle = client.start_execution(stateMachineArn=machine_arn(stack, target.name), input=text, **named)[
            "executionArn"
        ]
    except client.exceptions.ExecutionAlreadyExists:
        raise RunsError(
            f"There is a run {run_name!r} of {target.name} already; see: stepflake runs show {run_name}"
        ) from None
    _finish(stack, handle, wait)


@runs.command()
@click.argument("run")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Follow the run to its end.")
@stack_options
def resume(run: str, wait: bool, **where: Any) -> None:
    """Run what is left of a RUN that failed or was stopped; finished steps are not repeated."""
    stack = chosen_stack(**where)
    found = _find(stack, run)
    try:
        resumed = resume_run(stack.client("stepfunctions"), found.arn)
    except RunError as error:
        raise RunsError(str(error)) from error
    how = "goes on" if resumed.arn == found.arn else f"goes on as {resumed.name}"
    console.print(f"{found.name} {how}", soft_wrap=True)
    _finish(stack, resumed.arn, wait)


@runs.command()
@click.argument("run")
@click.option("--cause", default="stopped with stepflake runs stop", show_default=True)
@stack_options
def stop(run: str, cause: str, **where: Any) -> None:
    """Stop a RUN; it can be resumed."""
    stack = chosen_stack(**where)
    found = _find(stack, run)
    if not found.is_running:
        raise RunsError(f"{found.name} is not running: {found.status}")
    stack.client("stepfunctions").stop_execution(executionArn=found.arn, error="Stopped", cause=cause)
    console.print(f"Stopped {found.name}; to go on: stepflake runs resume {found.name}", soft_wrap=True)


def _finish(stack: Stack, handle: str, wait: bool) -> None:
    """Prints the handle, or follows the run to its end: exit code 0 where it succeeded, 1 where not."""
    if not wait:
        click.echo(handle)
        return
    run = follow(stack, handle)
    _print_run(run)
    if run.status != "SUCCEEDED":
        console.print(f"To go on where it failed: stepflake runs resume {run.name}", soft_wrap=True)
        sys.exit(1)


def follow(stack: Stack, handle: str) -> Run:
    """Waits until a run has ended, with its newest state shown on the way."""
    client = stack.client("stepfunctions")
    with console.status("Starting ...") as status:
        while (run := find_run(client, handle)).is_running:
            status.update(f"{run.workflow}: {_newest_state(stack, run.arn)} ...")
            time.sleep(FOLLOW_SECONDS)
    return run


def _find(stack: Stack, run: str) -> Run:
    client = stack.client("stepfunctions")
    try:
        if run.startswith("arn:"):
            return find_run(client, run)
        for name in read_workflows():
            handle = machine_arn(stack, name).replace(":stateMachine:", ":execution:") + f":{run}"
            try:
                return find_run(client, handle)
            except RunError:
                continue
    except RunError as error:
        raise RunsError(str(error)) from error
    raise RunsError(f"There is no run {run!r}; see: stepflake runs list")


def machine_arn(stack: Stack, workflow: str) -> str:
    """The ARN of a workflow's machine, which the template names {stack}-{workflow}."""
    prefix, _, _ = stack.outputs["BatchStateMachineArn"].rpartition("-")
    return f"{prefix}-{workflow}"


def _workflow(name: str) -> Workflow:
    workflows = read_workflows()
    if name not in workflows:
        raise RunsError(f"There is no workflow {name!r}; there are: {', '.join(workflows)}")
    return workflows[name]


def _read_document(workflow: Workflow, text: str) -> Any:
    from core.exact_json import parse_json
    from core import inputs

    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        path = Path(text[1:])
        if not path.is_file():
            raise RunsError(f"There is no file {path}")
        text = path.read_text(encoding="utf-8")
    try:
        return inputs.validate(workflow, parse_json(text))
    except (ValueError, inputs.InputError) as error:
        raise RunsError(f"The input of {workflow.name}: {error}") from error


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
    return next((str(details["name"]) for details in entered if details), "at work")


def _settle(states: list[dict[str, str]], name: str, outcome: str) -> None:
    for state in reversed(states):
        if state["state"] == name and not state["outcome"].startswith("done"):
            failed = state["outcome"]
            state["outcome"] = f"{outcome} after {failed}" if failed else outcome
            return


def _document(run: Run) -> dict[str, Any]:
    return {
        "handle": run.arn,
        "workflow": run.workflow,
        "status": run.status,
        "run_id": run.run_id,
        "started": run.started.isoformat(),
        "stopped": run.stopped.isoformat() if run.stopped else None,
        "input": run.input,
        "output": run.output,
        "error": run.error or None,
        "cause": run.cause or None,
    }


def _print_run(run: Run) -> None:
    output.print(f"{run.workflow} {run.name}: {run.status}")
    if run.error:
        output.print(f"  {run.error}: {run.cause}", markup=False)
    if run.output is not None:
        click.echo(json.dumps(run.output, indent=2, ensure_ascii=False))
