"""The JSONata expressions of one state, each with what it may refer to in its place."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stepflake.lint.asl import schema
from stepflake.lint.asl.jsonata import Expression, ExpressionError, parse_expression
from stepflake.lint.finding import Finding, did_you_mean
from stepflake.lint.values import objects

# What DefinitionSubstitutions fill in.
PLACEHOLDER = re.compile(r"\$\{([A-Za-z0-9_]+)\}")
_INTRINSIC = re.compile(r"^States\.\w+\(")
# Members of $states, by where an expression is:
# https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html
_BEFORE = frozenset({"input", "context"})
_AFTER = _BEFORE | {"result"}
_CAUGHT = _BEFORE | {"errorOutput"}
_HAS_RESULT = ("Task", "Map", "Parallel")


@dataclass(frozen=True)
class _Scope:
    """What an expression may refer to: variables, and members of `$states`."""

    variables: frozenset[str]
    members: frozenset[str]


def lint_expressions(state: Mapping[str, Any], where: str, variables: frozenset[str]) -> Iterator[Finding]:
    """Every expression of a state. `variables`: those that some path to the state assigns."""
    before = _Scope(variables, _BEFORE)
    after = _Scope(variables, _AFTER) if state["Type"] in _HAS_RESULT else before
    for field, value in state.items():
        here = f"{where}.{field}"
        if field in ("Output", "Assign"):
            yield from _template(value, here, after)
        elif field in ("Choices", "Catch"):
            scope = _Scope(variables, _CAUGHT) if field == "Catch" else before
            for i, entry in enumerate(objects(value)):
                yield from _template(entry, f"{here}[{i}]", scope)
        elif field not in ("ItemProcessor", "Branches", "Comment"):
            yield from _template(value, here, before)


def _template(value: Any, where: str, scope: _Scope) -> Iterator[Finding]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key.endswith(".$"):
                yield Finding(
                    f"{where}.{key}",
                    "a key that ends with .$ belongs to JSONPath",
                    "write key and expression",
                )
            if key != "Comment":
                yield from _template(item, f"{where}.{key}", scope)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _template(item, f"{where}[{i}]", scope)
    elif isinstance(value, str):
        yield from _text(value, where, scope)


def _text(value: str, where: str, scope: _Scope) -> Iterator[Finding]:
    if re.match(schema.EXPRESSION, value):
        yield from _expression(value[2:-2].strip(), where, scope)
    elif "{%" in value or "%}" in value:
        yield Finding(
            where,
            f"{value!r} is neither text nor an expression",
            "an expression starts with {% and ends with %}, with nothing around it",
        )
    elif value.startswith(("$.", "$$.")) or value == "$" or _INTRINSIC.match(value):
        yield Finding(where, f"{value!r} belongs to JSONPath, and here it is plain text", "write {% ... %}")


def _expression(source: str, where: str, scope: _Scope) -> Iterator[Finding]:
    try:
        # A placeholder may stand for a number as well as inside a string, and a digit fits both.
        expression = parse_expression(PLACEHOLDER.sub("1", source))
    except ExpressionError as error:
        yield Finding(where, f"bad JSONata: {error}", "fix the expression")
        return
    yield from _references(expression, where, scope)


def _references(expression: Expression, where: str, scope: _Scope) -> Iterator[Finding]:
    for name in sorted(expression.variables - scope.variables):
        if name == "eval":
            yield Finding(where, "Step Functions has no $eval", "read JSON text with $parse")
        else:
            hint = did_you_mean(name, scope.variables)
            yield Finding(
                where, f"no path to here assigns ${name}", f"assign it in a state before this one{hint}"
            )
    for name in sorted(expression.states_members - scope.members):
        there = ", ".join(f"$states.{member}" for member in sorted(scope.members))
        yield Finding(where, f"$states.{name} does not exist here", f"there is {there}")
    for name in sorted(expression.bare_names):
        known = name in scope.variables | {"states"}
        remedy = f"write ${name}" if known else f"write $states.input.{name} or ${name}"
        yield Finding(where, f"{name!r} refers to nothing without a $", remedy)
    # An expression without a value fails the whole run with States.QueryEvaluationError, and not each error
    # has a Cause: https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
    for name in sorted(expression.error_fields):
        field = f"$states.errorOutput.{name}"
        yield Finding(where, f"{field} may be missing", f"write $exists({field}) ? {field} : ''")
    if expression.is_error_output:
        yield Finding(
            where,
            "passes on an error whose Error or Cause may be missing",
            "write an object with both, each with $exists",
        )
