"""DynamoDB's expressions, as far as the Lambdas use them.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.OperatorsAndFunctions.html
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.UpdateExpressions.html
"""

import copy
import operator
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

# AWS's whole list: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ReservedWords.html
from ministack.services._dynamodb_keywords import AWS_KEYWORDS  # type: ignore[import-untyped]

from tests.unit.fake_aws.faults import AwsError

# By type, as {"S": "text"}.
Attribute = dict[str, Any]
Item = dict[str, Attribute]
Condition = Callable[[Item], bool]
# An operand's value in an item; None where the item does not have it.
Operand = Callable[[Item], Attribute | None]
# The names of an attribute and of the maps that it is in, from the outermost.
Path = tuple[str, ...]
# The path that one action of an update writes, and its value there in the item before; None removes it.
Change = tuple[Path, Operand]

KEYS = ("pk", "sk")

_CLAUSES = frozenset({"SET", "ADD", "REMOVE"})
_TOKEN = re.compile(r"\s*([#:]?\w+|<=|>=|<>|[(),.=<>+-])")


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
        """SET, ADD and REMOVE clauses: what an item becomes. Values are those of the item before."""
        actions = {"SET": self._set, "ADD": self._add, "REMOVE": self._remove}
        changes: list[Change] = []
        if not self._tokens:
            raise invalid("Invalid UpdateExpression: The expression can not be empty;")
        while self._tokens:
            clause = self._next().upper()
            if clause not in _CLAUSES:
                raise invalid(f"Invalid UpdateExpression: Syntax error; token: {clause!r}")
            action = actions.pop(clause, None)
            if action is None:
                raise invalid(f"The {clause!r} section can only be used once in an update expression")
            changes.append(action())
            while self._skip(","):
                changes.append(action())
        _check_paths([path for path, _ in changes])
        return lambda item: _changed(item, changes)

    def _or(self) -> Condition:
        left = self._and()
        while self._skip("OR"):
            left = _either(left, self._and())
        return left

    def _and(self) -> Condition:
        left = self._not()
        while self._skip("AND"):
            left = _both(left, self._not())
        return left

    def _not(self) -> Condition:
        if self._skip("NOT"):
            inner = self._not()
            return lambda item: not inner(item)
        return self._test()

    def _test(self) -> Condition:
        if self._skip("("):
            inner = self._or()
            self._expect(")")
            return inner
        if self._skip("attribute_exists"):
            path = self._argument()
            return lambda item: _found(item, path) is not None
        if self._skip("attribute_not_exists"):
            path = self._argument()
            return lambda item: _found(item, path) is None
        left = self._operand()
        if self._skip("BETWEEN"):
            low, high = self._between()
            return lambda item: _at_most(low(item), left(item)) and _at_most(left(item), high(item))
        comparator = self._next()
        if comparator not in _COMPARATORS:
            raise invalid(f"Invalid expression: Syntax error; token: {comparator!r}")
        right = self._operand()
        return lambda item: _COMPARATORS[comparator](left(item), right(item))

    def _between(self) -> tuple[Operand, Operand]:
        low = self._operand()
        self._expect("AND")
        return low, self._operand()

    def _set(self) -> Change:
        path = self._path()
        self._expect("=")
        left = self._set_operand()
        if not self._tokens or self._tokens[0] not in _OPERATORS:
            return path, lambda item: _there(left(item))
        calculate, right = _OPERATORS[self._next()], self._set_operand()
        return path, lambda item: _calculated(calculate, _there(left(item)), _there(right(item)))

    def _set_operand(self) -> Operand:
        if not self._skip("if_not_exists"):
            return self._operand()
        self._expect("(")
        path = self._path()
        self._expect(",")
        default = self._set_operand()
        self._expect(")")

        def value(item: Item) -> Attribute | None:
            found = _found(item, path)
            return default(item) if found is None else found

        return value

    def _add(self) -> Change:
        path, value = self._path(), self._value()
        return path, lambda item: _calculated(operator.add, _found(item, path) or {"N": "0"}, value)

    def _remove(self) -> Change:
        return self._path(), lambda _item: None

    def _operand(self) -> Operand:
        if self._tokens and self._tokens[0].startswith(":"):
            value = self._value()
            return lambda _item: value
        path = self._path()
        return lambda item: _found(item, path)

    def _argument(self) -> Path:
        self._expect("(")
        path = self._path()
        self._expect(")")
        return path

    def _path(self) -> Path:
        names = [self._name(self._next())]
        while self._skip("."):
            names.append(self._name(self._next()))
        return tuple(names)

    def _value(self) -> Attribute:
        token = self._next()
        if not token.startswith(":"):
            raise invalid(f"Invalid expression: Syntax error; token: {token!r}, expected a value")
        return dict(self._substitutions.find(token))

    def _name(self, token: str) -> str:
        if token.startswith("#"):
            return str(self._substitutions.find(token))
        if token.upper() in AWS_KEYWORDS:
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


def _check_paths(paths: list[Path]) -> None:
    for number, path in enumerate(paths):
        if path[0] in KEYS:
            raise invalid(f"Cannot update attribute {path[0]}. This attribute is part of the key")
        for other in paths[:number]:
            shorter = min(len(path), len(other))
            if path[:shorter] == other[:shorter]:
                raise invalid(f"Two document paths overlap with each other: {other}, {path}")


def _changed(item: Item, changes: list[Change]) -> Item:
    changed = copy.deepcopy(item)
    for path, value in changes:
        parent: Any = changed
        for name in path[:-1]:
            parent = parent.get(name, {}).get("M")
            if parent is None:
                raise invalid("The document path provided in the update expression is invalid for update")
        new = value(item)
        if new is None:
            parent.pop(path[-1], None)
        else:
            parent[path[-1]] = copy.deepcopy(new)
    return changed


def _found(item: Item, path: Path) -> Attribute | None:
    parent: Any = item
    for name in path[:-1]:
        parent = parent.get(name, {}).get("M", {})
    found: Attribute | None = parent.get(path[-1])
    return found


def _there(attribute: Attribute | None) -> Attribute:
    if attribute is None:
        raise invalid("The provided expression refers to an attribute that does not exist in the item")
    return attribute


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


def _at_most(left: Attribute | None, right: Attribute | None) -> bool:
    return _is_less(left, right) or _is_equal(left, right)


def _calculated(calculate: Callable[[Any, Any], Decimal], left: Attribute, right: Attribute) -> Attribute:
    if set(left) != {"N"} or set(right) != {"N"}:
        raise invalid("An operand in the update expression has an incorrect data type")
    return {"N": f"{calculate(Decimal(left['N']), Decimal(right['N'])):f}"}


_OPERATORS: dict[str, Callable[[Any, Any], Decimal]] = {"+": operator.add, "-": operator.sub}

# What an attribute that is missing is compared with, it differs from.
_COMPARATORS: dict[str, Callable[[Attribute | None, Attribute | None], bool]] = {
    "=": _is_equal,
    "<>": lambda left, right: not _is_equal(left, right),
    "<": _is_less,
    "<=": _at_most,
    ">": lambda left, right: _is_less(right, left),
    ">=": lambda left, right: _at_most(right, left),
}
