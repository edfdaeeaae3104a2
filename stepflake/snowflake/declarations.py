"""CREATE EXTERNAL FUNCTION and CREATE API INTEGRATION, read from Snowflake's SQL and written as it.

https://docs.snowflake.com/en/sql-reference/sql/create-external-function
https://docs.snowflake.com/en/sql-reference/sql/create-api-integration
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, get_args

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


class DeclarationError(Exception):
    """A declaration that Snowflake would not take; the message says where and why."""


@dataclass(frozen=True)
class ApiIntegration:
    """Which URLs external functions may have, and the role that Snowflake signs as."""

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

    IF NOT EXISTS, because a replaced integration gets another external id, which its role then doesn't trust.
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
    """A name as it stands in SQL: quoted where it must be. Plain names fold to upper case."""
    plain = name.isascii() and name.replace("_", "a").replace("$", "1").isalnum() and not name[0].isdigit()
    if plain and name.upper() not in _RESERVED:
        return name
    return '"' + name.upper().replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string literal; Snowflake reads backslashes in it as escapes."""
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
        """Step over these keywords or signs, if they are what comes next."""
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
        """An identifier, folded as Snowflake folds it; of a qualified name the last part."""
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
        """A data type, with its precision, as it is written."""
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

    def list_of_strings(self) -> tuple[str, ...]:
        self.expect("(")
        found = []
        while not self.accept(")"):
            found.append(self.string())
            self.accept(",")
        return tuple(found)


def _read_integration(reader: _Reader, replace: bool) -> Declaration:
    if_not_exists = reader.accept("IF", "NOT", "EXISTS")
    name = reader.name()
    role, enabled = "", None
    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    while reader.token is not None:
        if reader.accept("API_PROVIDER", "="):
            provider = reader.take().text.lower()
            if provider not in ("aws_api_gateway", "aws_private_api_gateway"):
                raise DeclarationError(
                    f"API_PROVIDER = {provider} of {name}: only aws_api_gateway and "
                    "aws_private_api_gateway can be answered here"
                )
        elif reader.accept("API_AWS_ROLE_ARN", "="):
            role = reader.string()
        elif reader.accept("API_ALLOWED_PREFIXES", "="):
            allowed = reader.list_of_strings()
        elif reader.accept("API_BLOCKED_PREFIXES", "="):
            blocked = reader.list_of_strings()
        elif reader.accept("ENABLED", "="):
            enabled = reader.take().text.upper() == "TRUE"
        elif reader.accept("COMMENT", "=") or reader.accept("API_KEY", "="):
            reader.string()
        else:
            reader.fail("expected API_PROVIDER, API_AWS_ROLE_ARN, API_ALLOWED_PREFIXES, ENABLED, ... = ...")
    if not allowed or not role or enabled is None:
        raise DeclarationError(
            f"CREATE API INTEGRATION {name} needs API_PROVIDER, API_AWS_ROLE_ARN, API_ALLOWED_PREFIXES "
            "and ENABLED"
        )
    integration = ApiIntegration(name, role, allowed, blocked, enabled)
    return Declaration(integration, replace=replace, if_not_exists=if_not_exists)


def _read_function(reader: _Reader, replace: bool) -> Declaration:  # noqa: PLR0912, PLR0915
    name = reader.name()
    reader.expect("(")
    parameters = []
    while not reader.accept(")"):
        parameters.append((reader.name(), reader.kind()))
        if not reader.accept(","):
            reader.expect(")")
            break
    reader.expect("RETURNS")
    returns = reader.kind()
    integration = comment = ""
    headers: list[tuple[str, str]] = []
    context_headers: list[str] = []
    max_batch_rows = None
    compression = "AUTO"
    null_on_null = immutable = False
    while not reader.accept("AS"):
        if (
            reader.accept("NOT", "NULL")
            or reader.accept("NULL")
            or reader.accept("CALLED", "ON", "NULL", "INPUT")
        ):
            pass
        elif reader.accept("RETURNS", "NULL", "ON", "NULL", "INPUT") or reader.accept("STRICT"):
            null_on_null = True
        elif reader.accept("IMMUTABLE"):
            immutable = True
        elif reader.accept("VOLATILE"):
            immutable = False
        elif reader.accept("COMMENT", "="):
            comment = reader.string()
        elif reader.accept("API_INTEGRATION", "="):
            integration = reader.name()
        elif reader.accept("HEADERS", "="):
            reader.expect("(")
            while not reader.accept(")"):
                header = reader.string()
                reader.expect("=")
                headers.append((header, reader.string()))
                reader.accept(",")
        elif reader.accept("CONTEXT_HEADERS", "="):
            reader.expect("(")
            while not reader.accept(")"):
                context_headers.append(reader.name())
                reader.accept(",")
        elif reader.accept("MAX_BATCH_ROWS", "="):
            rows = reader.take().text
            if not rows.isdigit() or int(rows) == 0:
                raise DeclarationError(f"MAX_BATCH_ROWS = {rows} of {name} must be a number from 1")
            max_batch_rows = int(rows)
        elif reader.accept("COMPRESSION", "="):
            compression = reader.take().text.upper()
            if compression not in get_args(Compression):
                raise DeclarationError(
                    f"COMPRESSION = {compression} of {name} must be one of {', '.join(get_args(Compression))}"
                )
        elif reader.accept("REQUEST_TRANSLATOR", "=") or reader.accept("RESPONSE_TRANSLATOR", "="):
            raise DeclarationError(
                f"{name}: translators are JavaScript that only Snowflake runs; leave them out"
            )
        else:
            reader.fail("expected an option of CREATE EXTERNAL FUNCTION or AS '<url>'")
    url = reader.string()
    if reader.token is not None:
        reader.fail("expected the end of the statement")
    if not integration:
        raise DeclarationError(f"CREATE EXTERNAL FUNCTION {name} needs API_INTEGRATION = <name>")
    function = ExternalFunction(
        name,
        url,
        tuple(parameters),
        returns,
        headers=tuple(headers),
        context_headers=tuple(context_headers),
        max_batch_rows=max_batch_rows,
        compression=cast("Compression", compression),
        null_on_null=null_on_null,
        immutable=immutable,
        comment=comment,
    )
    return Declaration(function, integration=integration, replace=replace)
