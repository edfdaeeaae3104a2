"""DynamoDB's expressions, as far as the Lambdas use them.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.OperatorsAndFunctions.html
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.UpdateExpressions.html
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from tests.unit.fake_aws.faults import AwsError

# By type, as {"S": "text"}.
Attribute = dict[str, Any]
Item = dict[str, Attribute]
Condition = Callable[[Item], bool]

# The reserved words of DynamoDB that are names of the table's attributes.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ReservedWords.html
RESERVED = {"ERROR", "OWNER", "RESULT", "STATE", "STATUS"}

_TOKEN = re.compile(r"\s*([#:]?\w+|[(),=<])")


class Substitutions:
    """A call's ExpressionAttributeNames and ExpressionAttributeValues; all of them must be used."""

    def __init__(self, names: Mapping[str, str] | None, values: Mapping[str, Attribute] | None) -> None:
        for what, given in (("Names", names), ("Values", values)):
            if given is not None and not given:
                raise invalid(f"ExpressionAttribute{what} must not be empty")
        self._given: dict[str, Any] = {**(names or {}), **(values or {})}
        self._unused = set(self._given)

    def find(self, token: str) -> Any:
        """What `#name` or `:value` stands for."""
        if token not in self._given:
            raise invalid(f"An expression attribute used in expression is not defined; attribute: {token}")
        self._unused.discard(token)
        return self._given[token]

    def check_used(self) -> None:
        """Raises where a name or a value was given that no expression uses."""
        if self._unused:
            raise invalid(f"Value provided in expression attributes unused in expressions: {self._unused}")


class Expression:
    """One expression's text, read token by token."""

    def __init__(self, text: str, substitutions: Substitutions) -> None:
        self._tokens: list[str] = []
        self._substitutions = substitutions
        position = 0
        while rest := text[position:].strip():
            token = _TOKEN.match(text, position)
            if token is None:
                raise invalid(f"Invalid expression: Syntax error; token: {rest!r}")
            self._tokens.append(token[1])
            position = token.end()

    def condition(self) -> Condition:
        """Parses and evaluates a whole condition."""
        condition = self._or()
        self._expect_end()
        return condition

    def update(self) -> Callable[[Item], Item]:
        """SET and ADD clauses: what an item becomes. Values are those of the item before."""
        changes: list[Callable[[Item], tuple[str, Attribute]]] = []
        while self._tokens:
            change = {"SET": self._set, "ADD": self._add}[self._next()]
            changes.append(change())
            while self._skip(","):
                changes.append(change())
        return lambda item: {**item, **dict(change(item) for change in changes)}

    def _or(self) -> Condition:
        left = self._and()
        while self._skip("OR"):
            left = _either(left, self._and())
        return left

    def _and(self) -> Condition:
        left = self._test()
        while self._skip("AND"):
            left = _both(left, self._test())
        return left

    def _test(self) -> Condition:
        if self._skip("("):
            inner = self._or()
            self._expect(")")
            return inner
        if self._skip("attribute_not_exists"):
            self._expect("(")
            name = self._name(self._next())
            self._expect(")")
            return lambda item: name not in item
        left, comparator, right = self._operand(), self._next(), self._operand()
        if comparator not in _COMPARATORS:
            raise invalid(f"Invalid expression: Syntax error; token: {comparator!r}")
        return lambda item: _COMPARATORS[comparator](left(item), right(item))

    def _set(self) -> Callable[[Item], tuple[str, Attribute]]:
        name = self._name(self._next())
        self._expect("=")
        value = self._substitutions.find(self._next())
        return lambda _item: (name, value)

    def _add(self) -> Callable[[Item], tuple[str, Attribute]]:
        name, value = self._name(self._next()), self._substitutions.find(self._next())
        return lambda item: (name, _sum(item.get(name, {"N": "0"}), value))

    def _operand(self) -> Callable[[Item], Attribute | None]:
        token = self._next()
        if token.startswith(":"):
            value = self._substitutions.find(token)
            return lambda _item: value
        name = self._name(token)
        return lambda item: item.get(name)

    def _name(self, token: str) -> str:
        if token.startswith("#"):
            return str(self._substitutions.find(token))
        if token.upper() in RESERVED:
            raise invalid(f"Attribute name is a reserved keyword; reserved keyword: {token}")
        if not re.fullmatch(r"[A-Za-z]\w*", token):
            raise invalid(f"Invalid expression: Syntax error; token: {token!r}")
        return token

    def _next(self) -> str:
        if not self._tokens:
            raise invalid("Invalid expression: Syntax error; token: <EOF>")
        return self._tokens.pop(0)

    def _skip(self, token: str) -> bool:
        is_next = bool(self._tokens) and self._tokens[0] == token
        if is_next:
            self._tokens.pop(0)
        return is_next

    def _expect(self, token: str) -> None:
        if (actual := self._next()) != token:
            raise invalid(f"Invalid expression: Syntax error; token: {actual!r}, expected {token!r}")

    def _expect_end(self) -> None:
        if self._tokens:
            raise invalid(f"Invalid expression: Syntax error; token: {self._tokens[0]!r}")


def invalid(message: str) -> AwsError:
    """What DynamoDB answers to an invalid request."""
    return AwsError("ValidationException", message)


def _either(left: Condition, right: Condition) -> Condition:
    return lambda item: left(item) or right(item)


def _both(left: Condition, right: Condition) -> Condition:
    return lambda item: left(item) and right(item)


def _comparable(attribute: Attribute) -> Any:
    ((kind, value),) = attribute.items()
    return Decimal(value) if kind == "N" else value.encode() if kind == "S" else value


def _is_equal(left: Attribute | None, right: Attribute | None) -> bool:
    """False where either is missing, or the types differ."""
    return bool(left and right and set(left) == set(right) and _comparable(left) == _comparable(right))


def _is_less(left: Attribute | None, right: Attribute | None) -> bool:
    return bool(left and right and set(left) == set(right) and _comparable(left) < _comparable(right))


def _sum(left: Attribute, right: Attribute) -> Attribute:
    if set(left) != {"N"} or set(right) != {"N"}:
        raise invalid("An operand in the update expression has an incorrect data type")
    return {"N": str(Decimal(left["N"]) + Decimal(right["N"]))}


_COMPARATORS = {"=": _is_equal, "<": _is_less}
