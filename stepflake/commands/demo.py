"""`stepflake demo`: SQL answered by Lambdas that state machines orchestrate, and each workflow once."""

import json
import time
from collections.abc import Callable
from typing import Any

import click
from rich.syntax import Syntax

from core.runs import Run
from stepflake.local import stack as local
from stepflake.local.checkout import DEFAULT_NAME, project_root
from stepflake.local.engine import Settings
from stepflake.options import engine_options, name_option
from stepflake.progress import output, step
from stepflake.runs import entered_states, follow, machine_arn, runs_of, start
from stepflake.snowflake.client import Batch
from stepflake.snowflake.output import show
from stepflake.snowflake.session import session_on
from stepflake.stack import Stack, StackError

SCRIPT = """\
create table test_tb(a string);
insert into test_tb values ('hello world'), ('I am happy');
select ext_func_async(a) from test_tb;"""

FAN_OUT_SCRIPT = """\
create table hosts(name string);
insert into hosts values ('Web-01.example.com'), ('db-1'), ('cache.local');
select fan_out(object_construct('names', array_agg(object_construct('name', name)))):results as results
from hosts;"""

REVIEW = "The room was wonderful and the staff were friendly, but breakfast was cold and the lift was broken."

REVIEWS_CSV = """text
What a wonderful stay
The soup was cold and the waiter was rude
Fine
"""

SALES_CSV = """order_id,day,customer,amount
1,2026-11-20, Ada ,10.50
2,2026-11-20,Grace,
3,2026-11-21,Linus,7.25
3,2026-11-21,Linus,7.25
four
"""

# How long to wait for a run that an event starts.
EVENT_SECONDS = 30
POLL_SECONDS = 0.2


@click.command()
@name_option
@engine_options
def demo(name: str, settings: Settings) -> None:
    """Bring the local stack up, call it from SQL, run each workflow once, and show what happened.

    The stack stays up.
    """
    stack = local.up(project_root(), name, step=step, settings=settings).stack
    started = time.monotonic()
    for title, show_it in {
        "A query, answered by a remote function": show_query,
        "fan_out: a list of tasks over a queue, started from SQL": show_fan_out,
        "pipeline: services one after another, and started in the middle": show_pipeline,
        "ingest: an object that lands in S3, exactly once": show_ingest,
        "etl: a dataset cleaned and loaded, stopped in between and resumed": show_etl,
    }.items():
        output.print()
        output.print(title, style="bold cyan")
        show_it(stack)
    output.print()
    output.print(f"All of this took {time.monotonic() - started:.0f} s. Next:", style="bold cyan")
    where_next(name)


def show_query(stack: Stack) -> None:
    """The script of the README, and the executions that returned its rows."""
    batches = run_sql(stack, SCRIPT)
    for batch in batches:
        run = _batch_execution(stack, batch)
        output.print(
            f"[bold]batch[/] {run['name']}: {run['status']}, {batch.rows} rows in {batch.seconds:.2f} s"
        )
        show_states(stack, run["executionArn"])


def show_fan_out(stack: Stack) -> None:
    """A row of a query starts the run, and the run's output is the row's value."""
    run_sql(stack, FAN_OUT_SCRIPT)


def show_pipeline(stack: Stack) -> None:
    """A run without its last service, and another that starts there with the first one's request id."""
    document = {"document": {"text": REVIEW}, "skip": ["keywords"]}
    first = finish(stack, start(stack, "pipeline", document))
    show_run(stack, first)
    output.print("The same request, started at keywords: the results of the services before it are stored.")
    document = {"request_id": first.run_id, "start_at": "keywords"}
    show_run(stack, finish(stack, start(stack, "pipeline", document)))


def show_ingest(stack: Stack) -> None:
    """An upload starts a run; the same content again is skipped."""
    # A name of its own, so that each demo has a first upload.
    key = f"ingest/sentiment/reviews-{time.time_ns()}.csv"
    for upload in ("first upload", "the same content again"):
        before = _runs(stack, "ingest")
        upload_csv(stack, key, REVIEWS_CSV)
        output.print(f"s3://{stack.outputs['Bucket']}/{key}: {upload}")
        run = finish(stack, _await_new_run(stack, "ingest", before))
        show_run(stack, run)


