"""Rewrites Snowflake's SQL for DuckDB where sqlglot's own translation is not enough."""

from collections.abc import Sequence

from sqlglot import exp
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlglot.tokenizer_core import Token, TokenType

from stepflake.snowflake.types import JSON_MACRO, TEXT_MACRO, duckdb_type, is_semi_structured, text

FLATTEN_MACRO = "__stepflake_flatten"

# Created in DuckDB before any translated statement runs. FLATTEN uses `x` once: it may call a function.
MACROS = f"""
CREATE OR REPLACE TEMP MACRO {TEXT_MACRO}(x) AS
  CASE WHEN typeof(x) = 'JSON' THEN to_json(x) ->> '$' ELSE CAST(x AS VARCHAR) END;
CREATE OR REPLACE TEMP MACRO {JSON_MACRO}(x) AS
  CASE WHEN typeof(x) LIKE 'DECIMAL%' THEN CAST(x AS VARCHAR) ELSE CAST(to_json(x) AS VARCHAR) END;
CREATE OR REPLACE TEMP MACRO {FLATTEN_MACRO}(x) AS TABLE
  SELECT 1 AS "SEQ", CASE json_type(json) WHEN 'OBJECT' THEN key END AS "KEY", fullkey[3:] AS "PATH",
    CASE json_type(json) WHEN 'ARRAY' THEN CAST(key AS INTEGER) END AS "INDEX",
    value AS "VALUE", json AS "THIS"
  FROM json_each(to_json(x));
"""  # noqa: S608

_COMPARISONS = (
    exp.EQ,
    exp.NEQ,
    exp.GT,
    exp.GTE,
    exp.LT,
    exp.LTE,
    exp.Like,
    exp.ILike,
    exp.In,
    exp.NullSafeEQ,
)
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.Neg, exp.Sum, exp.Avg, exp.Abs, exp.Round)


class UnsupportedError(Exception):
    """SQL that Snowflake runs and this doesn't; the message says what."""


def prepare(statement: exp.Expr, tokens: Sequence[Token], script: str) -> exp.Expr:
    """The statement with names and column titles as in Snowflake, and its functions as DuckDB's."""
    _name_projections(statement, tokens, script)
    statement = normalize_identifiers(statement, dialect="snowflake")
    for table in list(statement.find_all(exp.Lateral, exp.TableFromRows)):
        if isinstance(table.this, exp.Explode):
            _flatten(table, table.this)
        elif isinstance(table.this, exp.Generator):
            _number_rows(table)
    for values in list(statement.find_all(exp.Values)):
        if isinstance(values.parent, exp.From | exp.Join):
            _name_values(values)
    for bracket in reversed(list(statement.find_all(exp.Bracket))):
        if len(bracket.expressions) == 1:
            bracket.replace(_element(bracket.this, bracket.expressions[0]))
    for path in list(statement.find_all(exp.JSONExtract)):
        _read_variant(path)
    return statement.transform(_translate, copy=False)


def _translate(node: exp.Expr) -> exp.Expr:
    if isinstance(node, exp.Cast) and not isinstance(node.this, exp.Literal | exp.Null):
        if is_semi_structured(node.to):
            return _call("to_json", node.this)
        if node.to.this in exp.DataType.TEXT_TYPES:
            return text(node.this)
    elif isinstance(node, exp.ToChar) and node.args.get("format") is None:
        return text(node.this)
    elif isinstance(node, exp.DataType) and is_semi_structured(node):
        return duckdb_type(node)
    elif isinstance(node, exp.Parameter) and node.this.is_int:
        return exp.column(f"COLUMN{node.name}", quoted=True)
    return node


def _element(array: exp.Expr, index: exp.Expr) -> exp.Expr:
    """`v[0]` and `v['key']`: elements of arrays and objects are VARIANTs, counted from 0."""
    if index.is_int:
        index = exp.Literal.string(f"$[{index.name}]")
    return exp.JSONExtract(this=_call("to_json", array), expression=index.copy(), variant_extract=True)


