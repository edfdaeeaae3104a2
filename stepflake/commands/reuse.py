"""`stepflake reuse`: the results that are kept to be reused."""

import json
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from stepflake.options import find_stack, stack_options
from stepflake.progress import console, output
from stepflake.reuse import bound_bytes, check_name, list_kept
from stepflake.reuse import clear as clear_kept

NONE_DECLARED = (
    'No function or service of this stack reuses results. To declare it: @remote_function(reuse="7 days"), '
    "or @service(...); see docs/adding-a-function.md."
)


@click.group()
def reuse() -> None:
    """Show and delete the results that are kept to be reused."""


@reuse.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list, for programs.")
@stack_options
def stats(as_json: bool, **where: Any) -> None:
    """Show how many results are kept for each function and service, and how often they were used.

    The numbers are those of the days within the reuse period, approximately: results of code that was
    replaced count until they expire. `version` is that of the code that ran last; a new one finds no results
    of the one before.
    """
    stack = find_stack(**where)
    kept = list_kept(stack)
    if as_json:
        click.echo(json.dumps([each.as_json() for each in kept], indent=2))
        return
    if not kept:
        output.print(NONE_DECLARED, markup=False)
        return
    bound = bound_bytes(stack)
    table = Table(
        "results of",
        Column("reused for", justify="right"),
        Column("kept", justify="right"),
        Column("MB", justify="right"),
        Column("hits", justify="right"),
        Column("misses", justify="right"),
        Column("share of hits", justify="right"),
        "version",
        box=SIMPLE_HEAD,
    )
    for each in kept:
        size = f"{each.size / 1024 / 1024:,.1f}"
        share = each.hit_share
        table.add_row(
            str(each.caller),
            each.caller.options.reuse,
            f"{each.entries:,}",
            f"[yellow]{size} (full)[/]" if each.size >= bound else size,
            f"{each.hits:,}",
            f"{each.misses:,}",
            "-" if share is None else f"{share:.1%}",
            each.version or "-",
        )
    output.print(table)


@reuse.command()
@click.argument("function", required=False)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@stack_options
def clear(function: str | None, yes: bool, **where: Any) -> None:
    """Delete the results that are kept for a FUNCTION and for the service of that name, or for all.

    What a Lambda keeps while this runs may stay. Where it ends with an error, run it again: what is deleted
    stays deleted. The numbers of hits and misses stay as they are.
    """
    stack = find_stack(**where)
    if function is not None:
        check_name(stack, function)
    whose = f" for {function}" if function else ""
    place = f"the local stack {where['name']!r}" if stack.aws_endpoint_url else f"stack {stack.stack_name!r}"
    if not yes:
        click.confirm(f"Delete all results that are kept{whose} on {place}?", abort=True, err=True)
    with console.status("Deleting ...") as status:
        deleted = clear_kept(stack, function, lambda count: status.update(f"Deleting ... {count:,} so far"))
    if not deleted:
        output.print(f"No results were kept{whose}.", markup=False)
        return
    each = ", ".join(f"{count:,} of {owner}" for owner, count in deleted.items())
    output.print(f"Deleted {sum(deleted.values()):,} results: {each}.", markup=False)
