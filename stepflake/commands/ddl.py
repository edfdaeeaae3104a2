"""`stepflake ddl`: the SQL that connects Snowflake to a deployed stack."""

from collections.abc import Callable, Iterable

import click

from core.catalog import SNOWFLAKE_TYPES, CatalogError, Signature, Workflow, read_catalog, read_workflows
from stepflake.local.stack import DEFAULT_NAME, Stack, StackError
from stepflake.snowflake.client import ExternalFunction
from stepflake.snowflake.declarations import ApiIntegration, write_function, write_integration

# Snowflake has no variadic external functions: one overload for each count of arguments up to this.
VARIADIC_ARGUMENTS = 8
# Each row of a batch is a run, and all of them must end within Snowflake's ten minutes.
WORKFLOW_BATCH_ROWS = 100
# A stack on this machine has no role; Snowflake's SQL wants one.
LOCAL_ROLE_ARN = "arn:aws:iam::000000000000:role/snowflake"


def external_functions(signatures: Iterable[Signature], api_url: str) -> list[ExternalFunction]:
    """The external functions that call these remote functions: one for each name and count of arguments."""
    return [
        ExternalFunction(
            name.upper(),
            f"{api_url}/functions/{signature.name}",
            parameters,
            SNOWFLAKE_TYPES[signature.returns],
            comment=signature.doc,
        )
        for signature in signatures
        for name in signature.sql_names
        for parameters in _parameter_lists(signature)
    ]


def workflow_functions(workflows: Iterable[Workflow], api_url: str) -> list[ExternalFunction]:
    """Two for each workflow: one waits for the run's output, one answers with the run's handle."""
    return [
        ExternalFunction(
            name,
            f"{api_url}/workflows/{workflow.name}",
            (("INPUT", "VARIANT"),),
            "VARIANT",
            headers=headers,
            max_batch_rows=WORKFLOW_BATCH_ROWS,
            comment=comment,
        )
        for workflow in workflows
        for name, headers, comment in (
            (workflow.name.upper(), (), workflow.doc),
            (
                f"{workflow.name.upper()}_DETACHED",
                (("mode", "detached"),),
                f"As {workflow.name}, but answers at once, with a handle for run_status and run_result.",
            ),
        )
    ]


def api_integration(stack_name: str, role_arn: str, api_url: str) -> ApiIntegration:
    """The API integration that lets functions of this API be called."""
    return ApiIntegration(stack_name.upper().replace("-", "_"), role_arn, (f"{api_url}/",))


def script(integration: ApiIntegration, functions: Iterable[ExternalFunction]) -> str:
    """All CREATE statements, in an order in which they can run."""
    statements = [write_integration(integration)]
    statements += [write_function(function, integration.name) for function in functions]
    return "\n\n".join(statements) + "\n"


def _parameter_lists(signature: Signature) -> list[tuple[tuple[str, str], ...]]:
    plain = [(p.name.upper(), SNOWFLAKE_TYPES[p.type]) for p in signature.parameters]
    if not signature.variadic:
        return [tuple(plain)]
    *fixed, (name, kind) = plain
    return [
        (*fixed, *((f"{name}_{number + 1}", kind) for number in range(count)))
        for count in range(VARIADIC_ARGUMENTS + 1)
    ]


def stack_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which stack is meant; `find_stack` takes them."""
    for option in (
        click.option("--profile", help="The AWS profile to reach --stack-name with."),
        click.option("--region", help="The AWS region of --stack-name."),
        click.option("--stack-name", help="A stack on AWS, instead of a local one."),
        click.option("--name", default=DEFAULT_NAME, show_default=True, help="Which local stack."),
    ):
        command = option(command)
    return command


def find_stack(name: str, stack_name: str | None, region: str | None, profile: str | None) -> Stack:
    """The stack that the options of `stack_options` name. Raises StackError."""
    return Stack.describe(stack_name, region, profile) if stack_name else Stack.local(name)


def api_functions(api_url: str, *, diagnostics: bool) -> list[ExternalFunction]:
    """The external functions behind an API: remote functions and workflows. Raises CatalogError."""
    functions = external_functions(read_catalog(diagnostics=diagnostics).values(), api_url)
    return functions + workflow_functions(read_workflows().values(), api_url)


def stack_functions(stack: Stack) -> list[ExternalFunction]:
    """The external functions of a deployed stack. Raises CatalogError."""
    return api_functions(stack.api_url, diagnostics=stack.parameters.get("Diagnostics") == "true")


@click.command()
@stack_options
@click.option("--api-url", help="The API's URL, where no stack is to be asked for it; needs --role-arn.")
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
    try:
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
    except (StackError, CatalogError) as error:
        raise click.ClickException(str(error)) from error
    if not role_arn:
        raise click.UsageError("The role that Snowflake assumes isn't known: name it with --role-arn.")
    click.echo(script(api_integration(integration_name, role_arn, api_url), functions), nl=False)
