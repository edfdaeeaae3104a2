"""`make bench`: the stack and the pattern people copy today, in one run on one engine, with ratios.

Absolute times say little: the engine runs Lambdas as processes of this machine. The ratios compare two
systems under the same conditions, alternately.
"""

import math
import random
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from batch import api
from benchmarks.imports import import_ratios
from benchmarks.prices import Usage
from benchmarks.sample_stack import NAME as SAMPLE_NAME
from benchmarks.sample_stack import deploy_sample
from stepflake.local import stack as stacks
from stepflake.local.checkout import project_root
from stepflake.progress import step
from stepflake.snowflake.client import (
    Batch,
    Cancelled,
    ExternalFunction,
    ExternalFunctionError,
    SnowflakeClient,
    new_query_id,
)
from stepflake.stack import Stack

STACK = "bench"
HANDLERS = ["batch.initiate", "batch.poll", "batch.process", "batch.collect"]

# What Lambda logs of each invocation.
REPORT = re.compile(r"Billed Duration: (\d+) ms\s+Memory Size: (\d+) MB")

REPEATS = 20
WAITING_ROWS, WAIT_SECONDS = 2000, 0.02
IN_FLIGHT, BATCHES, BATCH_ROWS = 16, 96, 100
PATIENCE_SECONDS = 30  # long for either system
RESULT_BYTES = [100_000, 300_000, 450_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 14_000_000, 20_000_000]

# Text that compresses about as well as ordinary text.
WORDS = "the snow lies on all roads and no wind stirs where we went by day in another year"

output = Console(soft_wrap=True)


@dataclass(frozen=True)
class System:
    """One of the two systems. `functions`: what the names of its Lambdas begin with."""

    name: str
    url: str
    stack: Stack
    functions: str

    def function(self, name: str, batch_rows: int | None = None) -> ExternalFunction:
        """A remote function that both systems have."""
        return ExternalFunction(
            name=name,
            url=f"{self.url}/functions/{name}",
            parameters=(("A", "VARIANT"),),
            returns="VARIANT",
            max_batch_rows=batch_rows,
        )

    def client(self, batches: list[Batch] | None = None, in_flight: int = 1) -> SnowflakeClient:
        """A client that behaves as Snowflake does, and adds each batch that has ended to `batches`."""

        def watch(batch: Batch) -> None:
            if batches is not None and batch.state != "sent":
                batches.append(batch)

        return SnowflakeClient(self.stack.credentials, self.stack.region, in_flight=in_flight, watch=watch)

    def send(
        self, name: str, rows: list[list[Any]], *, batch_rows: int | None = None, in_flight: int = 1
    ) -> "Sent":
        """Sends rows to a remote function, as Snowflake does."""
        batches: list[Batch] = []
        start = time.perf_counter()
        with self.client(batches, in_flight) as client:
            values = list(client.call(self.function(name, batch_rows), rows))
        return Sent(values, batches, time.perf_counter() - start)


@dataclass(frozen=True)
class Sent:
    """What came back, the batches that carried it, and the seconds from the first POST to the last row."""

    values: list[Any]
    batches: list[Batch]
    seconds: float


@dataclass(frozen=True)
class Line:
    """A line of the report: our figure and the sample's. `form`: of str.format, for both."""

    title: str
    figures: Sequence[float]
    more_is_better: bool = False
    form: str = "{:,.3f}"


def main() -> None:
    """Deploys both, measures both alternately, and prints a table of both."""
    lines: list[Line] = []
    with deployed() as (ours, sample):
        for title, measure in {
            "POST to rows": latency,
            "Batches with 16 in flight": throughput,
            "Rows that wait": waiting_rows,
            "Largest result": largest_result,
            "Requests, transitions and dollars": costs,
        }.items():
            with step(title):
                lines += measure(ours, sample)
    with step("Import time"):
        ratios = import_ratios(HANDLERS)
    report(lines, ratios)


