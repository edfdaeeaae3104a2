"""Snowflake's SQL with external functions, against a service on loopback."""

import datetime
import re
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from botocore.credentials import Credentials

from stepflake.snowflake.client import ExternalFunction, SnowflakeClient
from stepflake.snowflake.session import Session, SqlError
from tests.unit.snowflake.remote_service import RemoteService, serve

TABLES = """
    create table t(id int, a string);
    insert into t values (1, 'hello'), (2, 'x'), (3, null), (4, 'yy');
    create table u(id int, b string);
    insert into u values (1, 'one'), (2, 'two'), (2, 'zwei');
"""


def answer(path: str, arguments: list[Any]) -> Any:
    """What the remote functions of these tests do."""
    name = path.rsplit("/", 1)[1]
    first = arguments[0] if arguments else None
    if name == "echo":
        return arguments
    if name == "fail":
        raise ValueError(first)
    if first is None:
        return None
    functions: dict[str, Callable[[Any], Any]] = {
        "up": str.upper,
        "inc": lambda x: x + 1,
        "even": lambda x: x % 2 == 0,
        "same": lambda x: x,
        "score": lambda x: {"Positive": len(x) / 10, "text": x, "items": [len(x), x]},
    }
    return functions[name](first)


def functions(url: str) -> list[ExternalFunction]:
    def declared(name: str, kind: str, returns: str, **options: Any) -> ExternalFunction:
        return ExternalFunction(name.upper(), f"{url}/{name}", (("X", kind),), returns, **options)

    return [
        declared("up", "VARCHAR", "VARCHAR"),
        declared("inc", "NUMBER(38, 0)", "NUMBER(38, 0)"),
        declared("even", "NUMBER(38, 0)", "BOOLEAN"),
        declared("score", "VARCHAR", "VARIANT"),
        declared("fail", "VARCHAR", "VARCHAR"),
        *(
            ExternalFunction(
                "ECHO", f"{url}/echo", tuple((f"A{n}", "VARIANT") for n in range(count)), "ARRAY"
            )
            for count in range(5)
        ),
    ]


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[RemoteService, SnowflakeClient]]:
    with serve() as service, SnowflakeClient(Credentials("a", "b"), "eu-west-1") as client:
        yield service, client


@pytest.fixture
def service(running: tuple[RemoteService, SnowflakeClient]) -> RemoteService:
    service = running[0]
    service.function = answer
    service.requests.clear()
    service.script.clear()
    service.together = None
    service.most_at_once = 0
    return service


@pytest.fixture
def empty(service: RemoteService, running: tuple[RemoteService, SnowflakeClient]) -> Iterator[Session]:
    with Session(running[1]) as session:
        yield session


@pytest.fixture
def session(service: RemoteService, running: tuple[RemoteService, SnowflakeClient]) -> Iterator[Session]:
    with Session(running[1], functions(service.url)) as session:
        session.execute(TABLES)
        yield session


def batches(service: RemoteService) -> list[tuple[str, int]]:
    """The requests that were sent: function and rows."""
    return sorted((r.path[1:], len(r.rows)) for r in service.requests if r.method == "POST")


