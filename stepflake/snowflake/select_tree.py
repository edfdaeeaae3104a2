"""What is where in a SELECT: its sources, the nodes and calls of its own clauses, conditions and branches."""

from collections.abc import Iterable, Iterator, Sequence

from sqlglot import exp

from stepflake.snowflake.bound_calls import is_call

_CLAUSES = ("distinct", "expressions", "where", "group", "having", "qualify", "windows", "order")


def source_nodes(select: exp.Select) -> list[exp.Expr]:
    """The tables, subqueries and laterals of a SELECT's FROM, in order."""
    from_ = select.args.get("from_")
    joins = [join.this for join in select.args.get("joins") or []]
    return [*([from_.this] if from_ else []), *joins, *(select.args.get("laterals") or [])]


def own_nodes(root: exp.Expr) -> Iterator[exp.Expr]:
    """The nodes of an expression, or of a SELECT's clauses but its FROM, without those of nested queries."""
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
    """The calls among `own_nodes`; the tree may change while they are gone through."""
    return (node for node in list(own_nodes(root)) if is_call(node))


def nested_queries(select: exp.Select) -> Iterator[exp.Expr]:
    """The outermost queries in a SELECT's clauses but its FROM."""
    return (node for node in own_nodes(select) if isinstance(node, exp.Query))


def stars(select: exp.Select) -> list[exp.Star]:
    """The stars in the SELECT list, those with a table too."""
    found = []
    for projection in select.expressions:
        star = projection.this if isinstance(projection, exp.Column) else projection
        if isinstance(star, exp.Star):
            found.append(star)
    return found


def hide(star: exp.Star, names: Iterable[str]) -> None:
    """Leave columns out of a star."""
    hidden = [exp.column(name, quoted=True) for name in names]
    star.set("except_", [*(star.args.get("except_") or []), *hidden])


def move_join_conditions(select: exp.Select) -> None:
    """An inner join's conditions with calls are the WHERE's as well."""
    for join in select.args.get("joins") or []:
        on = join.args.get("on")
        if on is None or join.args.get("side") or not any(own_calls(on)):
            continue
        conditions = conditions_of(on)
        stay = [c.copy() for c in conditions if not any(own_calls(c))]
        select.where(*(c.copy() for c in conditions if any(own_calls(c))), copy=False)
        join.set("on", exp.and_(*stay) if stay else exp.true())


def conditions_of(condition: exp.Expr) -> list[exp.Expr]:
    """The parts of a condition that AND joins."""
    plain = condition.unnest()
    return list(plain.flatten()) if isinstance(plain, exp.And) else [plain]


def guard_of(call: exp.Expr) -> list[exp.Expr]:
    """The conditions on the way from a call up to its clause: branches of CASE, IFF, COALESCE and NVL2."""
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
    """When a part of IFF, or of one WHEN of a CASE, is needed."""
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
    """NOT, where an unknown condition isn't true either."""
    return exp.not_(exp.Coalesce(this=condition, expressions=[exp.false()]))