@contextmanager
def deployed() -> Iterator[tuple[System, System]]:
    """The stack and the sample on one engine, warm; the engine is stopped afterwards."""
    root = project_root()
    stacks.down(root, STACK)
    local = stacks.up(root, STACK, step=step).stack
    try:
        with step("Deploying the pattern people copy today"):
            url = deploy_sample(local)
        ours = System("stepflake", local.api_url, local, local.stack_name + "-")
        sample = System("sample", url, local, SAMPLE_NAME + "-")
        with step("Warming both up"):
            for system in (ours, sample):
                system.send("echo", [["warm"]] * 3 * IN_FLIGHT, batch_rows=1, in_flight=IN_FLIGHT)
        yield ours, sample
    finally:
        stacks.down(root, STACK)


def latency(ours: System, sample: System) -> Iterator[Line]:
    """Seconds from the POST to the rows, one batch at a time, the two systems alternately."""
    for rows in (1, 100, 4096):
        seconds: dict[str, list[float]] = {ours.name: [], sample.name: []}
        for _ in range(REPEATS):
            for system in (ours, sample):
                seconds[system.name].append(system.send("echo", [["I am happy"]] * rows).seconds)
        for title, quantile in (("p50", 0.5), ("p95", 0.95)):
            figures = [_quantile(seconds[system.name], quantile) for system in (ours, sample)]
            yield Line(f"POST to rows, {rows:,} rows, {title} (s)", figures)


def throughput(ours: System, sample: System) -> Iterator[Line]:
    """Batches a second with 16 in flight."""
    rows = [["I am happy"]] * BATCH_ROWS * BATCHES
    figures = [
        BATCHES / system.send("echo", rows, batch_rows=BATCH_ROWS, in_flight=IN_FLIGHT).seconds
        for system in (ours, sample)
    ]
    yield Line(
        f"batches/s, {BATCH_ROWS} rows each, {IN_FLIGHT} in flight",
        figures,
        more_is_better=True,
        form="{:,.1f}",
    )


def waiting_rows(ours: System, sample: System) -> Iterator[Line]:
    """Rows a second where each row waits for another service."""
    rows = [[WAIT_SECONDS]] * WAITING_ROWS
    figures = [WAITING_ROWS / system.send("sleep", rows).seconds for system in (ours, sample)]
    title = f"rows/s, {WAITING_ROWS:,} rows that each wait {WAIT_SECONDS * 1000:.0f} ms"
    yield Line(title, figures, more_is_better=True, form="{:,.0f}")


def largest_result(ours: System, sample: System) -> Iterator[Line]:
    """The largest result that is returned completely, in MB of JSON."""
    figures = []
    for system in (ours, sample):
        largest = 0
        for size in RESULT_BYTES:
            if not is_echoed(system, _text_rows(size)):
                break
            largest = size
        figures.append(largest / 1_000_000)
    yield Line(
        "largest rows that are echoed completely (MB of JSON)",
        figures,
        more_is_better=True,
        form="{:,.2f}",
    )


def is_echoed(system: System, rows: list[list[Any]]) -> bool:
    """Whether echo returns exactly these rows within PATIENCE_SECONDS."""
    stop = threading.Event()
    timer = threading.Timer(PATIENCE_SECONDS, stop.set)
    timer.start()
    try:
        with system.client() as client:
            target, query = system.function("echo"), new_query_id()
            return client.send(target, rows, query_id=query, batch_id=f"{query}:1", stop=stop) == rows
    except (ExternalFunctionError, Cancelled):
        return False
    finally:
        timer.cancel()


def costs(ours: System, sample: System) -> Iterator[Line]:
    """What a million rows need of AWS, in batches of 4,096 and of 1 row."""
    for rows in (4096, 1):
        used = [usage(system, rows) for system in (ours, sample)]
        of = f"a million rows in batches of {rows:,}"
        yield Line(f"AWS requests, {of}", [u.per_million(u.requests) for u in used], form="{:,.0f}")
        yield Line(f"state transitions, {of}", [u.per_million(u.transitions) for u in used], form="{:,.0f}")
        yield Line(f"dollars, {of}", [u.per_million(u.dollars) for u in used], form="{:,.4f}")


