"""`stepflake sql`: a Snowflake script on this machine, with calls of its external functions."""

import sys
import urllib.parse
from pathlib import Path

import click
from botocore.credentials import Credentials

from stepflake.options import find_stack, stack_options
from stepflake.progress import console
from stepflake.snowflake.client import ExternalFunction, SnowflakeClient, region_of
from stepflake.snowflake.ddl import api_functions, stack_functions
from stepflake.snowflake.output import Progress, show
from stepflake.snowflake.session import Session, declares_functions
from stepflake.stack import ACCESS_KEY, SECRET_KEY

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command()
@click.argument("file", required=False, type=click.Path(allow_dash=True, dir_okay=False))
@click.option("-e", "--execute", "statements", help="The SQL itself, instead of a file.")
@click.option(
    "--url", help="Another API's URL, up to the stage, for the functions that are declared by default."
)
@click.option(
    "--format", "style", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True
)
@stack_options
def sql(
    *,
    file: str | None,
    statements: str | None,
    url: str | None,
    style: str,
    name: str,
    stack_name: str | None,
    region: str | None,
    profile: str | None,
) -> None:
    """Run the Snowflake SQL in FILE (- is stdin) on this machine, with calls of its external functions.

    The stack's functions are declared by default, as `stepflake ddl` prints them, unless the script has a
    CREATE EXTERNAL FUNCTION of its own. Tables last as long as the script.
    """
    if (file is None) == (statements is None):
        raise click.UsageError('Give a FILE (- for stdin) or -e "SQL".')
    script = statements if statements is not None else _read(str(file))
    progress = Progress(console)
    declares_own = declares_functions(script)
    credentials, signed_region, functions = _target(name, stack_name, region, profile, url=url)
    with (
        SnowflakeClient(credentials, signed_region, watch=progress.watch) as client,
        Session(client, [] if declares_own else functions) as session,
    ):
        results = session.run(script)
        while True:
            with progress:
                result = next(results, None)
            if result is None:
                break
            show(result, style)


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{file} can't be read: {error}") from None


def _target(
    name: str, stack_name: str | None, region: str | None, profile: str | None, *, url: str | None
) -> tuple[Credentials, str, list[ExternalFunction]]:
    """What to sign with, the region, and the functions that are declared from the start."""
    if not url:
        stack = find_stack(name, stack_name, region, profile)
        return stack.credentials, stack.region, stack_functions(stack)
    url = url.rstrip("/")
    functions = api_functions(url, diagnostics=True)
    if urllib.parse.urlsplit(url).hostname in LOOPBACK:
        return Credentials(ACCESS_KEY, SECRET_KEY), region or "us-east-1", functions
    import boto3

    session = boto3.Session(profile_name=profile, region_name=region)
    credentials = session.get_credentials()
    signed_region = region_of(url) or session.region_name
    if credentials is None or signed_region is None:
        raise click.ClickException(
            "There are no AWS credentials or no region for --url; set AWS_PROFILE or name a --profile."
        )
    return credentials, signed_region, functions