@pytest.mark.parametrize(
    ("query", "rows", "sent"),
    [
        # In the SELECT list
        ("select id, up(a) from t", [(1, "HELLO"), (2, "X"), (3, None), (4, "YY")], [("up", 4)]),
        ("select *, up(a) from t where id < 2", [(1, "hello", "HELLO")], [("up", 1)]),
        ("select t.*, UP(t.a) as r from t where id < 2", [(1, "hello", "HELLO")], [("up", 1)]),
        ("select db.public.up(a) from t where id = 1", [("HELLO",)], [("up", 1)]),
        ('select "UP"(a) from t where id = 1', [("HELLO",)], [("up", 1)]),
        ("select up('a')", [("A",)], [("up", 1)]),
        ("select distinct even(id) e from t order by e", [(False,), (True,)], [("even", 4)]),
        # Paths into a VARIANT
        ("select score(a):Positive::float from t", [(0.5,), (0.1,), (None,), (0.2,)], [("score", 4)]),
        ("select score(a):text::string from t where id = 1", [("hello",)], [("score", 1)]),
        ("select score(a):items[0]::int from t where id = 1", [(5,)], [("score", 1)]),
        ("select score(a)['text'] from t where id = 1", [("hello",)], [("score", 1)]),
        ("select id from t where score(a)['text'] = 'x'", [(2,)], [("score", 4)]),
        ("select echo(id, a)[1]::string, [id, 7][1] from t where id = 1", [("hello", 7)], [("echo", 1)]),
        ("select score(a)::string from t where id = 3", [(None,)], [("score", 1)]),
        ("select id from t where score(a):text = 'x'", [(2,)], [("score", 4)]),
        ("select id from t where score(a):Positive > 0.15", [(1,), (4,)], [("score", 4)]),
        ("select score(a):Positive * 10 from t where id = 1", [(5.0,)], [("score", 1)]),
        ("select 'is ' || score(a):text from t where id = 1", [("is hello",)], [("score", 1)]),
        (
            "select f.index, f.value from t, lateral flatten(echo(id, a)) f where t.id = 1 order by 1",
            [(0, 1), (1, "hello")],
            [("echo", 1)],
        ),
        (
            "with s as (select score(a) v from t where id = 1) "
            "select f.key from s, table(flatten(input => s.v, path => 'items', outer => true)) f",
            [(None,), (None,)],
            [("score", 1)],
        ),
        # In the WHERE, which is evaluated first
        ("select id from t where even(id)", [(2,), (4,)], [("even", 4)]),
        ("select up(a) from t where even(id) and a <> 'x'", [("YY",)], [("even", 2), ("up", 1)]),
        ("select id from t where up(a) in ('X', 'YY')", [(2,), (4,)], [("up", 4)]),
        ("select up(a) as r from t where r = 'X'", [("X",)], [("up", 4)]),
        ("select id from t where even(id) and up(a) = 'X'", [(2,)], [("even", 4), ("up", 2)]),
        ("select count(*) from t where even(id)", [(2,)], [("even", 4)]),
        # One on the result of another
        ("select up(up(a)) from t where id < 3", [("HELLO",), ("X",)], [("up", 2), ("up", 2)]),
        ("select inc(id) n, inc(n) m from t", [(2, 3), (3, 4), (4, 5), (5, 6)], [("inc", 4), ("inc", 4)]),
        # Joins
        (
            "select t.id, up(b), a from t join u on t.id = u.id order by t.id, b",
            [(1, "ONE", "hello"), (2, "TWO", "x"), (2, "ZWEI", "x")],
            [("up", 3)],
        ),
        (
            "select *, up(b) from t join u on t.id = u.id where a = 'hello'",
            [(1, "hello", 1, "one", "ONE")],
            [("up", 1)],
        ),
        ("select id, up(b) from t join u using (id) where id = 1", [(1, "ONE")], [("up", 1)]),
        ("select up(b) from t left join u on t.id = u.id where t.id > 2", [(None,), (None,)], [("up", 2)]),
        ("select t.id from t join u on t.id = u.id and up(b) = 'TWO'", [(2,)], [("up", 3)]),
        (
            "select up(t.a) from t, u x where t.id = x.id and up(x.b) = 'ONE'",
            [("HELLO",)],
            [("up", 1), ("up", 3)],
        ),
        (
            "select t.id, up(b) r, up(r) from t join u on t.id = u.id where r = 'ONE'",
            [(1, "ONE", "ONE")],
            [("up", 1), ("up", 3)],
        ),
        (
            "select even(t.id), count(*) from t join u on t.id = u.id group by even(t.id) order by 1",
            [(False, 1), (True, 2)],
            [("even", 3)],
        ),
        ("select t.id, up(a) r, r || b from t join u on t.id = u.id limit 1", None, [("up", 1)]),
        # CTEs and subqueries
        (
            "with c as (select up(a) r from t) select up(r) from c where r = 'X'",
            [("X",)],
            [("up", 1), ("up", 4)],
        ),
        (
            "with c as (select id, up(a) r from t) select count(*) from c x join c y using (id)",
            [(4,)],
            [("up", 4)],
        ),
        ("select * from (select up(a) r from t) where r like 'H%'", [("HELLO",)], [("up", 4)]),
        ("select id from t where id in (select inc(id) from u)", [(2,), (3,)], [("inc", 3)]),
        ("select up((select max(b) from u)) from t where id = 1", [("ZWEI",)], [("up", 1)]),
        ("select up(a) from t union all select up(b) from u", None, [("up", 3), ("up", 4)]),
        # Groups and windows
        ("select avg(score(a):Positive) from t where id < 3", [(0.3,)], [("score", 2)]),
        (
            "select even(id), count(*) from t group by even(id) order by 1",
            [(False, 2), (True, 2)],
            [("even", 4)],
        ),
        ("select even(id) e, count(*) from t group by e order by e", [(False, 2), (True, 2)], [("even", 4)]),
        ("select even(id) e, count(*) from t group by 1 order by 1", [(False, 2), (True, 2)], [("even", 4)]),
        ("select sum(inc(id)) over (order by id) from t", [(2,), (5,), (9,), (14,)], [("inc", 4)]),
        ("select up(a) r from t qualify row_number() over (order by r) = 1", [("HELLO",)], [("up", 4)]),
        ("select listagg(up(a), ',') within group (order by id) from t", [("HELLO,X,YY",)], [("up", 4)]),
        # Branches
        (
            "select iff(a is null, 'none', up(a)) from t",
            [("HELLO",), ("X",), ("none",), ("YY",)],
            [("up", 3)],
        ),
        ("select coalesce(a, up('none')) from t", [("hello",), ("x",), ("NONE",), ("yy",)], [("up", 1)]),
        ("select nvl2(a, up(a), 'none') from t where id > 2", [("none",), ("YY",)], [("up", 1)]),
        (
            "select case when id > 9 then fail('no') when even(id) then 'even' else up(a) end from t",
            [("HELLO",), ("even",), (None,), ("even",)],
            [("even", 4), ("up", 2)],
        ),
        (
            "select case id when 1 then up(a) when 2 then 'two' end from t where id < 3",
            [("HELLO",), ("two",)],
            [("up", 1)],
        ),
        ("select sum(iff(even(id), inc(id), 0)) from t", [(8,)], [("even", 4), ("inc", 2)]),
        # A LIMIT on the rows of the FROM: only those are sent
        ("select up(a) from t limit 1", [("HELLO",)], [("up", 1)]),
        ("select up(a) from t order by id desc limit 1", [("YY",)], [("up", 1)]),
        ("select up(a) from t order by id limit 1 offset 1", [("X",)], [("up", 1)]),
        ("select up(a) r from t order by r limit 1", [("HELLO",)], [("up", 4)]),
        ("select distinct even(id) from t where id in (1, 3) limit 2", [(False,)], [("even", 2)]),
        ("select id, even(id) e from t where e limit 1", [(2, True)], [("even", 4)]),
        # No rows, no requests
        ("select up(a) from t where id > 9", [], []),
        ("select count(up(a)) from t where false", [(0,)], []),
    ],
)
def test_calls_are_made_in_every_part_of_a_query(
    service: RemoteService, session: Session, query: str, rows: list[tuple[Any, ...]] | None, sent: list[Any]
) -> None:
    (result,) = session.execute(query)
    if rows is not None:
        assert [tuple(round(v, 9) if isinstance(v, float) else v for v in row) for row in result.rows] == rows
    assert batches(service) == sorted(sent)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("select up(max(a)) from t", [("YY",)]),
        ("select even(id) from t group by id having even(id) order by id", [(True,), (True,)]),
        ("select (select max(up(b)) from u where u.id = t.id) from t where id = 1", [("ONE",)]),
        ("select id from t where exists (select 1 from u where u.id = t.id and up(u.b) = 'TWO')", [(2,)]),
        (
            "select t.id, u.b from t left join u on t.id = u.id and up(b) = 'TWO' where t.id < 3 order by 1",
            [(1, None), (2, "two")],
        ),
        (
            "with recursive c as (select 1 n union all select inc(n) from c where n < 3) select n from c",
            [(1,), (2,), (3,)],
        ),
        ("select transform([1, 2], x -> inc(x))", [([2, 3],)]),
        ("update t set a = up(a) where id = 1; select a from t where id = 1", [("HELLO",)]),
        ("delete from t where even(id); select id from t", [(1,), (3,)]),
        ("create view v as select up(a) r from t where id = 1; select r from v", [("HELLO",)]),
        (
            "merge into u using (select 1 id, up('k') k) s on u.id = s.id "
            "when matched then update set b = s.k;"
            "select b from u where id = 1",
            [("K",)],
        ),
        ("insert into u values (7, up('k')); select b from u where id = 7", [("K",)]),
    ],
)
def test_calls_that_are_not_staged_are_made_by_duckdb(
    session: Session, query: str, rows: list[tuple[Any, ...]]
) -> None:
    assert session.execute(query)[-1].rows == rows


