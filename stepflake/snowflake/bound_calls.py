"""Calls of external functions in a statement's syntax tree, and as DuckDB's SQL."""

import re
from collections.abc import Sequence

from sqlglot import exp

from stepflake.snowflake.client import ExternalFunction
from stepflake.snowflake.types import from_text, row_json

# A bound call is this function with the call's number as its first argument.
CALL = "__STEPFLAKE_CALL"
# DuckDB's function for a call that wasn't staged, of the call's number and the arguments' JSON text.
INLINE = "__stepflake_external"


class Calls:
    """The bound calls of a session, by number; views keep those that they were created with."""

    def __init__(self) -> None:
        self.functions: dict[int, ExternalFunction] = {}

    def bind(self, function: ExternalFunction, arguments: Sequence[exp.Expr]) -> exp.Expr:
        """The expression for this call until it is staged or rendered."""
        number = len(self.functions)
        self.functions[number] = function
        return exp.Anonymous(
            this=CALL, expressions=[exp.Literal.number(number), *(a.copy() for a in arguments)]
        )

    def function(self, call: exp.Expr) -> ExternalFunction:
        """The function of a bound call."""
        return self.functions[number_of(call)]

    def row(self, number: int, arguments: Sequence[exp.Expr]) -> exp.Expr:
        """The JSON text of a call's arguments, NULL if RETURNS NULL ON NULL INPUT applies."""
        function = self.functions[number]
        row = row_json(list(arguments), [kind for _, kind in function.parameters])
        if function.null_on_null and arguments:
            present = exp.and_(*(exp.not_(exp.Is(this=a.copy(), expression=exp.Null())) for a in arguments))
            row = exp.Case(ifs=[exp.If(this=present, true=row)])
        return row

    def render(self, expression: exp.Expr) -> str:
        """DuckDB's SQL, with calls that weren't staged as calls of the INLINE function."""

        def inline(node: exp.Expr) -> exp.Expr:
            if not is_call(node):
                return node
            number = exp.Literal.string(str(number_of(node)))
            value = exp.Anonymous(
                this=INLINE, expressions=[number, self.row(number_of(node), node.expressions[1:])]
            )
            return from_text(value, self.function(node).returns)

        # The innermost first: the arguments of a call may be calls.
        copied = expression.copy()
        for node in reversed(list(copied.find_all(exp.Anonymous))):
            if is_call(node):
                replaced = inline(node)
                if node is copied:
                    copied = replaced
                else:
                    node.replace(replaced)
        return copied.sql("duckdb")


def is_call(node: exp.Expr) -> bool:
    """Whether this is a bound external function call."""
    return isinstance(node, exp.Anonymous) and node.this == CALL


def number_of(call: exp.Expr) -> int:
    """The number of a bound call."""
    return int(call.expressions[0].name)


def without_numbers(expression: exp.Expr) -> str:
    """SQL text without the calls' numbers, for comparing expressions."""
    return re.sub(rf"{CALL}\(\d+", CALL + "(", expression.sql("duckdb"))
