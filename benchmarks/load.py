"""`make load`: an XL warehouse's batches against an account's quotas, all scaled down by one factor.

What matters is the ratio of load to quota, so load and quotas are divided by the same number, with which this
machine can carry them. Snowflake was seen with over 900 batches of an XL warehouse in flight.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from stepflake.local import stack as stacks
from stepflake.local.checkout import project_root
from stepflake.local.engine import Engine, Settings
from stepflake.local.limits import LIMITS, Value
from stepflake.progress import step
from stepflake.snowflake.client import (
    Batch,
    ExternalFunction,
    ExternalFunctionError,
    SnowflakeClient,
    new_query_id,
)
from stepflake.stack import Stack

STACK = "load"
IN_FLIGHT = 900
# A batch waits, as one that calls another service does: what is measured is the quotas, not this machine.
ROWS, WAIT_SECONDS = 20, 2.0
# Snowflake does not publish how often it repeats a request. Here, until the batch's 600 s are over.
PATIENCE = 1000
# A Lambda can wait for another one: with fewer than two, nothing would be measured.
LEAST_CONCURRENCY = 2

# Quotas that differ from LIMITS: what a new account has until it asks for more.
# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
ACCOUNTS: dict[str, Mapping[str, Value]] = {
    "a default account": {},
    "a new account": {"lambda.ConcurrentExecutions": Value(10, None)},
}
# Shares of an XL warehouse, to see which quota binds first.
SHARES = (1 / 8, 1 / 4, 1 / 2, 1, 2)

output = Console(soft_wrap=True)


@dataclass
class Load:
    """What one load did. `failed`: messages of batches without rows. `refused`: of each limit, how often."""

    in_flight: int
    batches: int
    seconds: float = 0
    best: float = 0
    concurrency: float = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    wrong: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    executions: int = 0
    repeated: int = 0
    retried: Counter[str] = field(default_factory=Counter)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--factor", type=click.IntRange(1), default=10, show_default=True, help="Divides load and quotas."
)
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Batches for each in flight."
)
@click.option("--ramp/--no-ramp", default=True, help="Also find which quota binds first.")
def main(factor: int, rounds: int, ramp: bool) -> None:
    """An XL warehouse's batches against the quotas of a new and of a default account, scaled by one factor.

    Exit code 1 where a batch was lost, wrong or run twice.
    """
    root = project_root()
    stacks.down(root, STACK)
    try:
        local = stacks.up(root, STACK, step=step)
        with step("Warming up"), unlimited(local.engine):
            # A process for each Lambda in flight: starting them is this machine's time, and not AWS's.
            run(local.stack, IN_FLIGHT // factor, 2 * IN_FLIGHT // factor)
        loads, free = {}, {}
        for title, quotas in ACCOUNTS.items():
            local.engine.configure(Settings(True, scaled(quotas, factor)))
            # What is slow here is slow on AWS: one round is enough to see it.
            count = IN_FLIGHT // factor * (rounds if title == "a default account" else 1)
            with step(f"{count} batches, {IN_FLIGHT // factor} in flight, against {title}"):
                loads[title] = measure(local.stack, local.engine, IN_FLIGHT // factor, count)
            with step(f"{count} batches, {IN_FLIGHT // factor} in flight, without limits"):
                free[title] = without_limits(local.stack, local.engine, IN_FLIGHT // factor, count)
        table_of(loads, free, factor)
        if ramp:
            local.engine.configure(Settings(True, scaled({}, factor)))
            table_of_shares(ramped(local.stack, local.engine, factor))
    finally:
        stacks.down(root, STACK)
    if any(load.failed or load.wrong or load.repeated for load in loads.values()):
        raise SystemExit(1)


def scaled(quotas: Mapping[str, Value], factor: int) -> dict[str, Value]:
    """Every rate and the concurrency, divided; sizes and times stay."""
    values = {}
    for name, limit in LIMITS.items():
        value = quotas.get(name, Value(limit.size, limit.refill))
        if limit.kind == "rate":
            values[name] = Value(value.size / factor, (value.refill or 0) / factor)
        elif limit.kind == "concurrency":
            values[name] = Value(max(LEAST_CONCURRENCY, value.size // factor), None)
    return values


def run(stack: Stack, in_flight: int, count: int) -> tuple[list[Batch], list[str], int]:
    """Sends batches as Snowflake does: those that ended, the failures' messages, the number of wrong rows."""
    function = ExternalFunction("sleep", f"{stack.api_url}/functions/sleep", (("A", "FLOAT"),), "VARIANT")
    rows = [[WAIT_SECONDS + number / 1000] for number in range(ROWS)]
    ended: list[Batch] = []
    failed: list[str] = []

    def watch(batch: Batch) -> None:
        if batch.state != "sent":
            ended.append(batch)

    def send(number: int) -> int:
        query = new_query_id()
        try:
            values = client.send(function, rows, query_id=query, batch_id=f"{query}:{number}")
        except ExternalFunctionError as error:
            failed.append(str(error))
            return 0
        return sum(float(value) != row[0] for value, row in zip(values, rows, strict=True))

    with (
        SnowflakeClient(
            stack.credentials, stack.region, in_flight=in_flight, retries=PATIENCE, watch=watch
        ) as client,
        ThreadPoolExecutor(in_flight) as pool,
    ):
        wrong = sum(pool.map(send, range(count)))
    return ended, failed, wrong


