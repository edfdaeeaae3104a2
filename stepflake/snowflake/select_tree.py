"""Questions about the syntax tree of one SELECT: its sources, calls, conditions, groups and branches."""

from collections.abc import Iterable, Iterator, Sequence

from sqlglot import exp

from stepflake.snowflake.bound_calls import is_call, number_of, without_numbers

_CLAUSES = ("distinct", "expressions", "where", "group", "having", "qualify", "windows", "order")


def source_nodes(select: exp.Select) -> list[exp.Expr]:
    """The tables, subqueries and laterals of a SELECT's FROM, in order."""
    from_ = select.args.get("from_")
    joins = [join.this for join in select.args.get("joins") or []]
    return [*([from_.this] if from_ else []), *joins, *(select.args.get("laterals") or [])]


def own_nodes(root: exp.Expr) -> Iterator[exp.Expr]:
    """The nodes of an expression, or of a SELECT's clauses except FROM, without those of nested queries."""
    if isinstance(root, exp.Select):
        starts = []
        for clause in _CLAUSES:
            given = root.args.get(clause)
            starts += given if isinstance(given, list) else [given] if given else []
    else:
        starts = [root]
    for start in starts:
        yield from start.walk(prune=lambda node: isinstance(node, exp.Query))


def own_calls(root: exp.Expr) -> Iterator[exp.Expr]:
    """The calls among `own_nodes`; they may be replaced during the iteration."""
    return (node for node in list(own_nodes(root)) if is_call(node))


def has_calls(root: exp.Expr) -> bool:
    """Whether there is a call in it, in nested queries too."""
    return any(map(is_call, root.walk()))


def nested_queries(select: exp.Select) -> Iterator[exp.Expr]:
    """The outermost queries in a SELECT's clauses except FROM."""
    return (node for node in own_nodes(select) if isinstance(node, exp.Query))


def stars(select: exp.Select) -> list[exp.Star]:
    """The `*` and `t.*` of the SELECT list."""
    found = []
    for projection in select.expressions:
        star = projection.this if isinstance(projection, exp.Column) else projection
        if isinstance(star, exp.Star):
            found.append(star)
    return found


def hide(star: exp.Star, names: Iterable[str]) -> None:
    """Exclude columns from a star."""
    hidden = [exp.column(name, quoted=True) for name in names]
    star.set("except_", [*(star.args.get("except_") or []), *hidden])


def conditions_of(condition: exp.Expr) -> list[exp.Expr]:
    """The operands of a condition's ANDs."""
    plain = condition.unnest()
    return list(plain.flatten()) if isinstance(plain, exp.And) else [plain]


def set_conditions(select: exp.Select, conditions: Sequence[exp.Expr]) -> None:
    """Make these the SELECT's WHERE."""
    select.set("where", exp.Where(this=exp.and_(*conditions)) if conditions else None)


def is_limit_of_rows(select: exp.Select) -> bool:
    """Whether a LIMIT counts the rows of FROM and WHERE: no grouping, DISTINCT or window in between."""
    between = ("distinct", "group", "having", "qualify")
    return bool(
        select.args.get("limit")
        and not any(select.args.get(clause) for clause in between)
        and not is_aggregated(select)
        and not any(isinstance(node, exp.Window) for node in own_nodes(select))
    )


def is_ordered_by_columns(select: exp.Select) -> bool:
    """Whether an ORDER BY, if any, has only columns of the FROM: no aliases, positions or expressions."""
    order = select.args.get("order")
    aliases = [projection.alias.upper() for projection in select.expressions]
    return not order or all(
        isinstance(key.this, exp.Column) and key.this.name.upper() not in aliases for key in order.expressions
    )


def is_aggregated(select: exp.Select) -> bool:
    """Whether its result has a row for each group."""
    return bool(select.args.get("group")) or any(
        isinstance(node, exp.AggFunc) and not isinstance(node.parent, exp.Window | exp.IgnoreNulls)
        for node in own_nodes(select)
    )


