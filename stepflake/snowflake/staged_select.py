"""The staging of one SELECT: its rows in a table, each of its calls made for them, the SELECT over the table.

A call that has another one in its arguments waits for it. A call in a branch of CASE, IFF or COALESCE is made
only for the rows that take that branch.
"""

from collections.abc import Iterable

import duckdb
from sqlglot import exp

from stepflake.snowflake.bound_calls import Calls, number_of, without_numbers
from stepflake.snowflake.select_names import SelectNames, source_star
from stepflake.snowflake.select_tree import (
    conditions_of,
    guard_of,
    has_calls,
    hide,
    is_called_per_row,
    is_limit_of_rows,
    is_ordered_by_columns,
    nested_queries,
    own_calls,
    set_conditions,
    share_group_keys,
    source_nodes,
    stars,
)
from stepflake.snowflake.staging_tables import StagingTables


def stage_select(select: exp.Select, ctes: list[exp.CTE], tables: StagingTables) -> None:
    """Stage a SELECT whose subqueries are staged; calls that can't be made yet stay in it."""
    share_group_keys(select)
    if not any(own_calls(select)) or not _can_be_staged(select):
        return
    base = _Base(select, ctes, tables)
    names = base.find_names()
    if names is None or base.is_left_to_duckdb():
        return
    _share_immutable_calls(select, tables.calls)
    numbers = {number_of(call) for call in own_calls(select) if is_called_per_row(select, call)}
    if len(names.sources) > 1:
        names.qualify()
    table = base.create_table(names) if numbers else None
    if table:
        _StagedSelect(base, names, table).run(numbers)


def _can_be_staged(select: exp.Select) -> bool:
    """Whether the FROM is one that a query with other projections can have."""
    joins = select.args.get("joins") or []
    return not (
        not select.args.get("from_")
        or select.args.get("pivots")
        or select.args.get("connect")
        or any(j.args.get("kind") in ("SEMI", "ANTI") or j.args.get("method") for j in joins)
        or (any(j.args.get("using") for j in joins) and stars(select))
    )


def _share_immutable_calls(select: exp.Select, calls: Calls) -> None:
    """The same call of an IMMUTABLE function under the same conditions is made once."""
    first: dict[tuple[str, ...], exp.Expr] = {}
    for call in own_calls(select):
        if calls.function(call).immutable:
            known = first.setdefault(tuple(map(without_numbers, [call, *guard_of(call)])), call)
            call.expressions[0].replace(known.expressions[0].copy())


class _Base:
    """A SELECT's FROM, and the table that is made of its rows."""

    def __init__(self, select: exp.Select, ctes: list[exp.CTE], tables: StagingTables) -> None:
        self.select = select
        self.tables = tables
        self._ctes = ctes

    def with_ctes(self, query: exp.Select) -> exp.Select:
        """A copy of a query that sees the CTEs that the SELECT sees."""
        query = query.copy()
        if self._ctes:
            query.set("with_", exp.With(expressions=[cte.copy() for cte in self._ctes]))
        return query

    def columns(self, query: exp.Select) -> tuple[str, ...]:
        """As StagingTables.columns, with the CTEs."""
        return self.tables.columns(self.with_ctes(query))

    def find_names(self) -> SelectNames | None:
        """The sources and their columns; None where the FROM doesn't bind on its own (a correlated query).

        Several sources become columns of one table, a STRUCT each. Nested queries couldn't refer to them, so
        those must bind on their own as well.
        """
        aliases = [node.alias_or_name for node in source_nodes(self.select)]
        is_joined = len(aliases) > 1
        if is_joined and (not all(aliases) or len({alias.upper() for alias in aliases}) < len(aliases)):
            return None
        try:
            sources = {
                alias: self.columns(self._rows(source_star(alias) if is_joined else "*")) for alias in aliases
            }
            for nested in nested_queries(self.select) if is_joined else ():
                if isinstance(nested, exp.Select):
                    self.columns(nested)
        except duckdb.Error:
            return None
        return SelectNames(self.select, sources)

    def is_left_to_duckdb(self) -> bool:
        """Whether a LIMIT follows a WHERE with calls: DuckDB stops calling once it has enough rows.

        DuckDB refuses references to the alias of a call; a SELECT with one is staged, and all its rows sent.
        """
        where, order = self.select.args.get("where"), self.select.args.get("order")
        if not where or order or not has_calls(where) or not is_limit_of_rows(self.select):
            return False
        try:
            self.columns(self.select)
        except duckdb.Error:
            return False
        return True

    def create_table(self, names: SelectNames) -> str | None:
        """A table of the rows that calls are made for; None where its query can't run on its own.

        Conditions without calls are applied here and removed from the SELECT. So are LIMIT and OFFSET if no
        call decides which rows they keep: then only those rows are sent.
        """
        where = self.select.args.get("where")
        conditions = [names.without_aliases(c) for c in conditions_of(where.this)] if where else []
        later = [c for c in conditions if has_calls(c)]
        structs = [_struct(alias, columns) for alias, columns in names.sources.items()]
        query = self._rows(*(structs if len(structs) > 1 else ["*"]))
        query = query.where(*(c for c in conditions if not has_calls(c)))
        is_limited = not later and is_limit_of_rows(self.select) and is_ordered_by_columns(self.select)
        if is_limited:
            _copy_clauses(self.select, query, ("order", "limit", "offset"))
        try:
            table = self.tables.create(self.with_ctes(query))
        except duckdb.Error:
            # A correlated condition, or an error that DuckDB reports when it runs the SELECT itself.
            return None
        if is_limited:
            self.select.set("limit", None)
            self.select.set("offset", None)
        set_conditions(self.select, later)
        return table

    def _rows(self, *projections: exp.Expr | str) -> exp.Select:
        query = exp.select(*projections)
        _copy_clauses(self.select, query, ("from_", "joins", "laterals"))
        return query


