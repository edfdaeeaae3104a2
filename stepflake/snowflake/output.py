"""What `stepflake sql` and the demo print: the rows of a statement, and the batches in progress."""

import csv
import datetime
import io
import sys
import threading
from collections.abc import Callable
from typing import Any

import click
import simplejson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from stepflake.progress import console
from stepflake.snowflake.client import Batch, is_retryable
from stepflake.snowflake.session import StatementResult

# Wide enough for what is written into a file or a pipe.
UNWRAPPED = 10_000


class Progress:
    """The batches in progress, on stderr: one line that changes on a terminal, else a line for each retry."""

    def __init__(self, target: Console) -> None:
        self._console = target
        self._lock = threading.Lock()
        self._batches: dict[str, Batch] = {}
        self._status: Status | None = None

    def __enter__(self) -> None:
        self._batches.clear()
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()
            self._status = None

    def watch(self, batch: Batch) -> None:
        """For SnowflakeClient: called from several threads."""
        with self._lock:
            self._batches[batch.id] = batch
            if self._status:
                self._status.update(self._line())
            elif batch.state == "sent" and batch.statuses and is_retryable(batch.statuses[-1]):
                last = batch.statuses[-1] or "no answer"
                self._console.print(f"{batch.function}: {last}, retrying", highlight=False, markup=False)

    def _line(self) -> str:
        batches = self._batches.values()
        done = sum(batch.state == "done" for batch in batches)
        rows = sum(batch.rows for batch in batches)
        again = sum(is_retryable(status) for batch in batches for status in batch.statuses)
        names = ", ".join(sorted({batch.function for batch in batches}))
        line = f"{names}: {done} of {len(batches)} batches answered, {rows:,} rows sent"
        return f"{line}, {again} requests retried" if again else line


def show(result: StatementResult, style: str = "table") -> None:
    """Prints one statement's rows to stdout; what a statement without rows did goes to stderr."""
    if not result.columns:
        console.print(result.message, highlight=False, markup=False)
        return
    if style == "table":
        _show_table(result)
    else:
        click.echo(as_json(result) if style == "json" else as_csv(result), nl=False)


def as_json(result: StatementResult) -> str:
    """The rows as a list of objects, one a line; numbers have all their digits."""
    names = [
        column if column not in result.columns[:number] else f"{column}_{number + 1}"
        for number, column in enumerate(result.columns)
    ]
    lines = [
        simplejson.dumps(
            dict(zip(names, row, strict=True)),
            use_decimal=True,
            ensure_ascii=False,
            encoding=None,  # BINARY isn't text
            default=_plain_text,
        )
        for row in result.rows
    ]
    return "[" + ",".join(f"\n  {line}" for line in lines) + "\n]\n"


def as_csv(result: StatementResult) -> str:
    """A header and the rows; NULL is an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(result.columns)
    writer.writerows([None if value is None else text_of(value) for value in row] for row in result.rows)
    return out.getvalue()


def text_of(value: Any) -> str:
    """A value as Snowflake's client prints it."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, dict | list):
        return str(simplejson.dumps(value, use_decimal=True, ensure_ascii=False, default=_plain_text))
    return value if isinstance(value, str) else _plain_text(value)


def _plain_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex().upper()
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    return str(value)


def _show_table(result: StatementResult) -> None:
    is_terminal = sys.stdout.isatty()
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    numeric: Callable[[int], bool] = lambda number: all(  # noqa: E731
        isinstance(row[number], int | float) or row[number] is None or type(row[number]).__name__ == "Decimal"
        for row in result.rows
    )
    for number, column in enumerate(result.columns):
        table.add_column(Text(column), justify="right" if numeric(number) else "left", overflow="fold")
    for row in result.rows:
        table.add_row(*(Text(text_of(value), style="dim" if value is None else "") for value in row))
    out = Console(width=None if is_terminal else UNWRAPPED)
    out.print(table)
    out.print(
        f"{len(result.rows):,} {'row' if len(result.rows) == 1 else 'rows'}", style="dim", highlight=False
    )