def is_called_per_row(select: exp.Select, call: exp.Expr) -> bool:
    """Whether the arguments of one of the SELECT's calls are known before rows are grouped."""
    if _is_inside(call, exp.Lambda) or any(
        isinstance(node, exp.AggFunc | exp.Window) for node in own_nodes(call)
    ):
        return False
    if not is_aggregated(select) or _is_inside(call, exp.Where):
        return True
    return not _is_inside(call, exp.Window) and (
        _is_inside(call, exp.AggFunc) or number_of(call) in _grouped_calls(select)
    )


def share_group_keys(select: exp.Select) -> None:
    """Make one call of the two in `SELECT f(a) ... GROUP BY f(a)`."""
    group = select.args.get("group")
    keys = {without_numbers(key): key for key in (group.expressions if group else []) if any(own_calls(key))}
    if not keys:
        return
    for node in list(own_nodes(select)):
        key = keys.get(without_numbers(node))
        if key is not None and key is not node and not _is_inside(node, exp.Group):
            node.replace(key.copy())


def _is_inside(node: exp.Expr, kind: type[exp.Expr]) -> bool:
    """Whether a node of this kind is around it, in the same SELECT."""
    return isinstance(node.find_ancestor(kind, exp.Query), kind)


def _grouped_calls(select: exp.Select) -> set[int]:
    """The numbers of the calls in GROUP BY; its keys may be positions or aliases of the SELECT list."""
    group = select.args.get("group")
    keys = group.expressions if group else []
    names = {key.name for key in keys if key.is_int or (isinstance(key, exp.Column) and not key.table)}
    projections = [p for number, p in enumerate(select.expressions, 1) if {str(number), p.alias} & names]
    return {number_of(call) for each in [*keys, *projections] for call in own_calls(each)}


def guard_of(call: exp.Expr) -> list[exp.Expr]:
    """The conditions under which a call's value is used: of the CASE, IFF, COALESCE and NVL2 around it."""
    conditions: list[exp.Expr] = []
    node: exp.Expr = call
    parent = call.parent
    while parent is not None and not isinstance(parent, exp.Query):
        if isinstance(parent, exp.If):
            conditions += _branch_conditions(parent, node.arg_key)
        elif isinstance(parent, exp.Case) and node.arg_key == "default":
            conditions += [_is_not(_case_condition(parent, each)) for each in parent.args["ifs"]]
        elif isinstance(parent, exp.Coalesce) and node is not parent.this:
            before = parent.expressions[: _position(node, parent.expressions)]
            conditions += [_is_null(each) for each in [parent.this, *before]]
        elif isinstance(parent, exp.Nvl2) and node is not parent.this:
            absent = _is_null(parent.this)
            conditions.append(absent if node.arg_key == "false" else exp.not_(absent))
        node, parent = parent, parent.parent
    return conditions


def _branch_conditions(branch: exp.If, part: str | None) -> list[exp.Expr]:
    """The conditions under which one part of an IFF, or of one WHEN of a CASE, is used."""
    if isinstance(branch.parent, exp.Case):
        case = branch.parent
        ifs = case.args["ifs"]
        earlier = [_is_not(_case_condition(case, each)) for each in ifs[: _position(branch, ifs)]]
        return [*earlier, _case_condition(case, branch)] if part == "true" else earlier
    if part == "true":
        return [branch.this.copy()]
    return [_is_not(branch.this.copy())] if part == "false" else []


def _position(node: exp.Expr, nodes: Sequence[exp.Expr]) -> int:
    return next(number for number, each in enumerate(nodes) if each is node)


def _is_null(value: exp.Expr) -> exp.Expr:
    return exp.Is(this=exp.Paren(this=value.copy()), expression=exp.Null())


def _case_condition(case: exp.Case, branch: exp.If) -> exp.Expr:
    if case.this:
        return exp.EQ(this=exp.Paren(this=case.this.copy()), expression=exp.Paren(this=branch.this.copy()))
    return exp.Paren(this=branch.this.copy())


def _is_not(condition: exp.Expr) -> exp.Expr:
    """NOT, with NULL as false."""
    return exp.not_(exp.Coalesce(this=condition, expressions=[exp.false()]))
