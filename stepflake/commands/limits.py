"""`stepflake limits`."""

import json
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from stepflake.local.faults import Faults
from stepflake.local.stack import find_local_engine
from stepflake.options import name_option
from stepflake.progress import output


@click.command()
@name_option
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
def limits(name: str, as_json: bool) -> None:
    """List AWS's limits as a local stack has them, and how many requests each allowed and refused; under
    faults also how many failed by them.

    A rate is a token bucket: SIZE requests at once, and then REFILL a second. `stepflake up --limit
    NAME=VALUE` changes one, of a stack that runs too.
    """
    settings = find_local_engine(name).settings()
    if as_json:
        click.echo(json.dumps(settings["limits"], indent=2))
        return
    if not settings["enabled"]:
        output.print("Limits are off (--no-limits): nothing is refused, and nothing counted.", style="yellow")
    # What faults did, where there were any.
    has_failed = any(limit["failed"] for limit in settings["limits"])
    table = Table(
        "limit",
        Column("value", justify="right"),
        Column("allowed", justify="right"),
        Column("refused", justify="right"),
        *([Column("failed", justify="right")] if has_failed else []),
        "can be raised",
        "AWS's name",
        box=SIMPLE_HEAD,
    )
    for limit in settings["limits"]:
        table.add_row(
            limit["name"],
            _value(limit),
            f"{limit['allowed']:,}",
            f"[red]{limit['refused']:,}[/]" if limit["refused"] else "0",
            *([f"{limit['failed']:,}"] if has_failed else []),
            "yes" if limit["adjustable"] else "no",
            limit["title"],
        )
    output.print(table)
    output.print("Sources:")
    for source in dict.fromkeys(limit["source"] for limit in settings["limits"]):
        output.print(f"  {source}")
    faults = Faults.from_json(settings["faults"])
    if faults.any:
        output.print("Faults: " + ", ".join(faults.texts()))


def _value(limit: dict[str, Any]) -> str:
    if limit["refill"] is None:
        unit = {"bytes": " bytes", "seconds": " s"}.get(limit["kind"], "")
        return f"{limit['size']:,.10g}{unit}"
    return f"{limit['size']:,.10g}, then {limit['refill']:,.10g}/s"
