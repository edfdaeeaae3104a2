"""The `stepflake` command."""

import importlib

import click

from core.catalog import CatalogError
from stepflake.errors import UserError

# Each is stepflake/commands/{name}.py, which is imported only when it is used: `stepflake --help` is fast.
COMMANDS = {
    "up": "Start a local stack unless it runs, and deploy the current code into it.",
    "down": "Stop a local stack, and delete all that is in it.",
    "status": "Show where a local stack is, and how other tools reach it.",
    "limits": "List AWS's limits as a local stack has them, and what they refused.",
    "sql": "Run Snowflake SQL on this machine, with calls of the external functions.",
    "ddl": "Print the SQL that declares a stack's functions in Snowflake.",
    "demo": "Bring the stack up, call it from SQL, and show what happened.",
    "runs": "List, show, start, resume and stop runs of workflows.",
    "rates": "Show the limits of what functions call, and the calls that wait for them.",
    "reuse": "Show and delete the results that are kept to be reused.",
    "lint": "Check state machine definitions, the template and declarations.",
}


class Commands(click.Group):
    """The group of COMMANDS. What a user can fix is printed without a traceback, with exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"stepflake.commands.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (UserError, CatalogError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stepflake")
def main() -> None:
    """Snowflake external functions answered by AWS Step Functions.

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """
