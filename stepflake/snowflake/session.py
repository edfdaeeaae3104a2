"""Runs Snowflake's SQL on this machine, with calls of external functions.

sqlglot parses Snowflake's dialect, DuckDB executes it, and client.py sends the calls of external functions as
Snowflake sends them, in the batches that staging.py makes.
"""

import datetime
import getpass
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

import duckdb
import pyarrow as pa  # type: ignore[import-untyped]
from duckdb.func import ARROW, SPECIAL
from sqlglot import Dialect, exp
from sqlglot.errors import ParseError, TokenError
from sqlglot.tokenizer_core import Token, TokenType

from stepflake.errors import UserError
from stepflake.snowflake.bound_calls import INLINE, Calls
from stepflake.snowflake.client import (
    ExternalFunction,
    ExternalFunctionError,
    SnowflakeClient,
    Watcher,
    load_json,
    new_query_id,
)
from stepflake.snowflake.ddl import stack_functions
from stepflake.snowflake.declarations import ApiIntegration, Declaration, DeclarationError, read_declaration
from stepflake.snowflake.dialect import MACROS, UnsupportedError, prepare
from stepflake.snowflake.staging import stage
from stepflake.snowflake.staging_tables import StagingTables
from stepflake.snowflake.types import result_texts
from stepflake.stack import Stack

# sqlglot warns of what it can't parse; here that is an error with its own message.
logging.getLogger("sqlglot").setLevel(logging.ERROR)
_SNOWFLAKE = Dialect.get_or_raise("snowflake")
# Statements without effect here, where there is one session, one role and one database.
_IGNORED = (exp.Use, exp.Grant, exp.Set)
_DONE: dict[type[exp.Expr], str] = {exp.Insert: "inserted", exp.Update: "updated", exp.Delete: "deleted"}
_IGNORED_COMMANDS = ("ALTER SESSION", "GRANT", "REVOKE", "SET", "UNSET", "USE")


class SqlError(UserError):
    """A statement failed; the message is for its author and says in which line it starts."""


@dataclass(frozen=True)
class StatementResult:
    """The rows of one statement, or, if it returns none, no columns and a `message` that says what it did.

    Values are Python's: Decimal and int with all digits, str, bool, date, ...; a VARIANT, OBJECT or ARRAY is
    its parsed JSON.
    """

    statement: str
    columns: tuple[str, ...] = ()
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    message: str = ""
    query_id: str = ""


@contextmanager
def session_on(stack: Stack, watch: Watcher | None = None) -> Iterator["Session"]:
    """A session on a deployed stack, with all of its functions declared. `watch`: as for SnowflakeClient."""
    with (
        SnowflakeClient(stack.credentials, stack.region, watch=watch) as client,
        Session(client, stack_functions(stack)) as session,
    ):
        yield session


@dataclass(frozen=True)
class _Statement:
    tokens: Sequence[Token]
    text: str
    line: int


@dataclass
class _Query:
    """The statement that runs. `inline_error`: what `_call_inline` raised; DuckDB passes on only its text."""

    statement: str
    id: str = field(default_factory=new_query_id)
    call_numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    inline_error: Exception | None = None