@pytest.mark.parametrize(
    "statement",
    [
        "create or replace table z as select id, up(a) r from t",
        "create table z(id int, r string); insert into z select id, up(a) from t",
        "create table z(id int, r string); insert into z with c as (select * from t) select id, up(a) from c",
    ],
)
def test_results_can_be_stored(service: RemoteService, session: Session, statement: str) -> None:
    session.execute(statement)
    assert batches(service) == [("up", 4)]
    assert session.execute("select r from z order by id")[0].rows == [("HELLO",), ("X",), (None,), ("YY",)]


def test_columns_are_named_as_snowflake_names_them(session: Session) -> None:
    (result,) = session.execute('select id, up(a), score(a):Positive::float, a as "as Is", up(a) r from t')
    assert result.columns == ("ID", "UP(A)", "SCORE(A):POSITIVE::FLOAT", "as Is", "R")


def test_full_batches_are_sent_in_parallel_and_rows_keep_their_order(
    service: RemoteService, session: Session
) -> None:
    service.together = threading.Barrier(3)
    (result,) = session.execute("select seq4() n, inc(n) from table(generator(rowcount => 10000))")
    assert result.rows == [(n, n + 1) for n in range(10000)]
    assert batches(service) == [("inc", 1808), ("inc", 4096), ("inc", 4096)]
    assert service.most_at_once == 3


