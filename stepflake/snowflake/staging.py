"""External function calls of a query, made before the query runs, so that rows travel in full batches.

DuckDB would call a Python function with at most 2,048 rows at a time, one call after the other. So the rows
of a SELECT's FROM (and of the part of its WHERE that calls nothing) are put into a temporary table first; the
arguments of each call are read from it, sent in batches, several in flight, and the results become a column
that takes the call's place. A call that depends on another one's result waits for it, and a call in a branch
of CASE, IFF or COALESCE is made only for the rows that take that branch.

Where that can't be done (a correlated subquery, an UPDATE, an argument that is an aggregate), the call is
left in place, and DuckDB makes it while the query runs: the same rows, in more requests.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import duckdb
import pyarrow as pa  # type: ignore[import-untyped]
from sqlglot import exp

from stepflake.snowflake.bound_calls import CALL, Calls, is_call, number_of, without_numbers
from stepflake.snowflake.client import ExternalFunction, ExternalFunctionError
from stepflake.snowflake.select_tree import (
    conditions_of,
    guard_of,
    hide,
    move_join_conditions,
    nested_queries,
    own_calls,
    own_nodes,
    source_nodes,
    stars,
)
from stepflake.snowflake.types import from_text

# The arguments of a call's rows as JSON texts, None for a row that isn't to be called; the results' texts.
CallRows = Callable[[ExternalFunction, Iterable[str | None]], list[str | None]]

_FETCHED_ROWS = 1 << 16


@dataclass(frozen=True)
class _Source:
    """One table of a FROM. `columns`: their names."""

    alias: str
    columns: tuple[str, ...]


class Stager:
    """Stages the calls of one statement; `close` drops the temporary tables."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, calls: Calls, call_rows: CallRows) -> None:
        self._connection = connection
        self.calls = calls
        self._call_rows = call_rows
        self._tables: list[str] = []
        self._columns = itertools.count(1)

    def close(self) -> None:
        """Drop what staging left behind."""
        for table in self._tables:
            self._connection.execute(f"DROP TABLE IF EXISTS {table}")
        self._tables.clear()

    def stage(self, statement: exp.Expr) -> None:
        """Make the calls of the statement's queries, and put their results in their place."""
        if isinstance(statement, exp.Insert) or (
            isinstance(statement, exp.Create) and statement.args.get("kind") == "TABLE"
        ):
            with_ = statement.args.get("with_")
            query = statement.expression
            if isinstance(query, exp.Query):
                self._stage_query(query, list(with_.expressions) if with_ else [])
        elif isinstance(statement, exp.Query):
            self._stage_query(statement, [])

    def _stage_query(self, query: exp.Expr, visible: list[exp.CTE]) -> None:
        with_ = query.args.get("with_")
        visible = list(visible)
        ctes: list[exp.CTE] = with_.expressions if with_ else []
        for cte in ctes:
            if not any(table.name == cte.alias for table in cte.this.find_all(exp.Table)):
                self._stage_query(cte.this, visible)
            if any(map(is_call, cte.this.walk())):
                cte.set("materialized", True)
            visible.append(cte)
        if isinstance(query, exp.SetOperation):
            self._stage_query(query.this, visible)
            self._stage_query(query.expression, visible)
        elif isinstance(query, exp.Subquery):
            self._stage_query(query.this, visible)
        elif isinstance(query, exp.Select):
            self._stage_flattened(query, visible)
            for source in source_nodes(query):
                if isinstance(source, exp.Subquery):
                    self._stage_query(source.this, visible)
            for nested in list(nested_queries(query)):
                self._stage_query(nested, visible)
            _StagedSelect(self, query, visible).run()

    def _stage_flattened(self, select: exp.Select, visible: list[exp.CTE]) -> None:
        """`FROM t, LATERAL FLATTEN(f(t.a))`: the call is made for the rows of `t`, in a subquery."""
        sources = source_nodes(select)
        calls = [call for other in sources[1:] for call in own_calls(other)]
        first = sources[0] if calls else select
        if not calls or not first.alias_or_name or isinstance(first, exp.Subquery):
            return
        names = [f"__STEPFLAKE_{next(self._columns)}" for _ in calls]
        inner = exp.select("*").from_(first.copy())
        where = select.args.get("where")
        for condition in conditions_of(where.this) if where else []:
            if not any(own_calls(condition)) and self._binds(inner.where(condition), visible):
                inner = inner.where(condition)
        inner = inner.select(
            *(exp.alias_(c.copy(), n, quoted=True) for c, n in zip(calls, names, strict=True))
        )
        if not self._binds(inner, visible):
            return
        alias = exp.to_identifier(first.alias_or_name, quoted=True)
        for call, name in zip(calls, names, strict=True):
            call.replace(exp.column(name, table=alias, quoted=True))
        for star in stars(select):
            if not isinstance(star.parent, exp.Column) or star.parent.table == alias.name:
                hide(star, names)
        first.replace(exp.Subquery(this=inner, alias=exp.TableAlias(this=alias)))

    def _binds(self, query: exp.Select, visible: list[exp.CTE]) -> bool:
        try:
            self.columns(query, visible)
        except duckdb.Error:
            return False
        return True

    # What a staged SELECT needs of the database

    def _sql(self, query: exp.Select, visible: list[exp.CTE]) -> str:
        query = query.copy()
        if visible:
            query.set("with_", exp.With(expressions=[cte.copy() for cte in visible]))
        return self.calls.render(query)

    def columns(self, query: exp.Select, visible: list[exp.CTE]) -> tuple[str, ...]:
        """The names of a query's columns. Raises duckdb.Error where it doesn't bind."""
        return tuple(
            row[0] for row in self._connection.execute("DESCRIBE " + self._sql(query, visible)).fetchall()
        )

    def table(self, query: exp.Select, visible: list[exp.CTE]) -> str:
        """The name of a new temporary table with the query's rows."""
        return self._create(self._sql(query, visible))

    def called(self, call: exp.Expr, rows: exp.Select, table: str, visible: list[exp.CTE]) -> tuple[str, str]:
        """A new table with one more column, the call's result for each row; its name and the column's."""
        function = self.calls.function(call)
        texts = self._call_rows(function, self._fetch(self._sql(rows, visible)))
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


