"""The SQL that connects Snowflake to a deployed stack."""

from collections.abc import Iterable

from core.calls.rates import read_rate
from core.catalog import (
    DEFAULT_CHUNK_ROWS,
    RATE,
    SNOWFLAKE_TYPES,
    Signature,
    Workflow,
    read_catalog,
    read_workflows,
)
from stepflake.snowflake.client import ExternalFunction
from stepflake.snowflake.declarations import ApiIntegration, write_function, write_integration
from stepflake.stack import Stack

# Snowflake has no variadic external functions: one overload for each count of arguments up to this.
VARIADIC_ARGUMENTS = 8
# Each row of a batch is a run, and all of them must end within Snowflake's ten minutes.
WORKFLOW_BATCH_ROWS = 100
# A batch has the calls that a rate limit allows in so many seconds: 18 such batches fit into the time for
# which calls may be queued (core.calls.rates), so that a query's batches wait there and are not refused.
LIMITED_BATCH_SECONDS = 30


def external_functions(signatures: Iterable[Signature], api_url: str) -> list[ExternalFunction]:
    """The external functions that call these remote functions: one for each name and count of arguments."""
    return [
        ExternalFunction(
            name.upper(),
            f"{api_url}/functions/{signature.name}",
            parameters,
            SNOWFLAKE_TYPES[signature.returns],
            max_batch_rows=signature.max_batch_rows or _rows_within_limit(signature),
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


def _rows_within_limit(signature: Signature) -> int | None:
    """The most rows of a batch that a rate limit suggests; None where Snowflake's own batches are no larger.

    None too where the rate is a variable of the stack, and where equal rows are called once: the fewer rows
    a batch has, the fewer of them are equal.
    """
    if signature.deduplicate or not RATE.fullmatch(signature.rate_limit):
        return None
    per_second = read_rate(signature.rate_limit) or 0
    calls = max(1, int(per_second * LIMITED_BATCH_SECONDS))
    rows = calls * ((signature.rows_per_call or signature.chunk_rows) if signature.vectorized else 1)
    return rows if rows < DEFAULT_CHUNK_ROWS else None


def _parameter_lists(signature: Signature) -> list[tuple[tuple[str, str], ...]]:
    plain = [(p.name.upper(), SNOWFLAKE_TYPES[p.type]) for p in signature.parameters]
    if not signature.variadic:
        return [tuple(plain)]
    *fixed, (name, kind) = plain
    return [
        (*fixed, *((f"{name}_{number + 1}", kind) for number in range(count)))
        for count in range(VARIADIC_ARGUMENTS + 1)
    ]


def api_functions(api_url: str, *, diagnostics: bool) -> list[ExternalFunction]:
    """The external functions behind an API: remote functions and workflows. Raises CatalogError."""
    functions = external_functions(read_catalog(diagnostics=diagnostics).values(), api_url)
    return functions + workflow_functions(read_workflows().values(), api_url)


def stack_functions(stack: Stack) -> list[ExternalFunction]:
    """The external functions of a deployed stack. Raises CatalogError."""
    return api_functions(stack.api_url, diagnostics=stack.parameters.get("Diagnostics") == "true")
