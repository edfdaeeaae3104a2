"""What DynamoDB refuses of expressions and MiniStack accepts.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.UpdateExpressions.html
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any, NamedTuple

Document = dict[str, Any]
# As MiniStack reads an expression: a token's kind and its text.
Token = tuple[str, str]

_CLAUSES = frozenset({"SET", "ADD", "REMOVE", "DELETE"})
_NO_PATH = "The document path provided in the update expression is invalid for update"


class _Action(NamedTuple):
    """One action of an update. `path`: names, and the numbers of list elements; `value`: what SET sets."""

    clause: str
    path: list[str | int]
    value: list[Token]

    def operator(self) -> int:
        """Where in `value` it adds or subtracts; -1 where it does not."""
        return next((place for place, token in enumerate(self.value) if token[0] in ("PLUS", "MINUS")), -1)


def install() -> None:
    """Puts these checks in front of MiniStack's."""
    from ministack.services import dynamodb  # type: ignore[import-untyped]

    dynamodb._update_item = _checked_request(dynamodb._update_item)
    dynamodb._apply_update_expression = _checked_item(dynamodb._apply_update_expression)
    dynamodb._validate_expression_attrs = _all_used(dynamodb._validate_expression_attrs)


def _checked_request(update: Callable[[Document], Any]) -> Callable[[Document], Any]:
    """What is wrong with an expression, whatever the item is."""

    def update_item(data: Document) -> Any:
        from ministack.services import dynamodb

        expression, names = data.get("UpdateExpression"), data.get("ExpressionAttributeNames")
        if isinstance(expression, str) and (fault := _syntax_fault(expression, names or {})):
            return dynamodb.error_response_json(
                "ValidationException", f"Invalid UpdateExpression: {fault}", 400
            )
        return update(data)

    return update_item


def _checked_item(apply: Callable[..., Any]) -> Callable[..., Any]:
    """What cannot be done to an item. Raises ValueError, of which MiniStack makes a ValidationException."""

    def apply_update_expression(
        item: Document, expression: str, values: Document, names: Document, updated: Any = None
    ) -> Any:
        from ministack.services import dynamodb

        for action in _actions(expression, names):
            *parents, name = action.path or [""]
            parent = dynamodb._get_at_path(item, parents) if parents else {"M": item}
            if ("L" if isinstance(name, int) else "M") not in (parent or {}):
                raise ValueError(_NO_PATH)
            place = action.operator()
            if place > 0:
                operands = (action.value[:place], action.value[place + 1 :])
                found = [dynamodb._eval_set_value(operand, item, values, names) for operand in operands]
                if not all(value and "N" in value for value in found):
                    raise ValueError("An operand in the update expression has an incorrect data type")
        return apply(item, expression, values, names, updated)

    return apply_update_expression


def _all_used(validate: Callable[..., Any]) -> Callable[..., Any]:
    """MiniStack looks for a name in the text, and so finds `:n` in `:next`."""

    def validate_expression_attrs(data: Document, fields: tuple[str, ...], *wording: Any) -> Any:
        from ministack.services import dynamodb

        if error := validate(data, fields, *wording):
            return error
        used = {text for field in fields for _, text in dynamodb._tokenize(data.get(field) or "")}
        for given in ("ExpressionAttributeValues", "ExpressionAttributeNames"):
            if unused := sorted(set(data.get(given) or {}) - used):
                message = f"Value provided in {given} unused in expressions: keys: {{{', '.join(unused)}}}"
                return dynamodb.error_response_json("ValidationException", message, 400)
        return None

    return validate_expression_attrs


def _syntax_fault(expression: str, names: Mapping[str, str]) -> str | None:
    from ministack.services import dynamodb

    words = [text.upper() for kind, text in dynamodb._tokenize(expression) if kind == "IDENT"]
    if twice := next((clause for clause in _CLAUSES if words.count(clause) > 1), None):
        return f'The "{twice}" section can only be used once in an update expression;'
    actions = list(_actions(expression, names))
    for one, other in combinations((action.path for action in actions), 2):
        shorter = min(len(one), len(other))
        if one[:shorter] == other[:shorter]:
            return (
                "Two document paths overlap with each other; must remove or rewrite one of these paths;"
                f" path one: {one}, path two: {other}"
            )
    for action in actions:
        operators = [text for kind, text in action.value if kind in ("PLUS", "MINUS")]
        if len(operators) > 1:
            return f'Syntax error; token: "{operators[1]}"'
    return None


def _actions(expression: str, names: Mapping[str, str]) -> Iterator[_Action]:
    from ministack.services import dynamodb

    clause: list[Token] = []
    clauses = [clause]
    for token in dynamodb._tokenize(expression):
        if token[0] == "IDENT" and token[1].upper() in _CLAUSES:
            clauses.append(clause := [token])
        elif token[0] != "EOF":
            clause.append(token)
    for (_, keyword), *rest in clauses[1:]:
        for tokens in dynamodb._split_by_comma(rest):
            kinds = [kind for kind, _ in tokens]
            end = kinds.index("EQ") if "EQ" in kinds else len(tokens)
            path = dynamodb._parse_path_from_tokens(tokens[:end], names)
            yield _Action(keyword.upper(), path, tokens[end + 1 :])