class _StagedSelect:
    """The staging of one SELECT, whose subqueries are done."""

    def __init__(self, stager: Stager, select: exp.Select, visible: list[exp.CTE]) -> None:
        self._stager = stager
        self._select = select
        self._visible = visible
        self._table = ""
        self._sources: list[_Source] = []
        self._later: list[exp.Expr] = []

    def run(self) -> None:
        select = self._select
        if not any(map(is_call, own_nodes(select))) or not select.args.get("from_"):
            return
        move_join_conditions(select)
        if not self._can_be_staged() or not self._find_sources():
            return
        self._share_group_keys()
        self._share_immutable_calls()
        wanted = [call for call in own_calls(select) if self._is_of_rows(call)]
        if not wanted:
            return
        numbers = {number_of(call) for call in wanted}
        if len(self._sources) > 1:
            self._qualify()
        if not self._make_base():
            return
        in_where = {number_of(c) for condition in self._later for c in own_calls(condition)}
        self._call_all(numbers & in_where)
        self._filter()
        self._call_all(numbers)
        self._finish()

    def _can_be_staged(self) -> bool:
        joins = self._select.args.get("joins") or []
        return not (
            self._select.args.get("pivots")
            or self._select.args.get("connect")
            or any(j.args.get("kind") in ("SEMI", "ANTI") or j.args.get("method") for j in joins)
            or (any(j.args.get("using") for j in joins) and any(stars(self._select)))
        )

    def _find_sources(self) -> bool:
        """What the FROM has; whether it binds on its own, which a correlated subquery's doesn't."""
        nodes = source_nodes(self._select)
        aliases = [node.alias_or_name for node in nodes]
        try:
            if len(nodes) == 1:
                self._sources = [_Source(aliases[0], self._stager.columns(self._base("*"), self._visible))]
                return True
            if not all(aliases) or len({alias.upper() for alias in aliases}) < len(aliases):
                return False
            for alias in aliases:
                star = exp.Column(this=exp.Star(), table=exp.to_identifier(alias, quoted=True))
                self._sources.append(_Source(alias, self._stager.columns(self._base(star), self._visible)))
            # Columns of several sources are renamed, and those of a correlated subquery can't be told.
            for nested in nested_queries(self._select):
                if isinstance(nested, exp.Select):
                    self._stager.columns(nested, self._visible)
        except duckdb.Error:
            return False
        return True

    def _base(self, *projections: exp.Expr | str) -> exp.Select:
        base = exp.select(*projections)
        for clause in ("from_", "joins", "laterals"):
            given = self._select.args.get(clause)
            if given:
                base.set(clause, [g.copy() for g in given] if isinstance(given, list) else given.copy())
        return base

    def _is_of_rows(self, call: exp.Expr) -> bool:
        """Whether the call's arguments are known before anything is grouped."""
        if any(isinstance(node, exp.AggFunc | exp.Window) for node in call.walk()):
            return False
        if call.find_ancestor(exp.Lambda):
            return False
        if not self._is_aggregated():
            return True
        window = call.find_ancestor(exp.Window)
        return window is None and (call.find_ancestor(exp.AggFunc) is not None or self._is_in_group_key(call))

    def _is_aggregated(self) -> bool:
        return bool(self._select.args.get("group")) or any(
            isinstance(node, exp.AggFunc) and not isinstance(node.parent, exp.Window | exp.IgnoreNulls)
            for node in own_nodes(self._select)
        )

    def _is_in_group_key(self, call: exp.Expr) -> bool:
        group = self._select.args.get("group")
        keys = group.expressions if group else []
        if any(number_of(call) == number_of(c) for key in keys for c in own_calls(key)):
            return True
        for number, projection in enumerate(self._select.expressions, 1):
            if call in list(projection.walk()):
                return any(
                    (key.is_int and int(key.name) == number)
                    or (isinstance(key, exp.Column) and not key.table and key.name == projection.alias)
                    for key in keys
                )
        return False

    def _share_group_keys(self) -> None:
        """`SELECT f(a) ... GROUP BY f(a)` means one call, not two."""
        group = self._select.args.get("group")
        keys = {
            without_numbers(key): key for key in (group.expressions if group else []) if any(own_calls(key))
        }
        if not keys:
            return
        for node in list(own_nodes(self._select)):
            key = keys.get(without_numbers(node)) if isinstance(node, exp.Expr) else None
            if key is not None and key is not node and not node.find_ancestor(exp.Group):
                node.replace(key.copy())

    def _share_immutable_calls(self) -> None:
        """The same call of an IMMUTABLE function is made once."""
        first: dict[str, exp.Expr] = {}
        for call in own_calls(self._select):
            if self._stager.calls.function(call).immutable:
                known = first.setdefault(without_numbers(call), call)
                call.expressions[0].replace(known.expressions[0].copy())

    # Names

    def _qualify(self) -> None:
        """Give every column of one source that has no table its table, and spell out stars."""
        for node in list(own_nodes(self._select)):
            if isinstance(node, exp.Column) and not node.table and not isinstance(node.this, exp.Star):
                owners = [s.alias for s in self._sources if _has(s.columns, node.name)]
                if owners:
                    node.set("table", exp.to_identifier(owners[0], quoted=True))
        projections = []
        for projection in self._select.expressions:
            if isinstance(projection, exp.Star):
                for source in self._sources:
                    star = projection.copy()
                    projections.append(
                        exp.Column(this=star, table=exp.to_identifier(source.alias, quoted=True))
                    )
            else:
                projections.append(projection)
        self._select.set("expressions", projections)

    def _is_alias(self, node: exp.Expr) -> exp.Expr | None:
        """The projection that an unqualified name stands for where no source has such a column."""
        if (
            not isinstance(node, exp.Column)
            or node.table
            or any(_has(s.columns, node.name) for s in self._sources)
        ):
            return None
        for projection in self._select.expressions:
            if isinstance(projection, exp.Alias) and projection.alias.upper() == node.name.upper():
                found: exp.Expr = projection.this
                return found
        return None

    def _without_aliases(self, expression: exp.Expr) -> exp.Expr:
        holder = exp.Paren(this=expression.copy())
        for _ in self._select.expressions:
            aliased = [
                (node, found) for node in own_nodes(holder) if (found := self._is_alias(node)) is not None
            ]
            if not aliased:
                break
            for node, found in aliased:
                node.replace(exp.Paren(this=found.copy()))
        plain: exp.Expr = holder.this
        return plain

    # Steps

    def _make_base(self) -> bool:
        """The table with the rows that the calls are made for; whether it can be made."""
        if len(self._sources) == 1:
            base = self._base("*")
        else:
            base = self._base(*(_struct(source) for source in self._sources))
        where = self._select.args.get("where")
        now: list[exp.Expr] = []
        for condition in conditions_of(where.this) if where else []:
            plain = self._without_aliases(condition)
            (self._later if any(map(is_call, plain.walk())) else now).append(plain)
        if now:
            base = base.where(*now)
        limited = self._limit(base)
        try:
            self._table = self._stager.table(base, self._visible)
        except duckdb.Error:
            # A correlated condition; or one that fails, as it will again where DuckDB can say so.
            return False
        for clause in limited:
            self._select.set(clause, None)
        return True

    def _limit(self, base: exp.Select) -> list[str]:
        """With a LIMIT and nothing between it and the rows, only those rows are sent: the clauses moved."""
        select = self._select
        limit = select.args.get("limit")
        order = select.args.get("order")
        between = [select.args.get(name) for name in ("distinct", "group", "having", "qualify")]
        if (
            not limit
            or any(between)
            or self._later
            or self._is_aggregated()
            or any(isinstance(node, exp.Window) for node in own_nodes(select))
        ):
            return []
        if order:
            columns = [n for n in order.walk() if isinstance(n, exp.Column)]
            simple = all(isinstance(key.this, exp.Column) for key in order.expressions)
            if not simple or not all(any(_has(s.columns, c.name) for s in self._sources) for c in columns):
                return []
            if any(p.alias.upper() == c.name.upper() for p in select.expressions if p.alias for c in columns):
                return []
        moved = [clause for clause in ("order", "limit", "offset") if select.args.get(clause)]
        for clause in moved:
            base.set(clause, select.args[clause].copy())
        return moved

    def _rows(self, *projections: exp.Expr | str) -> exp.Select:
        """A query over the staged table, under the name that expressions know it by."""
        return exp.select(*projections).from_(self._staged_table())

    def _staged_table(self) -> exp.Table:
        table = exp.to_table(self._table)
        if len(self._sources) == 1 and self._sources[0].alias:
            table.set("alias", exp.TableAlias(this=exp.to_identifier(self._sources[0].alias, quoted=True)))
        return table

    def _call_all(self, numbers: set[int]) -> None:
        """Make these calls, those first that depend on no other."""
        left = set(numbers)
        while True:
            found = {number_of(c): c for c in self._open_calls() if number_of(c) in left}
            ready = [
                (call, guard, row)
                for call in found.values()
                if (row := self._ready_row(call)) is not None
                and (guard := self._ready_guard(call)) is not None
            ]
            if not ready:
                return
            for call, guard, row in ready:
                left.discard(number_of(call))
                guarded = row if not guard else exp.Case(ifs=[exp.If(this=exp.and_(*guard), true=row)])
                query = self._rows(guarded)
                try:
                    self._stager.columns(query, self._visible)
                except duckdb.Error:
                    continue
                self._table, column = self._stager.called(call, query, self._table, self._visible)
                self._put(number_of(call), column)

    def _open_calls(self) -> Iterator[exp.Expr]:
        yield from own_calls(self._select)
        for condition in self._later:
            yield from own_calls(condition)

    def _ready_row(self, call: exp.Expr) -> exp.Expr | None:
        arguments = [self._without_aliases(argument) for argument in call.expressions[1:]]
        if any(is_call(node) for argument in arguments for node in argument.walk()):
            return None
        plain = exp.Anonymous(this=CALL, expressions=[call.expressions[0].copy(), *arguments])
        return self._stager.calls.row(plain)

    def _ready_guard(self, call: exp.Expr) -> list[exp.Expr] | None:
        """The conditions under which the call's value is used; None while they wait for another call."""
        conditions = [self._without_aliases(condition) for condition in guard_of(call)]
        if any(is_call(node) for condition in conditions for node in condition.walk()):
            return None
        return conditions

    def _put(self, number: int, column: str) -> None:
        roots = [self._select, *(exp.Paren(this=condition) for condition in self._later)]
        for root in roots:
            for node in [n for n in own_nodes(root) if is_call(n) and number_of(n) == number]:
                node.replace(exp.column(column, quoted=True))
        self._later = [root.this for root in roots[1:]]

    def _filter(self) -> None:
        """Drop the rows that a WHERE with calls refuses, before the other calls are made."""
        done = [c for c in self._later if not any(map(is_call, c.walk()))]
        if done:
            self._table = self._stager.table(self._rows("*").where(*done), self._visible)
            self._later = [c for c in self._later if c not in done]

    def _finish(self) -> None:
        """The SELECT over the staged table."""
        select = self._select
        if len(self._sources) == 1:
            added = [
                c for c in self._stager.columns(self._rows("*"), []) if c not in self._sources[0].columns
            ]
            for star in stars(select):
                hide(star, added)
        select.set("from_", exp.From(this=self._staged_table()))
        select.set("joins", None)
        select.set("laterals", None)
        select.set("where", exp.Where(this=exp.and_(*self._later)) if self._later else None)


def _has(columns: Iterable[str], name: str) -> bool:
    return name.upper() in (column.upper() for column in columns)


def _struct(source: _Source) -> exp.Expr:
    table = exp.to_identifier(source.alias, quoted=True)
    fields = [
        exp.PropertyEQ(
            this=exp.to_identifier(c, quoted=True), expression=exp.column(c, table=table, quoted=True)
        )
        for c in source.columns
    ]
    return exp.alias_(exp.Struct(expressions=fields), source.alias, quoted=True)
