"""The temporary tables of one statement's staging, and the calls whose results become columns of them."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Self

import duckdb
import pyarrow as pa  # type: ignore[import-untyped]
from sqlglot import exp

from stepflake.snowflake.bound_calls import Calls
from stepflake.snowflake.client import ExternalFunction, ExternalFunctionError
from stepflake.snowflake.types import from_text

# Takes each row's arguments as JSON text, None for a row that needs no call; returns the results' texts.
CallRows = Callable[[ExternalFunction, Iterable[str | None]], list[str | None]]

_FETCHED_ROWS = 1 << 16


class StagingTables:
    """Creates temporary tables and drops them at the end of the `with`. Methods raise duckdb.Error."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, calls: Calls, call_rows: CallRows) -> None:
        self.calls = calls
        self._connection = connection
        self._call_rows = call_rows
        self._tables: list[str] = []
        self._columns = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for table in self._tables:
            self._connection.execute(f"DROP TABLE IF EXISTS {table}")

    def columns(self, query: exp.Select) -> tuple[str, ...]:
        """The names of a query's columns; it is bound but not run."""
        described = self._connection.execute("DESCRIBE " + self.calls.render(query)).fetchall()
        return tuple(row[0] for row in described)

    def create(self, query: exp.Select) -> str:
        """The name of a new table with the query's rows."""
        return self._create(self.calls.render(query))

    def add_results(self, table: str, number: int, rows: exp.Select) -> tuple[str, str]:
        """Call an external function; the names of a copy of `table` with the results, and of their column.

        `number`: the call's. `rows`: a query for the arguments' JSON text, for each row of `table` in order.
        Raises ExternalFunctionError.
        """
        function = self.calls.functions[number]
        texts = self._call_rows(function, self._fetch(self.calls.render(rows)))
        column = f"__STEPFLAKE_{next(self._columns)}"
        results = f"__stepflake_results_{id(self)}"
        value = from_text(exp.column("VALUE", table="R"), function.returns).sql("duckdb")
        query = f'SELECT T.*, {value} AS "{column}" FROM {table} AS T POSITIONAL JOIN {results} AS R'  # noqa: S608
        self._connection.register(results, pa.table({"VALUE": pa.array(texts, pa.string())}))
        try:
            return self._create(query), column
        except duckdb.ConversionException as error:
            raise ExternalFunctionError(
                f"External function {function.name} returns {function.returns}, "
                f"but the remote service's values aren't: {error}"
            ) from None
        finally:
            self._connection.unregister(results)

    def _fetch(self, query: str) -> Iterator[str | None]:
        found = self._connection.execute(query)
        while rows := found.fetchmany(_FETCHED_ROWS):
            yield from (row[0] for row in rows)

    def _create(self, query: str) -> str:
        name = f"__stepflake_{len(self._tables)}_{id(self)}"
        self._connection.execute(f"CREATE TEMP TABLE {name} AS {query}")
        self._tables.append(name)
        return name
