"""Options that several commands have."""

from collections.abc import Callable

import click

from stepflake.local.checkout import DEFAULT_NAME
from stepflake.local.stack import find_local
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
