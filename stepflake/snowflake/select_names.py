"""What the names in one SELECT stand for: columns of its sources, or aliases of its SELECT list."""

from collections.abc import Iterable, Mapping, Sequence

from sqlglot import exp

from stepflake.snowflake.select_tree import own_nodes


class SelectNames:
    """`sources`: the alias of each source of the FROM, and the names of its columns."""

    def __init__(self, select: exp.Select, sources: Mapping[str, Sequence[str]]) -> None:
        self._select = select
        self.sources = sources

    def qualify(self) -> None:
        """Give every column without a table its source's alias, and write `*` as one star for each source."""
        for node in list(own_nodes(self._select)):
            if isinstance(node, exp.Column) and not node.table and (source := self._source_of(node)):
                node.set("table", exp.to_identifier(source, quoted=True))
        projections: list[exp.Expr] = []
        for projection in self._select.expressions:
            if isinstance(projection, exp.Star):
                projections += [source_star(source, projection) for source in self.sources]
            else:
                projections.append(projection)
        self._select.set("expressions", projections)

    def without_aliases(self, expression: exp.Expr) -> exp.Expr:
        """A copy in which the SELECT list's aliases are replaced by what they stand for."""
        holder = exp.Paren(this=expression.copy())
        # An alias may refer to another one; the bound ends a circular reference.
        for _ in self._select.expressions:
            aliased = [(node, found) for node in own_nodes(holder) if (found := self._aliased(node))]
            if not aliased:
                break
            for node, found in aliased:
                node.replace(exp.Paren(this=found.copy()))
        plain: exp.Expr = holder.this
        return plain

    def _source_of(self, column: exp.Column) -> str | None:
        return next((alias for alias, columns in self.sources.items() if _has(columns, column.name)), None)

    def _aliased(self, node: exp.Expr) -> exp.Expr | None:
        """The expression behind an alias; a column of the same name goes first, as in Snowflake."""
        if not isinstance(node, exp.Column) or node.table or self._source_of(node):
            return None
        for projection in self._select.expressions:
            if isinstance(projection, exp.Alias) and projection.alias.upper() == node.name.upper():
                found: exp.Expr = projection.this
                return found
        return None


def source_star(alias: str, star: exp.Star | None = None) -> exp.Column:
    """`alias.*`, with what `star` leaves out."""
    return exp.Column(this=star.copy() if star else exp.Star(), table=exp.to_identifier(alias, quoted=True))


def _has(columns: Iterable[str], name: str) -> bool:
    return name.upper() in (column.upper() for column in columns)