def show_etl(stack: Stack) -> None:
    """A run that is stopped while it waits, and resumed: what is done is not repeated."""
    bucket = stack.outputs["Bucket"]
    key = "datasets/sales/2026-11.csv"
    stack.client("s3").put_object(Bucket=bucket, Key=key, Body=SALES_CSV.encode(), ContentType="text/csv")
    document = {
        "dataset_id": "sales",
        "partition_by": "day",
        "key_columns": ["order_id"],
        "rate_limit_seconds": 4,
    }
    handle = start(stack, "etl", document)
    _await(lambda: any(s["state"] == "Wait for rate limit" for s in entered_states(stack, handle)))
    stack.client("stepfunctions").stop_execution(
        executionArn=handle, error="Demo", cause="stopped by the demo"
    )
    stopped = runs_of(stack).find(handle)
    output.print(f"{stopped.name}: {stopped.status} in the wait after Extract")
    output.print("Now resumed: it continues in that wait, and the time already waited counts.")
    resumed = runs_of(stack).resume(handle)
    show_run(stack, finish(stack, resumed.arn))


def where_next(name: str) -> None:
    """What to try now."""
    option = "" if name == DEFAULT_NAME else f" --name {name}"
    for command, what in {
        f"stepflake sql{option} -e \"select sentiment('what a day')\"": "a query of your own",
        f"stepflake runs list{option}": "what ran; then: stepflake runs show RUN",
        f"stepflake status{option}": "the stack's addresses, and how the AWS CLI reaches it",
        f"stepflake ddl{option}": "the SQL that declares all this in Snowflake",
        f"stepflake down{option}": "stop the stack",
    }.items():
        output.print(f"  .venv/bin/{command:<62} {what}")


def upload_csv(stack: Stack, key: str, text: str) -> None:
    """Puts a CSV object into the stack's bucket."""
    bucket = stack.outputs["Bucket"]
    stack.client("s3").put_object(Bucket=bucket, Key=key, Body=text.encode(), ContentType="text/csv")


def run_sql(stack: Stack, script: str) -> list[Batch]:
    """Runs a script as `stepflake sql` does, prints its results, and returns the batches that it sent."""
    batches: list[Batch] = []

    def watch(batch: Batch) -> None:
        if batch.state == "done":
            batches.append(batch)

    output.print(Syntax(script, "sql", background_color="default", word_wrap=True))
    with session_on(stack, watch) as session:
        for result in session.run(script):
            show(result)
    return batches


def finish(stack: Stack, handle: str) -> Run:
    """Follows a run to its end. Raises StackError where it did not succeed."""
    run = follow(stack, handle)
    if run.status != "SUCCEEDED":
        raise StackError(
            f"The run {run.name} of {run.workflow} ended as {run.status}: {run.error}: {run.cause}"
        )
    return run


def show_run(stack: Stack, run: Run) -> None:
    """The states that a run went through, and its output."""
    output.print(f"[bold]{run.workflow}[/] {run.name}: {run.status}")
    show_states(stack, run.arn)
    output.print_json(json.dumps(run.output), indent=None)


def show_states(stack: Stack, handle: str) -> None:
    """The states that an execution went through, on one line."""
    output.print("  " + " > ".join(state["state"] for state in entered_states(stack, handle)), style="dim")


def _batch_execution(stack: Stack, batch: Batch) -> dict[str, Any]:
    """The execution of a batch, found by the batch id in its input."""
    client = stack.client("stepfunctions")
    machine = stack.outputs["BatchStateMachineArn"]
    for item in client.list_executions(stateMachineArn=machine, maxResults=50)["executions"]:
        execution: dict[str, Any] = client.describe_execution(executionArn=item["executionArn"])
        if json.loads(execution["input"])["batch_id"] == batch.id:
            return execution
    raise StackError(f"There is no execution of batch {batch.id}.")


def _runs(stack: Stack, workflow: str) -> set[str]:
    client = stack.client("stepfunctions")
    pages = client.get_paginator("list_executions").paginate(stateMachineArn=machine_arn(stack, workflow))
    return {item["executionArn"] for page in pages for item in page["executions"]}


def _await_new_run(stack: Stack, workflow: str, before: set[str]) -> str:
    _await(lambda: bool(_runs(stack, workflow) - before))
    return (_runs(stack, workflow) - before).pop()


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + EVENT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise StackError(f"Nothing happened within {EVENT_SECONDS} s; see: stepflake runs list")
        time.sleep(POLL_SECONDS)