def measure(stack: Stack, engine: Engine, in_flight: int, count: int) -> Load:
    """One load, with what was refused and what the executions' histories say."""
    with unlimited(engine):
        earlier = set(executions(stack))
    before = refused(engine)
    started = time.monotonic()
    ended, failed, wrong = run(stack, in_flight, count)
    load = Load(in_flight, count, time.monotonic() - started, failed=failed, wrong=wrong)
    load.refused = refused(engine) - before
    limits = {item["name"]: item for item in engine.settings()["limits"]}
    load.concurrency = limits["lambda.ConcurrentExecutions"]["size"]
    load.best = best_possible(limits, in_flight, count)
    for batch in ended:
        load.statuses.update(batch.statuses)
    with unlimited(engine):
        for arn in set(executions(stack)) - earlier:
            load.executions += 1
            ran, errors = attempts(stack, arn)
            load.repeated += ran > 1
            load.retried.update(errors)
    load.repeated += max(0, load.executions - count)
    return load


def without_limits(stack: Stack, engine: Engine, in_flight: int, count: int) -> float:
    """Seconds that the same load takes where nothing is refused: this machine's own part."""
    started = time.monotonic()
    with unlimited(engine):
        run(stack, in_flight, count)
    return time.monotonic() - started


def best_possible(limits: Mapping[str, Any], in_flight: int, count: int) -> float:
    """Seconds that the quotas and the work allow at best: the slowest of what all batches pass through."""
    concurrency = min(limits["lambda.ConcurrentExecutions"]["size"], in_flight)
    seconds: list[float] = [WAIT_SECONDS * -(-count // concurrency)]
    for name in ("execute-api.Stage", "states.StartExecution"):
        seconds.append(max(0.0, count - limits[name]["size"]) / limits[name]["refill"])
    return max(seconds)


def refused(engine: Engine) -> Counter[str]:
    """How many requests each limit has refused since the stack came up."""
    return Counter({item["name"]: item["refused"] for item in engine.settings()["limits"]})


def executions(stack: Stack) -> Iterator[str]:
    """The ARNs of all executions of `batch`."""
    pages = stack.client("stepfunctions").get_paginator("list_executions")
    for page in pages.paginate(stateMachineArn=stack.outputs["BatchStateMachineArn"]):
        yield from (item["executionArn"] for item in page["executions"])


def attempts(stack: Stack, arn: str) -> tuple[int, Counter[str]]:
    """How often the batch's rows ran, and the errors of the attempts that failed."""
    history = stack.client("stepfunctions").get_execution_history(executionArn=arn, maxResults=1000)
    errors = Counter(
        event["taskFailedEventDetails"]["error"]
        for event in history["events"]
        if event["type"] == "TaskFailed"
    )
    succeeded = sum(event["type"] == "TaskSucceeded" for event in history["events"])
    never_ran = errors["Lambda.TooManyRequestsException"]
    return succeeded + errors.total() - never_ran, errors


@contextmanager
def unlimited(engine: Engine) -> Iterator[None]:
    """What the measurement reads does not count against the quotas that are measured."""
    engine.configure(Settings(has_limits=False))
    try:
        yield
    finally:
        engine.configure(Settings(has_limits=True))


def ramped(stack: Stack, engine: Engine, factor: int) -> Iterator[Load]:
    """More and more in flight, against the default account's quotas."""
    for share in SHARES:
        in_flight = max(1, round(IN_FLIGHT * share / factor))
        with step(f"{in_flight} in flight"):
            yield measure(stack, engine, in_flight, in_flight * 2)


def table_of(loads: Mapping[str, Load], free: Mapping[str, float], factor: int) -> None:
    """Prints a column for each account. `free`: seconds of the same load without limits."""
    table = Table(f"{IN_FLIGHT} batches in flight, load and quotas divided by {factor}", *loads)

    def row(title: str, figures: Sequence[Any]) -> None:
        table.add_row(title, *(str(figure) for figure in figures))

    every = loads.values()
    row("in flight / batches", [f"{load.in_flight} / {load.batches}" for load in every])
    row("batches that failed", [len(load.failed) for load in every])
    row("rows that are wrong", [load.wrong for load in every])
    row("executions", [load.executions for load in every])
    row("batches that ran more than once", [load.repeated for load in every])
    row("Lambdas at once, at most", [f"{load.concurrency:.0f}" for load in every])
    row("seconds", [f"{load.seconds:.1f}" for load in every])
    row("seconds without limits", [f"{seconds:.1f}" for seconds in free.values()])
    row("seconds that the quotas allow at best", [f"{load.best:.1f}" for load in every])
    bounds = [max(load.best, free[title]) for title, load in loads.items()]
    row(
        "over the larger of the two",
        [f"{load.seconds / b:.2f}" for load, b in zip(every, bounds, strict=True)],
    )
    for status in sorted({status for load in every for status in load.statuses}):
        row(f"answers {status or 'lost'}", [load.statuses[status] for load in every])
    for name in sorted({name for load in every for name in load.refused}):
        row(f"refused: {name}", [load.refused[name] for load in every])
    for error in sorted({error for load in every for error in load.retried}):
        row(f"tried again after {error}", [load.retried[error] for load in every])
    output.print(table)
    for title, load in loads.items():
        for message in sorted(set(load.failed))[:3]:
            output.print(f"{title}: {message}")


def table_of_shares(loads: Iterator[Load]) -> None:
    """Prints which quotas refused, as load grows."""
    table = Table("in flight", "batches", "failed", "seconds", "best", "refused, most first")
    for load in loads:
        names = ", ".join(f"{name} {count}" for name, count in load.refused.most_common() if count)
        table.add_row(
            str(load.in_flight),
            str(load.batches),
            str(len(load.failed)),
            f"{load.seconds:.1f}",
            f"{load.best:.1f}",
            names or "nothing",
        )
    output.print(table)


if __name__ == "__main__":
    main()