def test_every_call_of_a_query_has_its_own_batch_ids(service: RemoteService, session: Session) -> None:
    (result,) = session.execute("select up(a), up(a) from t")
    ids = {r.headers["sf-external-function-query-batch-id"] for r in service.requests}
    assert ids == {f"{result.query_id}:1:1:0:0", f"{result.query_id}:2:1:0:0"}


def test_values_keep_all_their_digits(service: RemoteService, session: Session) -> None:
    (result,) = session.execute("""
        select echo(12345678901234567890123456789012345678, 1.10, -0.5::float, null),
               echo('ü"\n', true, object_construct('k', array_construct(1.5, 2.25)), ''),
               echo(to_date('2024-02-29'), '12:30:00'::time, '2024-02-29 12:30:00.5'::timestamp),
               inc(12345678901234567890123456789012345677)
    """)
    assert [[str(v) for v in row[0:3]] for row in result.rows[0][0:1]] == [
        ["12345678901234567890123456789012345678", "1.10", "-0.5"]
    ]
    assert result.rows[0][1:] == (
        ['ü"\n', True, {"k": [Decimal("1.5"), Decimal("2.25")]}, ""],
        ["2024-02-29", "12:30:00", "2024-02-29 12:30:00.5"],
        12345678901234567890123456789012345678,
    )
    assert b"1.10" in service.requests[0].body


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("NUMBER(38, 2)", "1.5", (Decimal("1.50"), Decimal("1.50"))),
        ("INT", "7", (7, 7)),
        ("FLOAT", "1.5", (Decimal("1.5"), 1.5)),
        ("BOOLEAN", "true", (True, True)),
        ("VARCHAR", "5", ("5", "5")),
        ("DATE", "'2024-02-29'", ("2024-02-29", datetime.date(2024, 2, 29))),
        ("TIME", "'12:30:01'", ("12:30:01", datetime.time(12, 30, 1))),
        (
            "TIMESTAMP_NTZ",
            "'2024-02-29 12:30:01'",
            ("2024-02-29 12:30:01", datetime.datetime(2024, 2, 29, 12, 30, 1)),
        ),
        ("BINARY", "to_binary('4142', 'HEX')", ("4142", b"AB")),
        ("OBJECT", "object_construct('a', 1)", ({"a": 1}, {"a": 1})),
        ("ARRAY", "array_construct(1, 2)", ([1, 2], [1, 2])),
        ("VARIANT", "'text'", ("text", "text")),
    ],
)
def test_each_type_is_what_snowflake_sends_and_takes(
    service: RemoteService, empty: Session, kind: str, value: str, expected: tuple[Any, Any]
) -> None:
    sent, returned = expected
    empty.execute(declaration(service, f"same(x {kind})", kind))
    (result,) = empty.execute(f"select same({value}) as v, same(null) as n")
    assert service.rows_sent("same") == [[sent], [None]]
    assert result.rows == [(returned, None)]
    assert type(result.rows[0][0]) is type(returned)


