"""The `stepflake` command: the local stack, and what is done with a stack."""

import importlib
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from stepflake.progress import console, step

if TYPE_CHECKING:
    from stepflake.local.engine import Engine
    from stepflake.local.stack import Stack

# Commands that live in modules of their own, imported when they are asked for: `stepflake --help` is quick.
COMMANDS = {
    "sql": (
        "stepflake.commands.sql:sql",
        "Run Snowflake SQL on this machine; external functions are really called.",
    ),
    "ddl": ("stepflake.commands.ddl:ddl", "Print the SQL that declares a stack's functions in Snowflake."),
    "demo": ("stepflake.commands.demo:demo", "Bring the stack up, call it from SQL, and show what happened."),
    "runs": ("stepflake.commands.runs:runs", "List, show, start, resume and stop runs of workflows."),
    "lint": (
        "stepflake.commands.lint:lint",
        "Check the state machines' definitions, the template and the declarations.",
    ),
}


class Commands(click.Group):
    """A group that imports the modules of COMMANDS when one of their commands runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, command.get_short_help_str(limit=100)) for name, command in self.commands.items()]
        rows += [(name, summary) for name, (_, summary) in COMMANDS.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stepflake")
def main() -> None:
    """Snowflake external functions answered by AWS Step Functions.

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """


name_option = click.option("--name", default="local", show_default=True, help="Which local stack.")


@main.command()
@name_option
@click.option("--detach", "-d", is_flag=True, help="Return once the stack is deployed; it runs on.")
@click.option("--port", type=click.IntRange(1, 65535), help="Of the engine.  [default: a free one]")
@click.option(
    "--parameter", "parameters", multiple=True, metavar="KEY=VALUE", help="Set a parameter of the template."
)
def up(name: str, detach: bool, port: int | None, parameters: tuple[str, ...]) -> None:
    """Deploy the current code into a local stack, and start that first unless it runs.

    Without --detach this stays until Ctrl-C and stops the stack then; where the stack ran already, it
    deploys and returns.
    """
    from stepflake.local import stack as stacks

    for parameter in parameters:
        if "=" not in parameter:
            raise click.UsageError(f"--parameter {parameter}: expected KEY=VALUE.")
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    with user_errors():
        local = stacks.up(
            stacks.project_root(),
            name,
            step=step,
            port=port,
            parameters=dict(parameter.split("=", 1) for parameter in parameters),
        )
        if not local.started:
            console.print(f"The stack {name!r} was up already.", highlight=False)
        _show(name, local.stack)
        if not detach and local.started:
            _attend(local.engine)


@main.command()
@name_option
@click.option("--all", "every", is_flag=True, help="All local stacks of this checkout.")
def down(name: str, every: bool) -> None:
    """Stop a local stack; all that was in it is gone."""
    from stepflake.local import stack as stacks

    root = stacks.project_root()
    with user_errors():
        for each in stacks.local_names(root) if every else [name]:
            stopped = stacks.down(root, each)
            console.print(f"{each}: {'stopped' if stopped else 'not running'}", highlight=False)


@main.command()
@name_option
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
def status(name: str, as_json: bool) -> None:
    """Say where a local stack is, and how other tools reach it. Exit code 1 where it doesn't run."""
    from stepflake.local import stack as stacks

    with user_errors():
        stack = stacks.Stack.local(name)
    if as_json:
        click.echo(json.dumps(_as_json(name, stack), indent=2))
    else:
        _show(name, stack)
        click.echo("\n# For the AWS CLI, boto3 and other tools:")
        for variable, value in _variables(stack).items():
            click.echo(f"export {variable}={shlex.quote(value)}")


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns the errors that a user can do something about into a message and exit code 1."""
    from stepflake.local.engine import EngineError
    from stepflake.local.stack import StackError

    try:
        yield
    except (EngineError, StackError) as error:
        raise click.ClickException(str(error)) from error


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _attend(engine: "Engine") -> None:
    """Stays while the engine lives, and ends it on the way out. Raises EngineError where it died."""
    from stepflake.local.engine import EngineError

    shown = ""
    try:
        with console.status("") as line:
            while engine.is_alive():
                health = "healthy" if engine.is_healthy() else "not answering"
                text = f"The engine is {health}: {engine.url}; Ctrl-C stops it."
                line.update(text)
                if text != shown and not console.is_terminal:
                    console.print(text, highlight=False)
                shown = text
                time.sleep(0.5)
        if (engine.state / "engine.json").exists():
            raise EngineError(f"The engine ended.\n{engine.log_tail()}")
        console.print("Stopped by `stepflake down`.", highlight=False)
    except KeyboardInterrupt:
        console.print("Stopped.", highlight=False)
    finally:
        engine.stop()


def _as_json(name: str, stack: "Stack") -> dict[str, object]:
    return {
        "name": name,
        "api_url": stack.api_url,
        "aws_endpoint_url": stack.aws_endpoint_url,
        "region": stack.region,
        "stack_name": stack.stack_name,
        "outputs": dict(stack.outputs),
        "parameters": dict(stack.parameters),
    }


def _show(name: str, stack: "Stack") -> None:
    out = sys.stdout
    click.echo(f"Stack {name} is up: {stack.api_url}/functions/<name>", file=out)
    for key, value in sorted(stack.outputs.items()):
        click.echo(f"  {key:24} {value}", file=out)


def _variables(stack: "Stack") -> dict[str, str]:
    credentials = stack.credentials
    return {
        "AWS_ENDPOINT_URL": stack.aws_endpoint_url or "",
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
        "AWS_REGION": stack.region,
        "AWS_DEFAULT_REGION": stack.region,
    }
