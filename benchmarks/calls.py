"""`make calls`: queries that call Amazon Comprehend within its quota, and results that are reused.

Each figure is a count of calls or a ratio: of calls to the fewest possible, of calls to the quota, of two
times. The stack is one of its own, on this machine and with AWS's limits; the functions of
benchmarks/functions are deployed beside the stack's own.
"""

import random
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.table import Table

from core import vader
from stepflake.local import stack as stacks
from stepflake.local.checkout import project_root
from stepflake.local.engine import Engine, Settings
from stepflake.local.faults import Faults
from stepflake.local.limits import Value
from stepflake.local.stack import LocalStack
from stepflake.progress import console, output, step
from stepflake.snowflake.client import (
    BATCH_ROWS,
    THROTTLED,
    Batch,
    ExternalFunction,
    ExternalFunctionError,
    SnowflakeClient,
)
from stepflake.stack import Stack

STACK = "calls"
FUNCTIONS = Path(__file__).parent / "functions"

# Calls a second: Comprehend's quota, which is what the stack's limit declares, and a smaller one.
# https://docs.aws.amazon.com/comprehend/latest/dg/guidelines-and-limits.html
QUOTA, SMALL_QUOTA = 10, 2
QUOTA_NAME = "comprehend.BatchDetectSentiment"
TEXTS_IN_CALL = 25
# The key of the limit that `sentiment` names (core.calls.rates).
BUCKET = {"pk": {"S": "rate#comprehend"}, "sk": {"S": "bucket"}}

IN_FLIGHT = 8
# Texts of a query that are all different; the share of calls that fail.
TEXTS, FAILING = 20_000, 0.3
# More than the smaller quota answers in the 600 s that a batch has.
MANY_TEXTS = 40_000
# Rows of a query that repeats its texts, and the different ones.
ROWS, REPEATED_TEXTS = 40_000, 2_000
# Functions that take 10 ms for a row, without and with reuse; their rows, and how often each is measured.
SLOW_FUNCTIONS = ("ten_ms", "ten_ms_reused")
SLOW_ROWS, REPEATS = 4096, 3

# Snowflake does not publish how often it repeats a request. Here, until the batch's 600 s are over.
PATIENCE = 1000

SAMPLE_SECONDS = 0.2
# The store is measured by a client that asks again at once: pauses between polls would hide a difference.
SHORT_PAUSE_SECONDS = 0.05

# With one of these, a row that got another row's answer is seen.
OPINIONS = (
    "I am happy with it", "it broke on the first day", "it came on a Monday", "good, but much too loud",
    "I hate it", "not bad at all", "the best of all that I had",
)  # fmt: skip


class Counts(NamedTuple):
    """Calls of Comprehend: answered, refused by its quota, ended by a fault."""

    answered: int
    refused: int
    failed: int

    def since(self, earlier: "Counts") -> "Counts":
        return Counts(*(now - before for now, before in zip(self, earlier, strict=True)))


class Sample(NamedTuple):
    """A look at the calls while a query runs. `at`: time.monotonic(). `rate`: calls a second, as found."""

    at: float
    counts: Counts
    rate: float


@dataclass
class Query:
    """What one query did. All times are in seconds.

    `fewest`: the calls that suffice, `quota`: those that Comprehend allows in a second. `error`: the message
    of a query that failed. `first_call`, `last_call`: when they were seen, from the start, None without
    calls. `late`: calls after the query had ended. `found`, `lowest`: the rate of the limit at the end, and
    the lowest while it ran, in calls a second.
    """

    title: str
    fewest: int
    quota: float
    texts: int
    seconds: float = 0
    error: str = ""
    batches: list[Batch] = field(default_factory=list)
    wrong: int = 0
    calls: Counts = field(default_factory=lambda: Counts(0, 0, 0))
    first_call: float | None = None
    last_call: float | None = None
    late: int = 0
    found: float = 0
    lowest: float = 0

    @property
    def refused_posts(self) -> int:
        """POSTs that were answered 429."""
        posts = (takewhile(lambda status: status not in (200, 202), batch.statuses) for batch in self.batches)
        return sum(status == THROTTLED for statuses in posts for status in statuses)

    def share(self, calls: int, seconds: float) -> str:
        """Of the quota, what so many calls use in a time."""
        return f"{calls / (self.quota * seconds):.1%}" if seconds > 0 else "-"


@dataclass(frozen=True)
class Bench:
    """The stack that is measured. `divisor`: of the rows of every query. `retries`: of the client."""

    local: LocalStack
    divisor: int
    retries: int

    @property
    def stack(self) -> Stack:
        return self.local.stack

    @property
    def engine(self) -> Engine:
        return self.local.engine

    def count(self, rows: int) -> int:
        return rows // self.divisor

    def texts(self, count: int) -> list[str]:
        """So many different texts, which no earlier query had."""
        tag = f"{random.randrange(16**6):06x}"
        return [
            f"review {tag} number {number}: {OPINIONS[number % len(OPINIONS)]}" for number in range(count)
        ]

    def client(self, watch: Callable[[Batch], None], longest_pause: float = 60.0) -> SnowflakeClient:
        def pause(stop: threading.Event, seconds: float) -> None:
            stop.wait(min(seconds, longest_pause))

        return SnowflakeClient(
            self.stack.credentials,
            self.stack.region,
            in_flight=IN_FLIGHT,
            retries=self.retries,
            watch=watch,
            pause=pause,
        )

    def function(self, name: str, kind: str, batch_rows: int | None = None) -> ExternalFunction:
        """A remote function with one argument of this type; its batches have as many rows as Snowflake's."""
        return ExternalFunction(
            name,
            f"{self.stack.api_url}/functions/{name}",
            (("A", kind),),
            "VARIANT",
            max_batch_rows=batch_rows or self.count(BATCH_ROWS),
        )

    def warm_up(self) -> None:
        """Starts a process for each Lambda in flight: that is this machine's time, and not AWS's."""
        with step("Warming up"), self.client(lambda _batch: None) as client:
            list(client.call(self.function("sleep", "FLOAT", batch_rows=1), [[2]] * IN_FLIGHT))
            list(client.call(self.function("sentiment", "VARCHAR"), [["good"]]))
            for name in SLOW_FUNCTIONS:
                list(client.call(self.function(name, "NUMBER"), [[0]]))

    def counts(self) -> Counts:
        """Comprehend's calls since the stack came up."""
        limit = next(limit for limit in self.engine.settings()["limits"] if limit["name"] == QUOTA_NAME)
        return Counts(limit["allowed"], limit["refused"], limit["failed"])

    def score(self, title: str, texts: Sequence[str], quota: float = QUOTA) -> Query:
        """A query: `sentiment` of each text. Returns when nothing of it is left running."""
        fewest = -(-len(set(texts)) // TEXTS_IN_CALL)
        query = Query(title, fewest, quota, len(texts))

        def watch(batch: Batch) -> None:
            if batch.state == "sent":
                return
            query.batches.append(batch)
            made = self.counts().since(before)
            console.print(
                f"  {time.monotonic() - started:.0f} s: {batch.rows:,} rows {batch.state}; "
                f"calls: {made.answered} answered, {made.refused} refused, {made.failed} failed",
                highlight=False,
            )

        before, started = self.counts(), time.monotonic()
        values: list[Any] = []
        with step(title), self.sampled() as samples, self.client(watch) as client:
            started = time.monotonic()
            try:
                values = list(client.call(self.function("sentiment", "VARCHAR"), [[text] for text in texts]))
            except ExternalFunctionError as error:
                query.error = str(error)
            query.seconds = time.monotonic() - started
            query.calls = self.counts().since(before)
        query.wrong = sum(not is_score(value, text) for value, text in zip(values, texts, strict=False))
        every = sum(before) + sum(query.calls)
        seen = [sample for sample in samples if sum(sample.counts) > sum(before)]
        if seen:
            query.first_call = seen[0].at - started
            last = next((sample for sample in seen if sum(sample.counts) >= every), seen[-1])
            query.last_call = last.at - started
        query.found = self.rate_found()
        query.lowest = min((query.found, *(sample.rate for sample in samples)))
        self.wait_until_idle()
        query.late = sum(self.counts()) - every
        return query

    @contextmanager
    def sampled(self) -> Iterator[list[Sample]]:
        """Looks at the calls while the block runs, several times a second."""
        samples: list[Sample] = []
        stop = threading.Event()

        def look() -> None:
            while not stop.wait(SAMPLE_SECONDS):
                samples.append(Sample(time.monotonic(), self.counts(), self.rate_found()))

        thread = threading.Thread(target=look, name="samples")
        thread.start()
        try:
            yield samples
        finally:
            stop.set()
            thread.join()

    @contextmanager
    def conditions(self, quota: float = QUOTA, faults: Faults | None = None) -> Iterator[None]:
        """Comprehend's quota and faults while the block runs. The rate found before is forgotten."""
        self.forget_rate()
        limits = {QUOTA_NAME: Value(quota, quota)}
        self.engine.configure(Settings(limits=limits, faults=faults or Faults()))
        try:
            yield
        finally:
            limits = {QUOTA_NAME: Value(QUOTA, QUOTA)}
            self.engine.configure(Settings(limits=limits, faults=Faults()))

    def rate_found(self) -> float:
        """Calls a second that the limit allows now."""
        answer = self.stack.client("dynamodb").get_item(
            TableName=self.stack.outputs["Table"], Key=BUCKET, ConsistentRead=True
        )
        return 1e6 / int(answer["Item"]["interval_us"]["N"]) if "Item" in answer else float(QUOTA)

    def forget_rate(self) -> None:
        """The limit is as it was when the stack came up."""
        self.stack.client("dynamodb").delete_item(TableName=self.stack.outputs["Table"], Key=BUCKET)

    def wait_until_idle(self) -> None:
        """Returns when no batch runs: those of a query that failed go on."""
        client = self.stack.client("stepfunctions")
        machine = self.stack.outputs["BatchStateMachineArn"]
        with step("Waiting until nothing runs"):
            while client.list_executions(stateMachineArn=machine, statusFilter="RUNNING")["executions"]:
                time.sleep(1)


def is_score(value: Any, text: str) -> bool:
    """Whether this is what the local Comprehend makes of the text."""
    return {name: float(share) for name, share in value.items()} == vader.score(text)


def distinct(bench: Bench) -> None:
    """Texts that are all different."""
    with bench.conditions():
        texts = bench.texts(bench.count(TEXTS))
        report([bench.score(f"{len(texts):,} different texts", texts)])


def failing(bench: Bench) -> None:
    """Different texts, while a part of the calls fails at random."""
    with bench.conditions(faults=Faults(fail=FAILING, services=("comprehend",))):
        texts = bench.texts(bench.count(TEXTS))
        report([bench.score(f"{len(texts):,} different texts, {FAILING:.0%} of the calls fail", texts)])


def throttled(bench: Bench) -> None:
    """Different texts, while a part of the calls is throttled at random, whatever the rate."""
    with bench.conditions(faults=Faults(throttle=FAILING, services=("comprehend",))):
        texts = bench.texts(bench.count(TEXTS))
        title = f"{len(texts):,} different texts, {FAILING:.0%} of the calls are throttled"
        report([bench.score(title, texts)])


def small_quota(bench: Bench) -> None:
    """More different texts than a quota below the declared rate can answer in a batch's time."""
    with bench.conditions(quota=SMALL_QUOTA):
        of = f"{bench.count(MANY_TEXTS):,} different texts at {SMALL_QUOTA} calls/s"
        report(
            [
                bench.score(f"{of}, declared as {QUOTA}", bench.texts(bench.count(MANY_TEXTS)), SMALL_QUOTA),
                bench.score(f"{of}, rate known", bench.texts(bench.count(MANY_TEXTS)), SMALL_QUOTA),
            ]
        )


def repeated(bench: Bench) -> None:
    """Many rows with few different texts, twice."""
    with bench.conditions():
        texts = bench.texts(bench.count(REPEATED_TEXTS))
        rows = [texts[number % len(texts)] for number in range(bench.count(ROWS))]
        random.Random(1).shuffle(rows)
        of = f"{len(rows):,} rows with {len(texts):,} different texts"
        report([bench.score(of, rows), bench.score(f"{of}, again", rows)])
        output.print(f"Calls without deduplication and reuse: {-(-len(rows) // TEXTS_IN_CALL):,}")


def store(bench: Bench) -> None:
    """A function that takes 10 ms for a row: without reuse, with nothing kept, and with all rows kept."""
    ratios: dict[str, list[float]] = {"nothing kept": [], "all rows kept": []}
    without: list[float] = []
    for repeat in range(REPEATS):
        first = random.randrange(10**9)
        rows = [[first + number] for number in range(bench.count(SLOW_ROWS))]
        seconds = []
        for case in ("without reuse", *ratios):
            name = SLOW_FUNCTIONS[case != "without reuse"]
            with (
                step(f"{len(rows):,} rows of 10 ms, {case} ({repeat + 1} of {REPEATS})"),
                bench.client(lambda _batch: None, SHORT_PAUSE_SECONDS) as client,
            ):
                started = time.monotonic()
                values = list(client.call(bench.function(name, "NUMBER"), rows))
                seconds.append(time.monotonic() - started)
            if [[value] for value in values] != rows:
                raise click.ClickException(f"{name} returned other rows than those that it got.")
        without.append(seconds[0])
        for case, taken in zip(ratios, seconds[1:], strict=True):
            ratios[case].append(taken / seconds[0])
    table = Table(f"{bench.count(SLOW_ROWS):,} rows of 10 ms", "time, over that without reuse", "each time")
    table.add_row("without reuse", "1", ", ".join(f"{taken:.1f} s" for taken in without))
    for case, every in ratios.items():
        median = f"{statistics.median(every):.3f}"
        table.add_row(case, median, ", ".join(f"{ratio:.3f}" for ratio in every))
    output.print(table)


STEPS: dict[str, Callable[[Bench], None]] = {
    "distinct": distinct,
    "failing": failing,
    "throttled": throttled,
    "small-quota": small_quota,
    "repeated": repeated,
    "store": store,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only", type=click.Choice([*STEPS]), multiple=True, help="Measures only this; may be repeated."
)
@click.option(
    "--scale",
    type=click.IntRange(1, 160),
    default=1,
    show_default=True,
    help="Divides the rows of queries and batches, for a trial; a batch still has 600 s.",
)
@click.option(
    "--retries",
    type=click.IntRange(0),
    default=PATIENCE,
    show_default=True,
    help="How often the client repeats a request that is answered 429 or 5xx.",
)
def main(only: tuple[str, ...], scale: int, retries: int) -> None:
    """Calls within a quota that all queries share, and results that are reused; about an hour.

    \b
    distinct     different texts, at Comprehend's quota
    failing      the same, while 30 % of the calls fail
    throttled    the same, while 30 % of the calls are throttled
    small-quota  a quota below the declared rate: found, and known
    repeated     many rows with few different texts, twice
    store        rows of 10 ms: without reuse, with nothing kept, with all kept
    """
    project = copy_project(project_root())
    stacks.down(project, STACK)
    try:
        local = stacks.up(project, STACK, step=step, settings=Settings(has_limits=True))
        bench = Bench(local, scale, retries)
        bench.warm_up()
        for name, measure in STEPS.items():
            if name in only or not only:
                measure(bench)
    finally:
        stacks.down(project, STACK)


def copy_project(root: Path) -> Path:
    """A copy of the checkout with the functions that are only measured. It stays, for its builds."""
    project = root / ".stepflake" / ".calls"
    project.mkdir(parents=True, exist_ok=True)
    for name in ("template.yaml", "samconfig.toml"):
        shutil.copy2(root / name, project)
    for name in ("lambdas", "statemachines"):
        shutil.rmtree(project / name, ignore_errors=True)
        shutil.copytree(root / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in FUNCTIONS.glob("*.py"):
        shutil.copy2(path, project / "lambdas" / "functions")
    return project


def report(queries: Sequence[Query]) -> None:
    """Prints a column for each query, and the messages of those that failed."""
    table = Table("", *(query.title for query in queries))

    def row(title: str, figure: Callable[[Query], Any]) -> None:
        table.add_row(title, *(str(figure(query)) for query in queries))

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    def called(query: Query) -> float:
        return (query.last_call or 0) - (query.first_call or 0)

    row("queries that failed", lambda query: int(bool(query.error)))
    row("batches: answered / sent", lambda query: f"{ended(query, 'done')} / {len(query.batches)}")
    row("rows that are wrong", lambda query: query.wrong)
    row("calls that were answered", lambda query: query.calls.answered)
    row("calls that the quota refused", lambda query: query.calls.refused)
    row("calls that a fault ended", lambda query: query.calls.failed)
    row("fewest possible calls", lambda query: query.fewest)
    row("answered / fewest", lambda query: f"{query.calls.answered / query.fewest:.3f}")
    row("seconds", lambda query: seconds(query.seconds))
    row("seconds before the first call was seen", lambda query: seconds(query.first_call))
    row(
        "seconds after the last call was seen",
        lambda query: seconds(None if query.last_call is None else query.seconds - query.last_call),
    )
    row(
        "share of the quota, first to last call",
        lambda query: query.share(query.calls.answered, called(query)),
    )
    row("share of the quota, whole query", lambda query: query.share(query.calls.answered, query.seconds))
    if any(query.calls.failed for query in queries):
        row(
            "the same, with the calls that a fault ended",
            lambda query: query.share(query.calls.answered + query.calls.failed, query.seconds),
        )
    if any(query.late for query in queries):
        row("calls after the query had ended", lambda query: query.late)
    row("POSTs answered 429", lambda query: query.refused_posts)
    row(
        "rate found: lowest, at the end (calls/s)",
        lambda query: f"{query.lowest:.2f}, {query.found:.2f}",
    )
    output.print(table)
    for query in queries:
        if query.error:
            output.print(f"{query.title}: {query.error}", highlight=False, markup=False)


def ended(query: Query, state: str) -> int:
    """Batches of a query that ended so."""
    return sum(batch.state == state for batch in query.batches)


if __name__ == "__main__":
    main()