@pytest.mark.parametrize(
    ("kind", "value"), [("OBJECT", [1]), ("ARRAY", {"a": 1}), ("NUMBER(38, 0)", "many"), ("DATE", 5)]
)
def test_a_value_of_another_type_is_an_error(
    service: RemoteService, empty: Session, kind: str, value: Any
) -> None:
    service.function = lambda _path, _arguments: value
    empty.execute(declaration(service, "same()", kind))
    with pytest.raises(SqlError, match=f"External function SAME returns {re.escape(kind)}"):
        empty.execute("create table t as select 1 x; select same() from t")


def declaration(service: RemoteService, signature: str, returns: str, options: str = "") -> str:
    name = signature.split("(", maxsplit=1)[0].lower()
    return f"""
        create api integration if not exists api api_provider = aws_api_gateway
          api_aws_role_arn = 'arn:aws:iam::1:role/r' api_allowed_prefixes = ('{service.url}/') enabled = true;
        create external function {signature} returns {returns} api_integration = api {options}
          as '{service.url}/{name}';
    """


def test_options_of_the_declaration_are_used(service: RemoteService, empty: Session) -> None:
    options = """headers = ('mode' = 'detached') context_headers = (current_statement)
        max_batch_rows = 2 compression = none"""
    empty.execute(declaration(service, "up(x varchar)", "varchar", options))
    empty.execute("create table t(a string); insert into t values ('a'), ('b'), ('c')")
    statement = "select up(a) from t"
    assert empty.execute(statement)[0].rows == [("A",), ("B",), ("C",)]
    assert batches(service) == [("up", 1), ("up", 2)]
    headers = service.requests[0].headers
    assert headers["sf-custom-mode"] == "detached"
    assert headers["sf-context-current-statement"] == statement
    assert "content-encoding" not in headers


def test_null_on_null_input_is_not_sent(service: RemoteService, empty: Session) -> None:
    empty.execute(declaration(service, "same(x int)", "int", "returns null on null input"))
    query = "select same($1), column1 from (values (1), (null), (3))"
    assert empty.execute(query)[0].rows == [(1, 1), (None, None), (3, 3)]
    assert service.rows_sent("same") == [[1], [3]]


def test_the_same_call_of_an_immutable_function_is_made_once(service: RemoteService, empty: Session) -> None:
    empty.execute(declaration(service, "up(x varchar)", "varchar", "immutable"))
    empty.execute("create table t(a string); insert into t values ('a')")
    assert empty.execute("select up(a), up(a) || '!' from t")[0].rows == [("A", "A!")]
    assert batches(service) == [("up", 1)]


def test_the_same_immutable_call_in_a_branch_does_not_decide_for_the_others(
    service: RemoteService, empty: Session
) -> None:
    empty.execute(declaration(service, "up(x varchar)", "varchar", "immutable"))
    empty.execute("create table t(a string); insert into t values ('a'), ('b')")
    query = "select up(a), iff(a = 'b', up(a), 'other') from t"
    assert empty.execute(query)[0].rows == [("A", "other"), ("B", "B")]


def test_flatten_sends_each_row_once(service: RemoteService, session: Session) -> None:
    query = """
        select t.id, f.value, f.this from t, lateral flatten(input => score(a), path => 'items') f
        where t.id < 3 order by t.id, f.index
    """
    assert session.execute(query)[0].rows == [
        (1, 5, [5, "hello"]),
        (1, "hello", [5, "hello"]),
        (2, 1, [1, "x"]),
        (2, "x", [1, "x"]),
    ]
    assert sorted(service.rows_sent("score")) == [["hello"], ["x"]]


def test_a_limit_ends_the_calls_of_a_where(service: RemoteService, session: Session) -> None:
    query = "select seq4() n from table(generator(rowcount => 10000)) where even(n) limit 2"
    assert session.execute(query)[0].rows == [(0,), (2,)]
    assert sum(rows for _, rows in batches(service)) < 10000


def test_overloads_are_chosen_by_the_number_of_arguments(session: Session) -> None:
    assert session.execute("select echo(), echo(1), echo(1, 2)")[0].rows == [([], [1], [1, 2])]
    with pytest.raises(SqlError, match=r"UP is called with 2 arguments, but is UP\(X VARCHAR\)"):
        session.execute("select up('a', 'b')")


