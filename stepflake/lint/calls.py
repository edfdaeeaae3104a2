"""What functions and services say about their calls: one declaration for each limit, and variables that are
there."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from core.catalog import CallOptions
from stepflake.callers import Caller
from stepflake.lint.finding import Finding
from stepflake.lint.template.document import FUNCTION, Template
from stepflake.lint.values import mapping

# The handlers that read the options of each kind: to admit a batch's calls, and to make calls.
_READERS = {
    "function": ("batch.initiate.handler", "batch.process.handler", "ingest.work.handler"),
    "service": ("pipeline.service.handler", "fan_out.work.handler"),
}


def lint_limits(callers: Sequence[Caller], lambdas: Path) -> Iterator[Finding]:
    """Whether all that share a limit declare the same.

    Each call would change the limit to that of its own function, with the rate that was found.
    """
    limited = sorted((caller for caller in callers if caller.has_limit), key=lambda caller: caller.limit_name)
    for name, sharers in groupby(limited, key=lambda caller: caller.limit_name):
        first, *others = sharers
        for other in others:
            if _declaration(other.options) != _declaration(first.options):
                problem = (
                    f"it declares the limit {name!r} with {_declaration(other.options)}, and "
                    f"{lambdas / first.file} with {_declaration(first.options)}"
                )
                remedy = "write the same in both, or name another limit with calls in one of them"
                yield Finding("", problem, remedy, str(lambdas / other.file))


def lint_variables(callers: Sequence[Caller], lambdas: Path, template: Template) -> Iterator[Finding]:
    """Whether the Lambdas that read "${NAME}" have the variable."""
    shared = _variables(mapping(mapping(template.document.get("Globals")).get("Function")))
    for caller in callers:
        for option, variable in caller.variables():
            lacking = [
                name
                for name, function in template.of_type(FUNCTION)
                if function.get("Handler") in _READERS[caller.kind]
                and variable not in shared | _variables(function)
            ]
            if lacking:
                problem = f"{option} is ${{{variable}}}, which {template.path.name} doesn't set for "
                remedy = f"add {variable} to Globals.Function.Environment.Variables"
                yield Finding("", problem + ", ".join(lacking), remedy, str(lambdas / caller.file))


def _declaration(options: CallOptions) -> str:
    most = options.max_concurrency
    return f'rate_limit="{options.rate_limit}"' + (f" and max_concurrency={most}" if most else "")


def _variables(function: object) -> set[str]:
    return set(mapping(mapping(mapping(function).get("Environment")).get("Variables")))