def usage(system: System, rows: int) -> Usage:
    """What one batch needed of AWS, averaged over a few: counted from the engine's logs and histories."""
    before = _lambda_totals(system)
    runs = 5
    sent = [system.send("echo", [["I am happy"]] * rows).batches[0] for _ in range(runs)]
    after = _lambda_totals(system)
    calls = sum(len(batch.statuses) for batch in sent) / runs
    invocations = (after[0] - before[0]) / runs
    gb_seconds = (after[1] - before[1]) / runs
    if system.functions.startswith(SAMPLE_NAME):
        # PutItem twice, the second with the result; GetItem for each poll; the asynchronous Invoke.
        kilobytes = -(-len('[0, ["I am happy"]], ') * rows // 1024)
        polls = calls - 1
        return Usage(
            rows, calls, invocations, gb_seconds,
            dynamodb_writes=1 + kilobytes, dynamodb_reads=polls * -(-kilobytes // 4), other=2 + polls + 1,
        )  # fmt: skip
    # StartExecution; the result's PutObject; GetObject until it is there (and once for each GET).
    gets = sum(_reads(batch.seconds) for batch in sent) / runs
    return Usage(
        rows,
        calls,
        invocations,
        gb_seconds,
        transitions=_transitions(system),
        s3_puts=1,
        s3_gets=gets,
        other=1,
    )


def _reads(seconds: float) -> int:
    """How often a POST that took so long read S3 for the result."""
    reads, delay = 1, api.FIRST_DELAY_SECONDS
    while seconds > delay:
        reads, seconds = reads + 1, seconds - delay
        delay = min(delay * api.DELAY_GROWTH, api.LONGEST_DELAY_SECONDS)
    return reads


def _transitions(system: System) -> int:
    client = system.stack.client("stepfunctions")
    machine = system.stack.outputs["BatchStateMachineArn"]
    newest = client.list_executions(stateMachineArn=machine, maxResults=1)["executions"][0]["executionArn"]
    events = client.get_execution_history(executionArn=newest, maxResults=1000)["events"]
    return sum("stateEnteredEventDetails" in event for event in events)


def _lambda_totals(system: System) -> tuple[int, float]:
    """Invocations and GB-seconds of a system's Lambdas, from the REPORT lines of their logs."""
    logs = system.stack.client("logs")
    functions = system.stack.client("lambda").list_functions()["Functions"]
    # Several Lambdas may share a group: each is read once.
    groups = {
        function.get("LoggingConfig", {}).get("LogGroup") or f"/aws/lambda/{function['FunctionName']}"
        for function in functions
        if function["FunctionName"].startswith(system.functions)
    }
    count, gb_seconds = 0, 0.0
    for group in groups:
        for page in logs.get_paginator("filter_log_events").paginate(logGroupName=group):
            for event in page["events"]:
                if match := REPORT.search(event["message"]):
                    count += 1
                    gb_seconds += int(match[1]) / 1000 * int(match[2]) / 1024
    return count, gb_seconds


def _text_rows(size: int) -> list[list[Any]]:
    """Rows whose echo is `size` bytes of JSON, of words in an order that does not repeat."""
    generator = random.Random(size)
    rows, made = [], 0
    while made < size:
        text = " ".join(generator.choices(WORDS.split(), k=400))
        rows.append([text])
        made += len(text) + 12
    return rows


def _quantile(figures: list[float], quantile: float) -> float:
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, math.ceil(quantile * len(ordered)) - 1)]


def report(lines: list[Line], ratios: dict[str, float]) -> None:
    """Prints the figures of both, and their ratios."""
    table = Table("", "stepflake", "sample", "ratio", "better")
    for line in lines:
        ours, sample = line.figures
        ratio = ours / sample if sample else math.inf
        better = "more" if line.more_is_better else "less"
        table.add_row(line.title, line.form.format(ours), line.form.format(sample), f"{ratio:.2f}", better)
    output.print(table)
    imports = Table("import time over `import boto3` and one client", "ratio")
    for name, ratio in ratios.items():
        imports.add_row(name, f"{ratio:.2f}")
    output.print(imports)


if __name__ == "__main__":
    main()
