"""`stepflake status`."""

import json
import shlex

import click

from stepflake.local.stack import find_local
from stepflake.options import name_option
from stepflake.stack import Stack


@click.command()
@name_option
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
def status(name: str, as_json: bool) -> None:
    """Show where a local stack is, and how other tools reach it. Exit code 1 where it does not run."""
    stack = find_local(name)
    if as_json:
        click.echo(json.dumps(_as_json(name, stack), indent=2))
    else:
        show(name, stack)
        click.echo("\n# For the AWS CLI, boto3 and other tools:")
        for variable, value in _variables(stack).items():
            click.echo(f"export {variable}={shlex.quote(value)}")


def show(name: str, stack: Stack) -> None:
    """Prints where a local stack is."""
    click.echo(f"Stack {name} is up: {stack.api_url}/functions/<name>")
    for key, value in sorted(stack.outputs.items()):
        click.echo(f"  {key:24} {value}")


def _as_json(name: str, stack: Stack) -> dict[str, object]:
    return {
        "name": name,
        "api_url": stack.api_url,
        "aws_endpoint_url": stack.aws_endpoint_url,
        "region": stack.region,
        "stack_name": stack.stack_name,
        "outputs": dict(stack.outputs),
        "parameters": dict(stack.parameters),
    }


def _variables(stack: Stack) -> dict[str, str]:
    credentials = stack.credentials
    return {
        "AWS_ENDPOINT_URL": stack.aws_endpoint_url or "",
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
        "AWS_REGION": stack.region,
        "AWS_DEFAULT_REGION": stack.region,
    }
