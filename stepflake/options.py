"""Options that several commands have."""

import functools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import click

from stepflake.local.checkout import DEFAULT_NAME
from stepflake.local.engine import Settings
from stepflake.local.faults import Faults
from stepflake.local.limits import parse_limits
from stepflake.local.stack import find_local
from stepflake.progress import console
from stepflake.stack import Stack

name_option = click.option("--name", default=DEFAULT_NAME, show_default=True, help="Which local stack.")


def stack_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that name a stack; `find_stack` takes them."""
    for option in (
        click.option("--profile", help="The AWS profile to reach --stack-name with."),
        click.option("--region", help="The AWS region of --stack-name."),
        click.option("--stack-name", help="A stack on AWS, instead of a local one."),
        name_option,
    ):
        command = option(command)
    return command


def find_stack(name: str, stack_name: str | None, region: str | None, profile: str | None) -> Stack:
    """The stack that the options of `stack_options` name. Raises StackError."""
    return Stack.describe(stack_name, region, profile) if stack_name else find_local(name)


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options for the local engine's limits and faults; the command gets them as `settings`."""

    @functools.wraps(command)
    def with_settings(
        *args: Any, has_limits: bool | None, limits: tuple[str, ...], faults: tuple[str, ...], **kwargs: Any
    ) -> None:
        command(*args, settings=_settings(has_limits, limits, faults), **kwargs)

    for option in (
        click.option(
            "--fault",
            "faults",
            multiple=True,
            metavar="KIND=SHARE",
            help="Let calls go wrong: throttle, fail (the service's own error), lost (done, but without an"
            " answer), delay, kill (a worker dies). service=NAME: only calls to this service.",
        ),
        click.option(
            "--limit",
            "limits",
            multiple=True,
            metavar="NAME=VALUE",
            help="Change one of AWS's limits; stepflake limits lists them.",
        ),
        click.option(
            "--limits/--no-limits",
            "has_limits",
            default=None,
            help="With AWS's limits, or without.  [default: with]",
        ),
    ):
        with_settings = option(with_settings)
    return with_settings


def _settings(has_limits: bool | None, limits: Sequence[str], faults: Sequence[str]) -> Settings:
    """What the options of `engine_options` say; faults without a seed get one. Raises UserError."""
    if has_limits is False and limits:
        raise click.UsageError("--no-limits and --limit exclude each other.")
    parsed = Faults.parse(faults) if faults else None
    if parsed and parsed.any and not any(fault.startswith("seed=") for fault in faults):
        parsed = replace(parsed, seed=secrets.randbelow(10**6))
        console.print(f"Faults are on; --fault seed={parsed.seed} repeats them.", highlight=False)
    return Settings(True if limits else has_limits, parse_limits(limits), parsed)
