"""`stepflake down`."""

import click

from stepflake.local import stack as local
from stepflake.local.checkout import local_names, project_root
from stepflake.options import name_option
from stepflake.progress import console


@click.command()
@name_option
@click.option("--all", "every", is_flag=True, help="All local stacks of this checkout.")
def down(name: str, every: bool) -> None:
    """Stop a local stack, and delete all that is in it."""
    root = project_root()
    for each in local_names(root) if every else [name]:
        stopped = local.down(root, each)
        console.print(f"{each}: {'stopped' if stopped else 'not running'}", highlight=False)
