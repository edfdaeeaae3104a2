"""`stepflake ddl`."""

import click

from stepflake.options import find_stack, stack_options
from stepflake.snowflake.ddl import api_functions, api_integration, script, stack_functions

# A stack on this machine has no role; Snowflake's SQL wants one.
LOCAL_ROLE_ARN = "arn:aws:iam::000000000000:role/snowflake"


@click.command()
@stack_options
@click.option("--api-url", help="The API's URL, instead of a stack's; needs --role-arn.")
@click.option("--role-arn", help="The role that Snowflake assumes.  [default: the stack's SnowflakeRoleArn]")
@click.option("--diagnostics", is_flag=True, help="With --api-url: declare echo, sleep and fail too.")
def ddl(
    *,
    name: str,
    stack_name: str | None,
    region: str | None,
    profile: str | None,
    api_url: str | None,
    role_arn: str | None,
    diagnostics: bool,
) -> None:
    """Print the SQL that creates the API integration and every external function in Snowflake.

    Run it in Snowflake as a role that may create integrations, or try it here:
    stepflake ddl > functions.sql; stepflake sql functions.sql
    """
    if api_url:
        api_url = api_url.rstrip("/")
        functions = api_functions(api_url, diagnostics=diagnostics)
        integration_name = "stepflake"
    else:
        stack = find_stack(name, stack_name, region, profile)
        api_url, integration_name = stack.api_url, stack.stack_name
        functions = stack_functions(stack)
        local = LOCAL_ROLE_ARN if stack.aws_endpoint_url else None
        role_arn = role_arn or stack.parameters.get("SnowflakeRoleArn") or local
    if not role_arn:
        raise click.UsageError("The role that Snowflake assumes is not known: name it with --role-arn.")
    click.echo(script(api_integration(integration_name, role_arn, api_url), functions), nl=False)