def test_a_function_that_fails_shows_what_snowflake_shows(session: Session) -> None:
    message = (
        "Request failed for external function FAIL with remote service error: "
        '400 \'{"error": "Refused", "message": "hello"}\''
    )
    for query in ("select fail(a) from t where id = 1", "select fail(min(a)) from t"):
        with pytest.raises(SqlError) as raised:
            session.execute(query)
        assert str(raised.value) == message
    # The session can be used further.
    assert session.execute("select up('a')")[0].rows == [("A",)]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("select 1;\nselect a frm t where", "line 2, column 14"),
        ("select 'a", "1:7"),
        ("select 1;\n\nselect nosuch(a) from t", "at line 3"),
        ("select nosuch(a) from t", "External functions that are declared: ECHO, EVEN, FAIL, INC, SCORE, UP"),
        ("select * from nosuch", "NOSUCH"),
        ("select inc(a) from t", "hello"),
        ("call p()", "not something this can run"),
        ("create function g(x int) returns int as 'x + 1'", "EXTERNAL FUNCTION"),
        ("select * from t, lateral flatten(input => t.a, recursive => true)", "recursive"),
        (
            "create external function f() returns variant api_integration = no as 'https://x'",
            "'NO' does not exist",
        ),
    ],
)
def test_errors_say_where_and_what(session: Session, script: str, message: str) -> None:
    with pytest.raises(SqlError, match=re.escape(message)):
        session.execute(script)


def test_a_syntax_error_anywhere_stops_the_script_before_it_starts(session: Session) -> None:
    with pytest.raises(SqlError):
        session.execute("delete from t; select from where")
    assert session.execute("select count(*) from t")[0].rows == [(4,)]


def test_an_integration_guards_its_prefixes(service: RemoteService, empty: Session) -> None:
    empty.execute(declaration(service, "up(x varchar)", "varchar"))
    create = "create external function {} returns variant api_integration = api as '{}'"
    with pytest.raises(SqlError, match="not allowed by API integration 'API'"):
        empty.execute(create.format("g()", "https://elsewhere/g"))
    with pytest.raises(SqlError, match="already exists; use CREATE OR REPLACE"):
        empty.execute(create.format("up(y string)", f"{service.url}/up"))
    with pytest.raises(SqlError, match="Snowflake's own functions"):
        empty.execute(create.format("upper(y string)", f"{service.url}/up"))
    empty.execute(create.format("up(y string)", f"{service.url}/same").replace("create", "create or replace"))
    assert empty.execute("select up('a')")[0].rows == [("a",)]


def test_a_disabled_integration_is_refused(service: RemoteService, empty: Session) -> None:
    with pytest.raises(SqlError, match="not enabled"):
        empty.execute(declaration(service, "f()", "variant").replace("enabled = true", "enabled = false"))


def test_a_dropped_function_is_gone(session: Session) -> None:
    assert session.execute("drop function up(varchar)")[0].message == "UP successfully dropped."
    with pytest.raises(SqlError, match="does not exist"):
        session.execute("select up('a')")
    with pytest.raises(SqlError, match=r"'UP\(.*\)' does not exist"):
        session.execute("drop function up(varchar)")
    session.execute("drop function if exists up(varchar)")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("create table x(a int)", "Table X successfully created."),
        ("insert into u values (8, 'eight')", "1 row inserted."),
        ("update u set b = 'two' where id = 2", "2 rows updated."),
        ("delete from u", "3 rows deleted."),
        ("drop table u", "Table U successfully dropped."),
        ("use role accountadmin", "Statement executed successfully."),
        ("alter session set timezone = 'UTC'", "Statement executed successfully."),
        ("grant usage on integration i to role r", "Statement executed successfully."),
    ],
)
def test_statements_without_rows_say_what_they_did(session: Session, statement: str, message: str) -> None:
    (result,) = session.execute(statement + ";")
    assert (result.columns, result.rows, result.message) == ((), [], message)


def test_staging_leaves_no_tables(session: Session) -> None:
    session.execute("select up(a) from t where even(id)")
    with pytest.raises(SqlError):
        session.execute("select fail(a) from t")
    assert session.execute("show tables")[0].rows == [("T",), ("U",)]
