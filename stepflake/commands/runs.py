"""`stepflake runs`: start, follow, resume and stop workflows' runs, on the local stack or on AWS."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from core.catalog import Workflow, read_workflows
from core.runs import Run, RunError
from stepflake.options import find_stack, stack_options
from stepflake.progress import console, output
from stepflake.runs import RunsError, entered_states, find, find_workflow, follow, list_runs, runs_of
from stepflake.runs import start as start_run
from stepflake.stack import Stack

# What workflows accept as a run id, which by default is the execution's name; Step Functions accepts more.
RUN_NAME = re.compile(r"[0-9A-Za-z_.-]{1,80}")

STATUSES = ["RUNNING", "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED", "PENDING_REDRIVE"]


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
def list_(workflow: str | None, status: str | None, limit: int, as_json: bool, **where: Any) -> None:
    """List runs, newest first: of one WORKFLOW, or of all."""
    names = [find_workflow(workflow).name] if workflow else list(read_workflows())
    rows = list_runs(find_stack(**where), names, status, limit)
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
@click.argument("handle_or_name", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="A JSON object, for programs.")
@stack_options
def show(handle_or_name: str, as_json: bool, **where: Any) -> None:
    """Show a RUN: its status, input and output, and the states that it entered."""
    stack = find_stack(**where)
    run = find(stack, handle_or_name)
    states = entered_states(stack, run.arn)
    if as_json:
        click.echo(json.dumps({**_as_json(run), "states": states}, indent=2, ensure_ascii=False))
        return
    _print_run(run)
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
    stack = find_stack(**where)
    target = find_workflow(workflow)
    if run_name and not RUN_NAME.fullmatch(run_name):
        raise click.BadParameter("at most 80 letters, digits and _ . -", param_hint="--run")
    handle = start_run(stack, target.name, _read_document(target, document), run_name)
    _finish(stack, handle, wait)


@runs.command()
@click.argument("handle_or_name", metavar="RUN")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Follow the run to its end.")
@stack_options
def resume(handle_or_name: str, wait: bool, **where: Any) -> None:
    """Run what is left of a RUN that failed or was stopped; finished steps are not repeated."""
    stack = find_stack(**where)
    run = find(stack, handle_or_name)
    try:
        resumed = runs_of(stack).resume(run.arn)
    except RunError as error:
        raise RunsError(str(error)) from error
    how = "is resumed" if resumed.arn == run.arn else f"is resumed as {resumed.name}"
    console.print(f"{run.name} {how}", soft_wrap=True)
    _finish(stack, resumed.arn, wait)


@runs.command()
@click.argument("handle_or_name", metavar="RUN")
@click.option("--cause", default="stopped with stepflake runs stop", show_default=True)
@stack_options
def stop(handle_or_name: str, cause: str, **where: Any) -> None:
    """Stop a RUN; it can be resumed."""
    stack = find_stack(**where)
    run = find(stack, handle_or_name)
    if not run.is_running:
        raise RunsError(f"{run.name} is not running: {run.status}")
    stack.client("stepfunctions").stop_execution(executionArn=run.arn, error="Stopped", cause=cause)
    console.print(f"Stopped {run.name}; to resume it: stepflake runs resume {run.name}", soft_wrap=True)


def _finish(stack: Stack, handle: str, wait: bool) -> None:
    """Prints the handle, or follows the run to its end: exit code 0 where it succeeded, 1 where not."""
    if not wait:
        click.echo(handle)
        return
    run = follow(stack, handle)
    _print_run(run)
    if run.status != "SUCCEEDED":
        console.print(f"To resume it where it failed: stepflake runs resume {run.name}", soft_wrap=True)
        sys.exit(1)


def _read_document(workflow: Workflow, text: str) -> Any:
    from core import inputs
    from core.exact_json import parse_json

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


def _as_json(run: Run) -> dict[str, Any]:
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
