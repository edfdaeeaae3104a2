"""External function calls of a query, made before the query runs, so that rows are sent in full batches.

DuckDB calls a Python function with at most 2,048 rows at a time, and waits for each call. Here the rows of a
SELECT's FROM go into a temporary table, the arguments of each call are read from it and sent in batches, many
in parallel, and the results become a column that replaces the call.

What isn't staged is called by DuckDB while the query runs: the same rows, in more requests, one after the
other. That is a call in a correlated subquery, in an UPDATE, in FLATTEN, in a join's ON, or with an aggregate
as its argument.
"""

from sqlglot import exp

from stepflake.snowflake.select_tree import has_calls, nested_queries, source_nodes
from stepflake.snowflake.staged_select import stage_select
from stepflake.snowflake.staging_tables import StagingTables


def stage(statement: exp.Expr, tables: StagingTables) -> None:
    """Make the calls in the queries of a SELECT, an INSERT or a CREATE TABLE, and replace them by columns."""
    if isinstance(statement, exp.Query):
        _stage_query(statement, [], tables)
    elif isinstance(statement, exp.Insert) or (
        isinstance(statement, exp.Create) and statement.args.get("kind") == "TABLE"
    ):
        ctes = _stage_ctes(statement, [], tables)
        if isinstance(statement.expression, exp.Query):
            _stage_query(statement.expression, ctes, tables)


def _stage_query(query: exp.Expr, ctes: list[exp.CTE], tables: StagingTables) -> None:
    """Stage a query from the inside out. `ctes`: those of the queries around it."""
    ctes = _stage_ctes(query, ctes, tables)
    if isinstance(query, exp.SetOperation):
        inner = [query.this, query.expression]
    elif isinstance(query, exp.Subquery):
        inner = [query.this]
    elif isinstance(query, exp.Select):
        subqueries = [node.this for node in source_nodes(query) if isinstance(node, exp.Subquery)]
        inner = [*subqueries, *nested_queries(query)]
    else:
        inner = []
    for each in inner:
        _stage_query(each, ctes, tables)
    if isinstance(query, exp.Select):
        stage_select(query, ctes, tables)


def _stage_ctes(node: exp.Expr, outer: list[exp.CTE], tables: StagingTables) -> list[exp.CTE]:
    """Stage the node's own CTEs; all CTEs that its query can refer to."""
    with_ = node.args.get("with_")
    ctes = list(outer)
    for cte in with_.expressions if with_ else []:
        is_recursive = any(table.name == cte.alias for table in cte.this.find_all(exp.Table))
        if not is_recursive:
            _stage_query(cte.this, ctes, tables)
        if has_calls(cte.this):
            # Otherwise DuckDB may run the CTE, and so its calls, once for each reference.
            cte.set("materialized", True)
        ctes.append(cte)
    return ctes