class _StagedSelect:
    """A SELECT whose rows are in `table`; each call's results become one more column."""

    def __init__(self, base: _Base, names: SelectNames, table: str) -> None:
        self._base = base
        self._select = base.select
        self._tables = base.tables
        self._names = names
        self._table = table
        self._added: list[str] = []

    def run(self, numbers: set[int]) -> None:
        """Make the calls with these numbers, those in the WHERE first, and put the SELECT over the table."""
        where = self._select.args.get("where")
        for condition in conditions_of(where.this) if where else []:
            self._make_calls(numbers & {number_of(call) for call in own_calls(condition)})
            self._filter()
        self._make_calls(numbers)
        self._replace_from()

    def _make_calls(self, numbers: set[int]) -> None:
        """Make these calls, first those that depend on no other."""
        left = set(numbers)
        while ready := self._ready(left):
            for number, row in ready.items():
                left.discard(number)
                rows = self._query(row)
                try:
                    self._base.columns(rows)
                except duckdb.Error:
                    # It refers to an outer query, so DuckDB must make the call.
                    continue
                self._table, column = self._tables.add_results(
                    self._table, number, self._base.with_ctes(rows)
                )
                self._added.append(column)
                self._replace_call(number, column)

    def _ready(self, numbers: set[int]) -> dict[int, exp.Expr]:
        """Those of these calls whose arguments have no other call in them, with `_row`'s expression."""
        calls = {number_of(call): call for call in own_calls(self._select)}
        rows = {number: self._row(call) for number, call in calls.items() if number in numbers}
        return {number: row for number, row in rows.items() if row is not None}

    def _row(self, call: exp.Expr) -> exp.Expr | None:
        """The arguments' JSON, NULL for rows that don't need the call; None while it waits for another."""
        arguments = [self._names.without_aliases(argument) for argument in call.expressions[1:]]
        guard = [self._names.without_aliases(condition) for condition in guard_of(call)]
        if any(map(has_calls, [*arguments, *guard])):
            return None
        row = self._tables.calls.row(number_of(call), arguments)
        return exp.Case(ifs=[exp.If(this=exp.and_(*guard), true=row)]) if guard else row

    def _replace_call(self, number: int, column: str) -> None:
        for call in own_calls(self._select):
            if number_of(call) == number:
                call.replace(exp.column(column, quoted=True))

    def _filter(self) -> None:
        """Apply the conditions that have no calls left, so that further calls are made for fewer rows."""
        where = self._select.args.get("where")
        conditions = conditions_of(where.this) if where else []
        known = [c for c in conditions if not has_calls(c)]
        if known:
            query = self._query("*").where(*known)
            self._table = self._tables.create(self._base.with_ctes(query))
            set_conditions(self._select, [c for c in conditions if has_calls(c)])

    def _replace_from(self) -> None:
        if len(self._names.sources) == 1:
            for star in stars(self._select):
                hide(star, self._added)
        self._select.set("from_", exp.From(this=self._staged_table()))
        self._select.set("joins", None)
        self._select.set("laterals", None)

    def _query(self, projection: exp.Expr | str) -> exp.Select:
        """A query over the table, under the name by which expressions refer to it."""
        return exp.select(projection).from_(self._staged_table())

    def _staged_table(self) -> exp.Table:
        table = exp.to_table(self._table)
        (alias, *others) = self._names.sources
        if alias and not others:
            table.set("alias", exp.TableAlias(this=exp.to_identifier(alias, quoted=True)))
        return table


def _copy_clauses(source: exp.Select, target: exp.Select, clauses: Iterable[str]) -> None:
    for clause in clauses:
        given = source.args.get(clause)
        if given:
            target.set(clause, [g.copy() for g in given] if isinstance(given, list) else given.copy())


def _struct(alias: str, columns: Iterable[str]) -> exp.Expr:
    """A source's row as one column with the source's name, so that `alias.column` still refers to it."""
    fields = [
        exp.PropertyEQ(
            this=exp.to_identifier(c, quoted=True), expression=exp.column(c, table=alias, quoted=True)
        )
        for c in columns
    ]
    return exp.alias_(exp.Struct(expressions=fields), alias, quoted=True)
