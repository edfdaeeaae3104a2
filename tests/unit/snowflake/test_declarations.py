"""CREATE EXTERNAL FUNCTION and CREATE API INTEGRATION, read and written."""

import re

import pytest
from sqlglot import Dialect

from stepflake.snowflake.client import ExternalFunction
from stepflake.snowflake.declarations import (
    ApiIntegration,
    Declaration,
    DeclarationError,
    identifier,
    read_declaration,
    write_function,
    write_integration,
)


def read(script: str) -> Declaration | None:
    return read_declaration(Dialect.get_or_raise("snowflake").tokenize(script.rstrip(";")), script)


def test_every_option_of_a_function_is_read() -> None:
    declaration = read("""
        create or replace secure external function db.public.f(
            a varchar, "b c" number(38, 0), c double precision)
          returns variant not null
          returns null on null input
          immutable
          comment = 'it''s'
          api_integration = my_api
          headers = ('mode' = 'detached', 'x' = 'y')
          context_headers = (current_user, current_timestamp)
          max_batch_rows = 10
          compression = gzip
          as 'https://x/prod/functions/f'
    """)
    assert declaration == Declaration(
        ExternalFunction(
            "F",
            "https://x/prod/functions/f",
            (("A", "VARCHAR"), ("b c", "NUMBER(38, 0)"), ("C", "DOUBLE PRECISION")),
            "VARIANT",
            headers=(("mode", "detached"), ("x", "y")),
            context_headers=("CURRENT_USER", "CURRENT_TIMESTAMP"),
            max_batch_rows=10,
            compression="GZIP",
            null_on_null=True,
            immutable=True,
            comment="it's",
        ),
        integration="MY_API",
        replace=True,
    )


def test_an_integration_is_read() -> None:
    declaration = read("""
        create api integration if not exists my_api api_provider = aws_api_gateway
        api_aws_role_arn = 'arn:aws:iam::1:role/r' api_allowed_prefixes = ('https://x/', 'https://y/')
        api_blocked_prefixes = ('https://y/no') enabled = true
    """)
    integration = ApiIntegration(
        "MY_API", "arn:aws:iam::1:role/r", ("https://x/", "https://y/"), ("https://y/no",)
    )
    assert declaration == Declaration(integration, if_not_exists=True)
    assert integration.allows("https://y/yes")
    assert not integration.allows("https://y/no/f")
    assert not integration.allows("https://z/f")


@pytest.mark.parametrize(
    "statement", ["select 1", "create table t(a int)", "create function f() returns int as '1'"]
)
def test_other_statements_are_left_alone(statement: str) -> None:
    assert read(statement) is None


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("create external function f(a) returns variant", "line 1, column 29: ')' is not a data type"),
        ("create external function f(a nonsense) returns", "'NONSENSE' is not a data type"),
        ("create external function f() as 'x'", "expected RETURNS; found 'as'"),
        (
            "create external function f()\nreturns variant foo = 1 as 'x'",
            "line 2, column 19: expected an option",
        ),
        ("create external function f() returns variant as 'x'", "F needs API_INTEGRATION"),
        ("create external function f() returns variant api_integration = i", "expected an option"),
        ("create external function f() returns variant api_integration = i as url", "expected a string"),
        ("create external function f() returns variant api_integration = i as 'u' x", "expected the end"),
        ("create external function f() returns variant max_batch_rows = 0 as 'u'", "must be a number from 1"),
        (
            "create external function f() returns variant compression = zip as 'u'",
            "must be one of AUTO",
        ),
        ("create external function f() returns variant request_translator = t as 'u'", "leave them out"),
        ("create external function f() returns variant headers = ('a') as 'u'", "expected ="),
        ("create api integration i enabled = true", "needs API_PROVIDER"),
        ("create api integration i api_provider = azure_api_management", "only aws_api_gateway"),
        ("create api integration i foo = 1", "expected API_PROVIDER"),
        ("create api integration 'i' enabled = true", "expected a name"),
    ],
)
def test_what_snowflake_would_refuse_is_refused(statement: str, message: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(message)):
        read(statement)


def test_what_is_written_is_read_as_the_same_declaration() -> None:
    function = ExternalFunction(
        "F",
        "https://x/prod/functions/f",
        (("A", "VARCHAR"), ("ORDER", "NUMBER(38, 0)")),
        "VARIANT",
        headers=(("mode", "it's \\ detached"),),
        context_headers=("CURRENT_USER",),
        max_batch_rows=7,
        compression="DEFLATE",
        null_on_null=True,
        immutable=True,
        comment="What's a \\ and 'quotes'?",
    )
    written = write_function(function, "MY_API")
    assert '"ORDER" NUMBER(38, 0)' in written
    assert read(written) == Declaration(function, integration="MY_API", replace=True)

    integration = ApiIntegration("MY_API", "arn:aws:iam::1:role/r", ("https://x/",))
    assert read(write_integration(integration)) == Declaration(integration, if_not_exists=True)


@pytest.mark.parametrize(
    ("name", "written"),
    [("TEXT", "TEXT"), ("order", '"ORDER"'), ("A_1", "A_1"), ("1a", '"1A"'), ("ä", '"Ä"'), ('a"b', '"A""B"')],
)
def test_names_are_quoted_where_they_must_be(name: str, written: str) -> None:
    assert identifier(name) == written
