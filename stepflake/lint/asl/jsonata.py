"""What a JSONata expression of a state machine refers to, found by parsing it and never by running it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from jsonata import Jsonata  # type: ignore[import-untyped]
from jsonata.jexception import JException  # type: ignore[import-untyped]
from jsonata.parser import Parser  # type: ignore[import-untyped]

# The functions of JSONata 2.0.6 (https://docs.jsonata.org/string-functions and the pages after it) without
# $eval, which Step Functions leaves out, and with those that it adds
# (https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html).
# fmt: off
FUNCTIONS = frozenset((
    "abs", "append", "assert", "average", "base64decode", "base64encode", "boolean", "ceil", "clone",
    "contains", "count", "decodeUrl", "decodeUrlComponent", "distinct", "each", "encodeUrl",
    "encodeUrlComponent", "error", "exists", "filter", "floor", "formatBase", "formatInteger",
    "formatNumber", "fromMillis", "join", "keys", "length", "lookup", "lowercase", "map", "match", "max",
    "merge", "millis", "min", "not", "now", "number", "pad", "parseInteger", "power", "random", "reduce",
    "replace", "reverse", "round", "shuffle", "sift", "single", "sort", "split", "spread", "sqrt",
    "string", "substring", "substringAfter", "substringBefore", "sum", "toMillis", "trim", "type",
    "uppercase", "zip", "partition", "range", "hash", "uuid", "parse",
))
# fmt: on

# Operators of JSONata 2.1, which the parser accepts and Step Functions (2.0.6) refuses.
_NEWER_OPERATORS = ("??", "?:")


class ExpressionError(ValueError):
    """The text is no JSONata expression that Step Functions takes. The message says why and where."""


@dataclass(frozen=True)
class Expression:
    """What an expression refers to.

    `variables`: those it doesn't bind itself, without the `$`. `states_members`: what it reads of `$states`
    (`$states.input` gives `input`). `bare_names`: names without a `$`, where nothing can give them a value.
    `error_fields`: what it reads of `$states.errorOutput` without asking by `$exists` whether it is there.
    `is_error_output`: it is `$states.errorOutput` and nothing else.
    """

    variables: frozenset[str]
    states_members: frozenset[str]
    bare_names: frozenset[str]
    error_fields: frozenset[str]
    is_error_output: bool


def parse_expression(source: str) -> Expression:
    """Parse what stands between `{%` and `%}`. Raises ExpressionError."""
    try:
        tree = Jsonata.jsonata(source).ast
    except JException as error:
        raise ExpressionError(f"{error} (at character {error.location})") from error
    except Exception as error:  # malformed regular expressions raise what `re` raises
        raise ExpressionError(f"it can't be parsed ({error})") from error
    nodes = list(_nodes(tree))
    for node in nodes:
        operator = source[node.position - 2 : node.position]
        if node.type == "condition" and operator in _NEWER_OPERATORS:
            raise ExpressionError(f"the operator {operator} came with JSONata 2.1; Step Functions has 2.0.6")
    bound = _bound_names(nodes)
    used = {node.value for node in nodes if node.type == "variable" and node.value not in ("", "$")}
    asked = [
        argument
        for node in nodes
        if node.type == "function" and node.procedure.value == "exists"
        for argument in node.arguments
    ]
    return Expression(
        variables=frozenset(used - bound - FUNCTIONS - {"states"}),
        states_members=frozenset(path[0] for path in _states_paths(nodes)),
        bare_names=frozenset(_bare_names(tree)),
        error_fields=frozenset(_error_fields(nodes) - _error_fields(_nodes(asked))),
        is_error_output=list(_states_paths([tree])) == [["errorOutput"]],
    )


def _states_paths(nodes: Iterable[Any]) -> Iterator[list[str]]:
    """The names behind `$states` in each path that begins with it, up to the first step that is none."""
    for path in nodes:
        if path.type == "path" and path.steps[0].type == "variable" and path.steps[0].value == "states":
            names = [step.value for step in takewhile(lambda step: step.type == "name", path.steps[1:])]
            if names:
                yield names


def _error_fields(nodes: Iterable[Any]) -> set[str]:
    return {path[1] for path in _states_paths(nodes) if path[0] == "errorOutput" and len(path) > 1}


def _bound_names(nodes: list[Any]) -> set[str]:
    """Names bound by `:=`, function parameters, `@$name` and `#$name`, anywhere in the expression."""
    bound: set[str] = set()
    for node in nodes:
        if node.type == "bind":
            bound.add(node.lhs.value)
        elif node.type == "lambda":
            bound.update(argument.value for argument in node.arguments)
        bound.update(name for name in (node.focus, node.index) if isinstance(name, str))
    return bound


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node, Parser.Symbol):
        yield from vars(node).values()
    elif isinstance(node, (list, tuple)):
        yield from node


def _nodes(node: Any) -> Iterator[Any]:
    """Every node of the tree once, the root first."""
    pending, seen = [node], set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, Parser.Symbol):
            yield current
        pending.extend(
            child for child in _children(current) if isinstance(child, (Parser.Symbol, list, tuple))
        )


def _bare_names(node: Any) -> Iterator[str]:
    """Names looked up in the expression's own context, which Step Functions leaves empty.

    Later steps of a path have the step before as their context, so only a path's first step counts.
    """
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _bare_names(child)
    elif isinstance(node, Parser.Symbol):
        if node.type == "path":
            first = node.steps[0]
            if first.type == "name":
                yield first.value
            else:
                yield from _bare_names(first)
        elif node.type == "apply":
            yield from _bare_names(node.lhs)
        elif node.type not in ("transform", "filter"):
            for child in _children(node):
                yield from _bare_names(child)