class Session:
    """One user's session: tables, declared functions, and the client that calls them. Use it in a `with`.

    `functions`: declared from the start, without an API integration. Methods raise SqlError.
    """

    def __init__(self, client: SnowflakeClient, functions: Iterable[ExternalFunction] = ()) -> None:
        self._client = client
        self._functions: dict[tuple[str, tuple[str, ...]], ExternalFunction] = {}
        self._integrations: dict[str, ApiIntegration] = {}
        self._calls = Calls()
        self._query = _Query("")
        for function in functions:
            self._functions[_signature(function)] = function
        self._connection = duckdb.connect()
        self._connection.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
        self._connection.execute(MACROS)
        self._connection.create_function(
            INLINE,
            self._call_inline,
            ["VARCHAR", "VARCHAR"],
            "VARCHAR",
            type=ARROW,
            null_handling=SPECIAL,
            side_effects=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.remove_function(INLINE)
        self._connection.close()

    def execute(self, script: str) -> list[StatementResult]:
        """Run all statements of a script in order, after all of them have been parsed."""
        return list(self.run(script))

    def run(self, script: str) -> Iterator[StatementResult]:
        """As `execute`, one result at a time, as each statement ends."""
        parsed = [(statement, _parse(statement, script)) for statement in _statements(script)]
        for statement, what in parsed:
            try:
                if isinstance(what, Declaration):
                    yield self._declare(statement, what)
                else:
                    yield self._execute(statement, what, script)
            except (DeclarationError, UnsupportedError) as error:
                raise SqlError(_located(statement, str(error))) from None
            except ExternalFunctionError as error:
                raise SqlError(str(error)) from error
            except duckdb.Error as error:
                raise SqlError(_located(statement, self._duckdb_message(error))) from None

    # Statements

    def _declare(self, statement: _Statement, declaration: Declaration) -> StatementResult:
        declared = declaration.declared
        if isinstance(declared, ApiIntegration):
            self._declare_integration(declared, declaration)
            return StatementResult(
                statement.text, message=f"Integration {declared.name} successfully created."
            )
        self._declare_function(declared, declaration)
        return StatementResult(statement.text, message=f"Function {declared.name} successfully created.")

    def _declare_integration(self, integration: ApiIntegration, declaration: Declaration) -> None:
        exists = integration.name in self._integrations
        if exists and not (declaration.replace or declaration.if_not_exists):
            raise DeclarationError(f"Object '{integration.name}' already exists; use CREATE OR REPLACE")
        if not exists or declaration.replace:
            self._integrations[integration.name] = integration

    def _declare_function(self, function: ExternalFunction, declaration: Declaration) -> None:
        integration = self._integrations.get(declaration.integration)
        if integration is None:
            raise DeclarationError(
                f"Integration '{declaration.integration}' does not exist; "
                "create it with CREATE API INTEGRATION (`stepflake ddl` prints the statement)"
            )
        if not integration.enabled:
            raise DeclarationError(
                f"Integration '{integration.name}' is not enabled; create it with ENABLED = TRUE"
            )
        if not integration.allows(function.url):
            raise DeclarationError(
                f"{function.url!r} is not allowed by API integration '{integration.name}': "
                f"API_ALLOWED_PREFIXES are {', '.join(map(repr, integration.allowed_prefixes))}"
            )
        if function.name in _SNOWFLAKE.parser_class.FUNCTIONS:
            raise DeclarationError(
                f"{function.name} is one of Snowflake's own functions; choose another name"
            )
        if _signature(function) in self._functions and not declaration.replace:
            raise DeclarationError(f"Object '{function.name}' already exists; use CREATE OR REPLACE")
        self._functions[_signature(function)] = function

    def _execute(self, statement: _Statement, parsed: exp.Expr, script: str) -> StatementResult:
        if _is_ignored(parsed):
            return StatementResult(statement.text, message="Statement executed successfully.")
        if isinstance(parsed, exp.Command):
            command = f"{parsed.this} {parsed.expression}".upper()
            raise UnsupportedError(f"{' '.join(command.split()[:3])} ... is not something this can run")
        kind = _kind(parsed)
        if kind in ("FUNCTION", "PROCEDURE"):
            if isinstance(parsed, exp.Drop):
                return self._drop_function(statement, parsed)
            raise UnsupportedError(f"CREATE {kind} is not something this can run; it runs EXTERNAL FUNCTIONs")
        self._query = _Query(statement.text)
        columns, rows = self._query_duckdb(self._bind(prepare(parsed, statement.tokens, script)))
        return self._result(statement, parsed, columns, rows)

    def _query_duckdb(self, bound: exp.Expr) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """The names of the columns, and the rows."""
        with StagingTables(self._connection, self._calls, self._call) as tables:
            stage(bound, tables)
            found = self._connection.execute(self._calls.render(bound))
            columns = tuple(column[0] for column in found.description or ())
            kinds = [str(column[1]) for column in found.description or ()]
            return columns, [_python_row(row, kinds) for row in found.fetchall()] if columns else []

    def _result(
        self, statement: _Statement, parsed: exp.Expr, columns: tuple[str, ...], rows: list[tuple[Any, ...]]
    ) -> StatementResult:
        if isinstance(parsed, exp.Insert | exp.Update | exp.Delete | exp.Merge):
            count = rows[0][0] if rows else 0
            done = f"{count} {'row' if count == 1 else 'rows'} {_DONE.get(type(parsed), 'merged')}."
            return StatementResult(statement.text, message=done, query_id=self._query.id)
        if isinstance(parsed, exp.Create | exp.Drop | exp.Alter | exp.TruncateTable):
            return StatementResult(statement.text, message=_done(parsed), query_id=self._query.id)
        return StatementResult(statement.text, columns, rows, query_id=self._query.id)

    def _drop_function(self, statement: _Statement, parsed: exp.Drop) -> StatementResult:
        names = [_folded(table.this) for table in parsed.find_all(exp.Table)]
        types = tuple(_type_text(kind) for kind in parsed.expressions)
        for name in names:
            if self._functions.pop((name, types), None) is None and not parsed.args.get("exists"):
                raise UnsupportedError(f"Function '{name}({', '.join(types)})' does not exist")
        return StatementResult(statement.text, message=f"{', '.join(names)} successfully dropped.")

    def _bind(self, statement: exp.Expr) -> exp.Expr:
        """Replace every call of a declared function by a bound call, the calls in arguments first."""
        by_name: dict[str, list[ExternalFunction]] = {}
        for function in self._functions.values():
            by_name.setdefault(function.name, []).append(function)
        for node in reversed(list(statement.find_all(exp.Anonymous))):
            name = _folded(node.this)
            if name not in by_name:
                continue
            overloads = {len(function.parameters): function for function in by_name[name]}
            if len(node.expressions) not in overloads:
                known = " or ".join(f"{name}{each.signature}" for each in by_name[name])
                raise UnsupportedError(
                    f"{name} is called with {len(node.expressions)} arguments, but is {known}"
                )
            whole: exp.Expr = node
            while isinstance(whole.parent, exp.Dot) and whole.parent.expression is whole:
                whole = whole.parent
            whole.replace(self._calls.bind(overloads[len(node.expressions)], node.expressions))
        return statement

    # Calls

    def _call(self, function: ExternalFunction, rows: Iterable[str | None]) -> list[str | None]:
        """One call of a function: arguments as JSON text, None for a row that isn't sent; results as text."""
        sent: list[bool] = []

        def arguments() -> Iterator[list[Any]]:
            for row in rows:
                sent.append(row is not None)
                if row is not None:
                    yield _arguments(function, row)

        values = self._client.call(
            function,
            arguments(),
            query_id=self._query.id,
            call_number=next(self._query.call_numbers),
            context=self._context(),
        )
        # All results first: `sent` is complete once the last batch has been taken from `arguments`.
        results = iter(list(result_texts(values, function.name, function.returns)))
        return [next(results) if is_sent else None for is_sent in sent]

    def _call_inline(self, numbers: pa.ChunkedArray, rows: pa.ChunkedArray) -> pa.Array:
        """What DuckDB calls, from several threads, for the calls that weren't staged; at most 2,048 rows."""
        try:
            function = self._calls.functions[int(numbers[0].as_py())]
            return pa.array(self._call(function, rows.to_pylist()), pa.string())
        except Exception as error:
            self._query.inline_error = error
            raise

    def _duckdb_message(self, error: duckdb.Error) -> str:
        if isinstance(self._query.inline_error, ExternalFunctionError):
            raise SqlError(str(self._query.inline_error)) from self._query.inline_error
        message = str(error).split("\n\nLINE ")[0].strip()
        if message.startswith("Catalog Error: Scalar Function"):
            known = ", ".join(sorted({function.name for function in self._functions.values()})) or "none"
            message += f"\nExternal functions that are declared: {known}"
        return message

    def _context(self) -> Mapping[str, str]:
        now = datetime.datetime.now(datetime.UTC)
        return {
            "CURRENT_USER": getpass.getuser(),
            "CURRENT_ROLE": "PUBLIC",
            "CURRENT_DATABASE": "MEMORY",
            "CURRENT_SCHEMA": "MAIN",
            "CURRENT_STATEMENT": self._query.statement,
            "CURRENT_DATE": now.date().isoformat(),
            "CURRENT_TIME": now.time().isoformat("milliseconds"),
            "CURRENT_TIMESTAMP": now.isoformat(" ", "milliseconds"),
            "LAST_QUERY_ID": self._query.id,
        }


def declares_functions(script: str) -> bool:
    """Whether a script has a CREATE EXTERNAL FUNCTION of its own. Raises SqlError where it can't be read."""
    declarations = (_declaration(statement, script) for statement in _statements(script))
    return any(found and isinstance(found.declared, ExternalFunction) for found in declarations)


def _declaration(statement: _Statement, script: str) -> Declaration | None:
    try:
        return read_declaration(statement.tokens, script)
    except DeclarationError as error:
        raise SqlError(f"SQL compilation error: {error}") from None


def _statements(script: str) -> Iterator[_Statement]:
    try:
        tokens = _SNOWFLAKE.tokenize(script)
    except TokenError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise SqlError(f"The script can't be read: {reason}") from None
    start = 0
    for number, token in enumerate([*tokens, None]):
        if token is not None and token.token_type != TokenType.SEMICOLON:
            continue
        part = tokens[start:number]
        start = number + 1
        if part:
            yield _Statement(part, script[part[0].start : part[-1].end + 1], part[0].line)


def _parse(statement: _Statement, script: str) -> Declaration | exp.Expr:
    declaration = _declaration(statement, script)
    if declaration is not None:
        return declaration
    try:
        (parsed,) = _SNOWFLAKE.parser().parse(list(statement.tokens), script)
    except ParseError as error:
        found = error.errors[0] if error.errors else {}
        where = f"line {found.get('line')}, column {found.get('col')}"
        raise SqlError(
            f"SQL compilation error: {where}: {found.get('description', error)} "
            f"near {found.get('highlight')!r}"
        ) from None
    if parsed is None:
        raise SqlError(f"SQL compilation error: line {statement.line}: nothing to run")
    return parsed


def _located(statement: _Statement, message: str) -> str:
    return f"Error in the statement at line {statement.line}: {message}"


def _arguments(function: ExternalFunction, row: str) -> list[Any]:
    try:
        arguments: list[Any] = load_json(row)
    except ValueError as error:
        raise ExternalFunctionError(
            f"Request failed for external function {function.name}: an argument is not JSON: {error}"
        ) from None
    return arguments


def _signature(function: ExternalFunction) -> tuple[str, tuple[str, ...]]:
    kinds = (exp.DataType.build(kind, dialect="snowflake") for _, kind in function.parameters)
    return function.name, tuple(map(_type_text, kinds))


def _type_text(kind: exp.Expr) -> str:
    """A type as it distinguishes overloads: VARCHAR and STRING, or NUMBER and INT, are the same."""
    if not isinstance(kind, exp.DataType):
        return str(kind)
    if kind.this in exp.DataType.TEXT_TYPES:
        return "VARCHAR"
    if kind.this in exp.DataType.INTEGER_TYPES or kind.this == exp.DataType.Type.DECIMAL:
        return "NUMBER"
    return "FLOAT" if kind.this in exp.DataType.FLOAT_TYPES else str(kind.this.name)


def _folded(name: object) -> str:
    """A function's name as Snowflake folds it: unquoted names are upper case."""
    if isinstance(name, exp.Identifier):
        return str(name.this) if name.args.get("quoted") else str(name.this).upper()
    return str(name).upper()


def _python_row(row: Sequence[Any], kinds: Sequence[str]) -> tuple[Any, ...]:
    return tuple(_python_value(value, kind) for value, kind in zip(row, kinds, strict=True))


def _python_value(value: Any, kind: str) -> Any:
    if kind == "JSON" and isinstance(value, str):
        return load_json(value)
    return int(value) if isinstance(value, Decimal) and kind.endswith(",0)") else value


def _is_ignored(parsed: exp.Expr) -> bool:
    if isinstance(parsed, exp.Command):
        return f"{parsed.this} {parsed.expression}".upper().startswith(_IGNORED_COMMANDS)
    return isinstance(parsed, _IGNORED) or (isinstance(parsed, exp.Alter) and _kind(parsed) == "SESSION")


def _kind(parsed: exp.Expr) -> str:
    """What a CREATE, ALTER or DROP is about, in upper case; else empty."""
    return str(parsed.args.get("kind") or "").upper()


def _done(parsed: exp.Expr) -> str:
    kind = (_kind(parsed) or "table").capitalize()
    table = parsed.find(exp.Table)
    created, dropped = isinstance(parsed, exp.Create), isinstance(parsed, exp.Drop)
    verb = "created" if created else "dropped" if dropped else "changed"
    return f"{kind} {_folded(table.this) if table else ''} successfully {verb}."
