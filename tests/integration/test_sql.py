"""SQL answered by the real stack: client, API, state machine, Lambdas."""

import re
from collections.abc import Iterator
from decimal import Decimal

import pytest

from stepflake.commands.ddl import LOCAL_ROLE_ARN
from stepflake.snowflake.client import Batch, SnowflakeClient
from stepflake.snowflake.ddl import api_integration, script, stack_functions
from stepflake.snowflake.session import Session, SqlError, session_on
from stepflake.stack import Stack


@pytest.fixture
def batches() -> dict[str, Batch]:
    return {}


@pytest.fixture
def session(stack: Stack, batches: dict[str, Batch]) -> Iterator[Session]:
    def watch(batch: Batch) -> None:
        batches[batch.id] = batch

    with session_on(stack, watch) as opened:
        yield opened


def test_a_text_is_scored_by_a_lambda(session: Session, batches: dict[str, Batch]) -> None:
    *_, result = session.execute("""
        create table test_tb(a string);
        insert into test_tb values ('hello world'), ('I am happy'), (null);
        select ext_func_async(a) from test_tb;
    """)
    assert result.columns == ("EXT_FUNC_ASYNC(A)",)
    neutral, happy, nothing = (row[0] for row in result.rows)
    assert set(neutral) == {"Positive", "Negative", "Neutral", "Mixed"}
    assert happy["Positive"] > neutral["Positive"]
    assert nothing is None
    (batch,) = batches.values()
    assert (batch.rows, batch.state, batch.statuses[-1]) == (3, "done", 200)


def test_values_are_returned_unchanged(session: Session) -> None:
    (result,) = session.execute("""
        select echo(12345678901234567890123456789012345678, 1.10, 'ü\n"', null, true, '',
                    parse_json('{"a": [1, {}]}'))
    """)
    (value,) = result.rows[0]
    assert value == [
        12345678901234567890123456789012345678,
        Decimal("1.10"),
        'ü\n"',
        None,
        True,
        "",
        {"a": [1, {}]},
    ]
    assert str(value[1]) == "1.10"


def test_a_large_table_is_sent_in_several_batches_and_keeps_its_order(
    session: Session, batches: dict[str, Batch]
) -> None:
    (result,) = session.execute("select seq4() n, echo(n)[0]::int from table(generator(rowcount => 9000))")
    assert result.rows == [(n, n) for n in range(9000)]
    assert sorted(batch.rows for batch in batches.values()) == [808, 4096, 4096]


def test_a_result_that_is_not_ready_for_the_post_is_polled_for(
    session: Session, batches: dict[str, Batch]
) -> None:
    assert session.execute("select sleep(2.5)")[0].rows == [(2.5,)]
    (batch,) = batches.values()
    assert batch.statuses[0] == 202
    assert batch.statuses[-1] == 200


def test_an_error_in_a_function_reaches_the_sql_user(session: Session) -> None:
    with pytest.raises(SqlError, match=re.escape("Request failed for external function FAIL")) as raised:
        session.execute("select fail('no such luck')")
    assert "no such luck" in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_only_the_rows_that_need_it_are_sent(session: Session, batches: dict[str, Batch]) -> None:
    (result,) = session.execute("""
        select column1, iff(column1 > 1, fail('never'), 'spared') from values (0), (1)
    """)
    assert result.rows == [(0, "spared"), (1, "spared")]
    assert batches == {}


def test_the_ddl_of_the_stack_runs_and_binds_its_functions(stack: Stack) -> None:
    statements = script(
        api_integration(stack.stack_name, LOCAL_ROLE_ARN, stack.api_url), stack_functions(stack)
    )
    with SnowflakeClient(stack.credentials, stack.region) as client, Session(client) as session:
        session.execute(statements)
        (result,) = session.execute("select echo(1, 2), sentiment('good')['Positive'] > 0.5")
    assert result.rows == [([1, 2], True)]
