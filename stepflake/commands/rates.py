"""`stepflake rates`."""

import json
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from stepflake.options import find_stack, stack_options
from stepflake.progress import console, output
from stepflake.rates import LimitState, list_limits, reset

NONE_DECLARED = (
    "No function or service of this stack has a limit. To declare one: "
    '@remote_function(rate_limit="10/second"), or @service(...); see docs/adding-a-function.md.'
)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list, for programs.")
@click.option(
    "--reset", "to_reset", metavar="LIMIT", help="Set the rate found of this limit back to the declared one."
)
@stack_options
def rates(as_json: bool, to_reset: str | None, **where: Any) -> None:
    """Show the limits of what functions and services call, which all queries and workflows share.

    `found` is the rate at which calls are made: a throttle of the called service lowers it, and calls without
    one raise it again, up to the declared rate. After an outage of that service, --reset does it at once.
    `queued` are calls of batches that were accepted; `refused` are batches that were not, because too many
    were queued; `wait` is how long a call waited on average. Limits are read from the functions and services
    here, and their state from the stack. Totals are those of at most 100 days.
    """
    stack = find_stack(**where)
    if to_reset is not None:
        was_lower = reset(stack, to_reset)
        now = "is back at its declared rate" if was_lower else "was at its declared rate"
        console.print(f"{to_reset} {now}.", markup=False, soft_wrap=True)
    limits = list_limits(stack)
    if as_json:
        click.echo(json.dumps([limit.as_json() for limit in limits], indent=2))
        return
    if not limits:
        output.print(NONE_DECLARED, markup=False)
        return
    table = Table(
        "limit",
        Column("declared", justify="right"),
        Column("found", justify="right"),
        Column("at once", justify="right"),
        Column("queued", justify="right"),
        Column("calls", justify="right"),
        Column("throttles", justify="right"),
        Column("refused", justify="right"),
        Column("wait", justify="right"),
        "shared by",
        box=SIMPLE_HEAD,
    )
    for limit in limits:
        table.add_row(*_cells(limit))
    output.print(table)


def _cells(state: LimitState) -> list[str]:
    limit, bucket = state.limit, state.bucket
    most = limit.max_concurrency
    queued = f"{state.queued_calls:,} in {state.queued_seconds:.0f} s" if state.queued_calls else "0"
    wait = state.mean_wait_seconds
    return [
        limit.name,
        _rate(limit.per_second),
        _found(state) if bucket else "unused",
        "-" if most is None else f"{state.slots:,} of {most:,}",
        queued,
        f"{bucket.calls if bucket else 0:,}",
        f"{bucket.throttles if bucket else 0:,}",
        f"{bucket.refused if bucket else 0:,}",
        "-" if wait is None else f"{wait:.2f} s",
        ", ".join(state.shared_by),
    ]


def _found(state: LimitState) -> str:
    found, declared = state.found, state.limit.per_second
    if found is None or declared is None or found >= declared:
        return _rate(found)
    return f"[{'red' if found < declared / 2 else 'yellow'}]{_rate(found)}[/]"


def _rate(per_second: float | None) -> str:
    return "-" if per_second is None else f"{per_second:.3g}/s"
