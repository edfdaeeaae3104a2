"""`stepflake up`."""

import signal
import time
from types import FrameType
from typing import NoReturn

import click

from stepflake.commands.status import show
from stepflake.local import stack as local
from stepflake.local.checkout import project_root
from stepflake.local.engine import Engine, EngineError, Settings
from stepflake.options import engine_options, name_option
from stepflake.progress import console, step


@click.command()
@name_option
@click.option("--detach", "-d", is_flag=True, help="Return once the stack is deployed; it keeps running.")
@click.option("--port", type=click.IntRange(1, 65535), help="The engine's port.  [default: a free one]")
@click.option(
    "--parameter", "parameters", multiple=True, metavar="KEY=VALUE", help="Set a parameter of the template."
)
@engine_options
def up(name: str, detach: bool, port: int | None, parameters: tuple[str, ...], settings: Settings) -> None:
    """Start a local stack unless it runs, and deploy the current code into it.

    Without --detach, waits for Ctrl-C and then stops the stack; where the stack ran already, deploys and
    returns. Limits of a stack that runs stay as they are, except for those that are named; --fault sets all
    faults anew.
    """
    for parameter in parameters:
        if "=" not in parameter:
            raise click.UsageError(f"--parameter {parameter}: expected KEY=VALUE.")
    # SIGINT too: a shell starts its background jobs with SIGINT ignored, and Python leaves it so.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    brought_up = local.up(
        project_root(),
        name,
        step=step,
        port=port,
        parameters=dict(parameter.split("=", 1) for parameter in parameters),
        settings=settings,
    )
    if not brought_up.started:
        console.print(f"The stack {name!r} was up already.", highlight=False)
    show(name, brought_up.stack)
    if not detach and brought_up.started:
        _wait_for_end(brought_up.engine)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _wait_for_end(engine: Engine) -> None:
    """Waits while the engine runs, and stops it at Ctrl-C. Raises EngineError where it died."""
    shown = ""
    failures = 0
    try:
        with console.status("") as line:
            while engine.is_alive():
                failures = 0 if engine.is_healthy() else failures + 1
                # One failure may mean that the engine ended, which is reported below.
                health = "not answering" if failures > 1 else "healthy"
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