def _read_variant(node: exp.JSONExtract) -> None:
    """A path into a VARIANT: text in a comparison with text, a number in arithmetic."""
    parent = node.parent
    if not node.args.get("variant_extract") or parent is None:
        return
    if isinstance(parent, _COMPARISONS):
        if any(operand.is_string for operand in parent.iter_expressions()):
            node.replace(exp.JSONExtractScalar(this=node.this, expression=node.expression))
    elif isinstance(parent, exp.DPipe | exp.Concat):
        node.replace(exp.JSONExtractScalar(this=node.this, expression=node.expression))
    elif isinstance(parent, _ARITHMETIC):
        node.replace(exp.cast(node.copy(), exp.DataType.Type.DOUBLE))


def _flatten(node: exp.Expr, explode: exp.Explode) -> None:
    """LATERAL FLATTEN(...) and TABLE(FLATTEN(...)) as a table macro over json_each."""
    given = {"input": explode.this}
    if isinstance(explode.this, exp.Kwarg):
        given = {}
    for argument in [explode.this, *explode.expressions]:
        if isinstance(argument, exp.Kwarg):
            given[argument.this.name.lower()] = argument.expression
    unknown = set(given) - {"input", "path", "outer"}
    if unknown or "input" not in given:
        raise UnsupportedError(f"FLATTEN takes INPUT, PATH and OUTER here, not {', '.join(sorted(unknown))}")
    values = given["input"].copy()
    if "path" in given:
        values = exp.JSONExtract(this=values, expression=exp.Literal.string("$." + given["path"].name))
    alias = node.args.get("alias")
    table = exp.Table(this=_call(FLATTEN_MACRO, values), alias=alias.copy() if alias else None)
    outer = "outer" in given and given["outer"].this is True
    if isinstance(node.parent, exp.Join):
        node.parent.set("side", "LEFT" if outer else None)
        if outer:
            node.parent.set("on", exp.true())
    node.replace(table)


def _number_rows(generator: exp.Expr) -> None:
    """SEQ4() over TABLE(GENERATOR(...)) becomes the column of DuckDB's RANGE."""
    select = generator.find_ancestor(exp.Select)
    for node in list(select.find_all(exp.Seq1, exp.Seq2, exp.Seq4, exp.Seq8)) if select else []:
        node.replace(exp.column("range", quoted=True))


def _name_values(values: exp.Values) -> None:
    """The columns of FROM VALUES without names are COLUMN1, COLUMN2, ..."""
    alias = values.args.get("alias") or exp.TableAlias(this=exp.to_identifier("VALUES", quoted=True))
    if not alias.args.get("columns"):
        width = len(values.expressions[0].expressions)
        alias.set("columns", [exp.to_identifier(f"COLUMN{n + 1}", quoted=True) for n in range(width)])
    values.set("alias", alias)


def _name_projections(statement: exp.Expr, tokens: Sequence[Token], script: str) -> None:
    """Give each projection without alias its text in upper case as name, as Snowflake does."""
    for select in list(statement.find_all(exp.Select)):
        texts = _projection_texts(tokens, script) if select is statement else []
        for number, projection in enumerate(select.expressions):
            if isinstance(projection, exp.Alias | exp.Column | exp.Star | exp.Aliases):
                continue
            written = texts[number] if len(texts) == len(select.expressions) else projection.sql("snowflake")
            alias = exp.to_identifier(" ".join(written.split()).upper(), quoted=True)
            select.expressions[number].replace(exp.Alias(this=projection.copy(), alias=alias))


def _projection_texts(tokens: Sequence[Token], script: str) -> list[str]:
    """The text of each projection of a statement that starts with SELECT."""
    if not tokens or tokens[0].token_type != TokenType.SELECT:
        return []
    first = 2 if len(tokens) > 1 and tokens[1].token_type in (TokenType.DISTINCT, TokenType.ALL) else 1
    depth, texts, start = 0, [], first
    for number, token in enumerate([*tokens[first:], None], first):
        kind = token.token_type if token else TokenType.FROM
        depth += (kind in _OPENING) - (kind in _CLOSING)
        ends = kind == TokenType.FROM and depth == 0
        if (kind == TokenType.COMMA and depth == 0) or ends:
            if number > start:
                texts.append(script[tokens[start].start : tokens[number - 1].end + 1])
            start = number + 1
        if ends:
            break
    return texts


_OPENING = (TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE)
_CLOSING = (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE)


def _call(name: str, *arguments: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this=name, expressions=[argument.copy() for argument in arguments])
