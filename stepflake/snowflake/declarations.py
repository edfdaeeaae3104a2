"""Reads and writes CREATE EXTERNAL FUNCTION and CREATE API INTEGRATION in Snowflake's SQL.

https://docs.snowflake.com/en/sql-reference/sql/create-external-function
https://docs.snowflake.com/en/sql-reference/sql/create-api-integration
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast, get_args

from sqlglot import exp
from sqlglot.errors import ParseError
from sqlglot.tokenizer_core import Token, TokenType

from stepflake.snowflake.client import Compression, ExternalFunction

# Words that can't be a plain identifier.
# https://docs.snowflake.com/en/sql-reference/reserved-keywords
_RESERVED_WORDS = """
ACCOUNT ALL ALTER AND ANY AS BETWEEN BY CASE CAST CHECK COLUMN CONNECT CONNECTION CONSTRAINT CREATE CROSS
CURRENT CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP CURRENT_USER DATABASE DELETE DISTINCT DROP ELSE EXISTS
FALSE FOLLOWING FOR FROM FULL GRANT GROUP GSCLUSTER HAVING ILIKE IN INCREMENT INNER INSERT INTERSECT INTO
IS ISSUE JOIN LATERAL LEFT LIKE LOCALTIME LOCALTIMESTAMP MINUS NATURAL NOT NULL OF ON OR ORDER
ORGANIZATION QUALIFY REGEXP REVOKE RIGHT RLIKE ROW ROWS SAMPLE SCHEMA SELECT SET SOME START TABLE
TABLESAMPLE THEN TO TRIGGER TRUE TRY_CAST UNION UNIQUE UPDATE USING VALUES VIEW WHEN WHENEVER WHERE WITH
"""
_RESERVED = frozenset(_RESERVED_WORDS.split())

_Item = TypeVar("_Item")


class DeclarationError(Exception):
    """A declaration that Snowflake would refuse; the message says where and why."""


@dataclass(frozen=True)
class ApiIntegration:
    """The URLs that external functions may have, and the IAM role that Snowflake assumes to call them."""

    name: str
    role_arn: str
    allowed_prefixes: tuple[str, ...]
    blocked_prefixes: tuple[str, ...] = ()
    enabled: bool = True

    def allows(self, url: str) -> bool:
        """Whether a function with this URL may use the integration."""
        return url.startswith(self.allowed_prefixes) and not url.startswith(self.blocked_prefixes or ("\0",))


@dataclass(frozen=True)
class Declaration:
    """One CREATE statement. `integration`: the name that a function's API_INTEGRATION gives."""

    declared: ExternalFunction | ApiIntegration
    integration: str = ""
    replace: bool = False
    if_not_exists: bool = False


def read_declaration(tokens: Sequence[Token], script: str) -> Declaration | None:
    """The declaration that one statement's tokens make, None for any other statement.

    Raises DeclarationError.
    """
    reader = _Reader(tokens, script)
    if not reader.accept("CREATE"):
        return None
    replace = reader.accept("OR", "REPLACE") or reader.accept("OR", "ALTER")
    if reader.accept("API", "INTEGRATION"):
        return _read_integration(reader, replace)
    reader.accept("SECURE")
    if reader.accept("EXTERNAL", "FUNCTION"):
        return _read_function(reader, replace)
    return None


def write_function(function: ExternalFunction, integration: str) -> str:
    """The CREATE statement of an external function, with a semicolon."""
    arguments = ", ".join(f"{identifier(name)} {kind}" for name, kind in function.parameters)
    lines = [
        f"CREATE OR REPLACE EXTERNAL FUNCTION {identifier(function.name)}({arguments})",
        f"  RETURNS {function.returns}",
    ]
    if function.null_on_null:
        lines.append("  RETURNS NULL ON NULL INPUT")
    if function.immutable:
        lines.append("  IMMUTABLE")
    if function.comment:
        lines.append(f"  COMMENT = {literal(function.comment)}")
    lines.append(f"  API_INTEGRATION = {identifier(integration)}")
    if function.headers:
        pairs = ", ".join(f"{literal(name)} = {literal(value)}" for name, value in function.headers)
        lines.append(f"  HEADERS = ({pairs})")
    if function.context_headers:
        lines.append(f"  CONTEXT_HEADERS = ({', '.join(function.context_headers)})")
    if function.max_batch_rows:
        lines.append(f"  MAX_BATCH_ROWS = {function.max_batch_rows}")
    lines.append(f"  COMPRESSION = {function.compression}")
    lines.append(f"  AS {literal(function.url)};")
    return "\n".join(lines)


def write_integration(integration: ApiIntegration) -> str:
    """The CREATE statement of an API integration, with a semicolon.

    IF NOT EXISTS, because a replaced integration gets a new external id, which the role doesn't trust.
    """
    prefixes = ", ".join(literal(prefix) for prefix in integration.allowed_prefixes)
    return "\n".join(
        [
            f"CREATE API INTEGRATION IF NOT EXISTS {identifier(integration.name)}",
            "  API_PROVIDER = aws_api_gateway",
            f"  API_AWS_ROLE_ARN = {literal(integration.role_arn)}",
            f"  API_ALLOWED_PREFIXES = ({prefixes})",
            f"  ENABLED = {str(integration.enabled).upper()};",
        ]
    )


def identifier(name: str) -> str:
    """A name in SQL, quoted if necessary. Snowflake folds unquoted names to upper case."""
    plain = name.isascii() and name.replace("_", "a").replace("$", "1").isalnum() and not name[0].isdigit()
    if plain and name.upper() not in _RESERVED:
        return name
    return '"' + name.upper().replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string literal, with backslashes escaped."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


class _Reader:
    """The tokens of one statement, read from left to right."""

    def __init__(self, tokens: Sequence[Token], script: str) -> None:
        self._tokens = tokens
        self._script = script
        self._at = 0

    @property
    def token(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def accept(self, *words: str) -> bool:
        """Take these keywords or signs, if they come next."""
        coming = self._tokens[self._at : self._at + len(words)]
        plain = [
            t.text.upper() for t in coming if t.token_type not in (TokenType.STRING, TokenType.IDENTIFIER)
        ]
        if plain != list(words):
            return False
        self._at += len(words)
        return True

    def expect(self, *words: str) -> None:
        if not self.accept(*words):
            self.fail(f"expected {' '.join(words)}")

    def fail(self, problem: str) -> None:
        token = self.token
        last = self._tokens[-1]
        where = f"line {(token or last).line}, column {(token or last).col}"
        found = f"found {token.text!r}" if token else "the statement ends"
        raise DeclarationError(f"{where}: {problem}; {found}")

    def take(self) -> Token:
        token = self.token
        if token is None:
            self.fail("expected more")
        self._at += 1
        return cast("Token", token)

    def name(self) -> str:
        """An identifier, folded as in Snowflake; of a qualified name the last part."""
        while True:
            token = self.take()
            name = token.text if token.token_type == TokenType.IDENTIFIER else token.text.upper()
            if token.token_type == TokenType.STRING or not (
                name[0].isalpha() or name[0] in '_"' or name.isalnum()
            ):
                self._at -= 1
                self.fail("expected a name")
            if not self.accept("."):
                return name

    def string(self) -> str:
        token = self.token
        if token is None or token.token_type not in (TokenType.STRING, TokenType.RAW_STRING):
            self.fail("expected a string in single quotes")
        return self.take().text

    def kind(self) -> str:
        """A data type with its precision, as written but in upper case."""
        first = last = self.take()
        if self.accept("PRECISION"):
            last = self._tokens[self._at - 1]
        if self.accept("("):
            while not self.accept(")"):
                self.take()
            last = self._tokens[self._at - 1]
        text = self._script[first.start : last.end + 1].upper()
        try:
            exp.DataType.build(text, dialect="snowflake")
        except (ParseError, ValueError):
            raise DeclarationError(
                f"line {first.line}, column {first.col}: {text!r} is not a data type"
            ) from None
        return text

    def list_of(self, item: Callable[[], _Item]) -> tuple[_Item, ...]:
        """Items in parentheses; commas between them."""
        self.expect("(")
        found = []
        while not self.accept(")"):
            found.append(item())
            self.accept(",")
        return tuple(found)

    def pair(self) -> tuple[str, str]:
        """`'name' = 'value'`."""
        name = self.string()
        self.expect("=")
        return name, self.string()


# Reads an option's value; `name` is the declared object's, for errors.
_ReadValue = Callable[[_Reader, str], Any]
# An option's keywords, the field that it sets (None: it has no effect here), and how its value is read.
_Options = Mapping[tuple[str, ...], tuple[str | None, _ReadValue]]


def _read_options(reader: _Reader, name: str, options: _Options) -> dict[str, Any]:
    """The fields that the coming options set, up to the first token that starts none."""
    fields: dict[str, Any] = {}
    while keywords := next((each for each in options if reader.accept(*each)), None):
        field, read = options[keywords]
        value = read(reader, name)
        if field:
            fields[field] = value
    return fields


def _always(value: object) -> _ReadValue:
    """For an option whose keywords are all of it."""
    return lambda _reader, _name: value


def _string(reader: _Reader, _name: str) -> str:
    return reader.string()


def _provider(reader: _Reader, name: str) -> str:
    provider = reader.take().text.lower()
    if provider not in ("aws_api_gateway", "aws_private_api_gateway"):
        raise DeclarationError(
            f"API_PROVIDER = {provider} of {name}: only aws_api_gateway and "
            "aws_private_api_gateway can be answered here"
        )
    return provider


def _batch_rows(reader: _Reader, name: str) -> int:
    rows = reader.take().text
    if not rows.isdigit() or int(rows) == 0:
        raise DeclarationError(f"MAX_BATCH_ROWS = {rows} of {name} must be a number from 1")
    return int(rows)


def _compression(reader: _Reader, name: str) -> str:
    compression = reader.take().text.upper()
    if compression not in get_args(Compression):
        raise DeclarationError(
            f"COMPRESSION = {compression} of {name} must be one of {', '.join(get_args(Compression))}"
        )
    return compression


def _translator(_reader: _Reader, name: str) -> None:
    raise DeclarationError(f"{name}: translators are JavaScript that only Snowflake runs; leave them out")


_INTEGRATION_OPTIONS: _Options = {
    ("API_PROVIDER", "="): (None, _provider),
    ("API_AWS_ROLE_ARN", "="): ("role_arn", _string),
    ("API_ALLOWED_PREFIXES", "="): ("allowed_prefixes", lambda reader, _: reader.list_of(reader.string)),
    ("API_BLOCKED_PREFIXES", "="): ("blocked_prefixes", lambda reader, _: reader.list_of(reader.string)),
    ("ENABLED", "="): ("enabled", lambda reader, _: reader.take().text.upper() == "TRUE"),
    ("COMMENT", "="): (None, _string),
    ("API_KEY", "="): (None, _string),
}

_FUNCTION_OPTIONS: _Options = {
    ("NOT", "NULL"): (None, _always(False)),
    ("NULL",): (None, _always(True)),
    ("CALLED", "ON", "NULL", "INPUT"): ("null_on_null", _always(False)),
    ("RETURNS", "NULL", "ON", "NULL", "INPUT"): ("null_on_null", _always(True)),
    ("STRICT",): ("null_on_null", _always(True)),
    ("IMMUTABLE",): ("immutable", _always(True)),
    ("VOLATILE",): ("immutable", _always(False)),
    ("COMMENT", "="): ("comment", _string),
    ("API_INTEGRATION", "="): ("integration", lambda reader, _: reader.name()),
    ("HEADERS", "="): ("headers", lambda reader, _: reader.list_of(reader.pair)),
    ("CONTEXT_HEADERS", "="): ("context_headers", lambda reader, _: reader.list_of(reader.name)),
    ("MAX_BATCH_ROWS", "="): ("max_batch_rows", _batch_rows),
    ("COMPRESSION", "="): ("compression", _compression),
    ("REQUEST_TRANSLATOR", "="): (None, _translator),
    ("RESPONSE_TRANSLATOR", "="): (None, _translator),
}


def _read_integration(reader: _Reader, replace: bool) -> Declaration:
    if_not_exists = reader.accept("IF", "NOT", "EXISTS")
    name = reader.name()
    fields = _read_options(reader, name, _INTEGRATION_OPTIONS)
    if reader.token is not None:
        reader.fail("expected API_PROVIDER, API_AWS_ROLE_ARN, API_ALLOWED_PREFIXES, ENABLED, ... = ...")
    if not fields.get("allowed_prefixes") or not fields.get("role_arn") or "enabled" not in fields:
        raise DeclarationError(
            f"CREATE API INTEGRATION {name} needs API_PROVIDER, API_AWS_ROLE_ARN, API_ALLOWED_PREFIXES "
            "and ENABLED"
        )
    return Declaration(ApiIntegration(name, **fields), replace=replace, if_not_exists=if_not_exists)


def _read_function(reader: _Reader, replace: bool) -> Declaration:
    name = reader.name()
    parameters = _read_parameters(reader)
    reader.expect("RETURNS")
    returns = reader.kind()
    fields = _read_options(reader, name, _FUNCTION_OPTIONS)
    if not reader.accept("AS"):
        reader.fail("expected an option of CREATE EXTERNAL FUNCTION or AS '<url>'")
    url = reader.string()
    if reader.token is not None:
        reader.fail("expected the end of the statement")
    integration = fields.pop("integration", "")
    if not integration:
        raise DeclarationError(f"CREATE EXTERNAL FUNCTION {name} needs API_INTEGRATION = <name>")
    function = ExternalFunction(name, url, parameters, returns, **fields)
    return Declaration(function, integration=integration, replace=replace)


def _read_parameters(reader: _Reader) -> tuple[tuple[str, str], ...]:
    """Names and types, `(a VARCHAR, b NUMBER)`."""
    parameters = []
    reader.expect("(")
    while not reader.accept(")"):
        parameters.append((reader.name(), reader.kind()))
        if not reader.accept(","):
            reader.expect(")")
            break
    return tuple(parameters)
