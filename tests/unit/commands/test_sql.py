"""`stepflake sql`, from its options to what it prints."""

import csv
import datetime
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import simplejson
from click.testing import CliRunner, Result

from stepflake.cli import main
from stepflake.snowflake import session
from stepflake.snowflake.output import as_csv, as_json, text_of
from tests.unit.snowflake.remote_service import RemoteService, Response, serve


@pytest.fixture
def service() -> Iterator[RemoteService]:
    with serve() as running:
        running.function = lambda path, arguments: [path, *arguments]
        yield running


def run(*arguments: str, script: str | None = None) -> Result:
    return CliRunner().invoke(main, ["sql", *arguments], input=script)


def test_the_stacks_functions_are_declared_already(service: RemoteService) -> None:
    result = run("--url", f"{service.url}/prod/", "-e", "select echo(1, 'x') as e", "--format", "json")
    assert (result.exit_code, json.loads(result.output)) == (0, [{"E": ["/prod/functions/echo", 1, "x"]}])
    assert service.requests[0].headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=test/")


def test_a_script_with_declarations_of_its_own_has_no_others(service: RemoteService) -> None:
    script = f"""
        create api integration api api_provider = aws_api_gateway api_aws_role_arn = 'arn:aws:iam::1:role/r'
          api_allowed_prefixes = ('{service.url}') enabled = true;
        create external function mine(x int) returns variant api_integration = api as '{service.url}/mine';
        select mine(7) as m;
    """
    result = run("--url", service.url, "--format", "csv", "-", script=script)
    assert result.exit_code == 0
    assert list(csv.reader(io.StringIO(result.output)))[-2:] == [["M"], ['["/mine", 7]']]
    result = run("--url", service.url, "-", script=script + "select echo(1)")
    assert result.exit_code == 1
    assert "External functions that are declared: MINE" in result.output


def test_a_file_is_run_and_every_result_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "script.sql"
    file.write_text(
        "-- a comment\nselect 1 as a; create table t(b string); select * from t;\nselect null as c"
    )
    result = run("--url", "http://127.0.0.1:1", str(file))
    assert result.exit_code == 0
    words = result.output.split()
    assert [word for word in words if word in ("A", "1", "B", "0", "C", "NULL")] == [
        "A",
        "1",
        "1",
        "B",
        "0",
        "C",
        "NULL",
        "1",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Give a FILE"),
        (["-e", "select 1", "file.sql"], 2, "Give a FILE"),
        (["nosuch.sql"], 2, "nosuch.sql can't be read"),
        (["--url", "http://127.0.0.1:1", "-e", "select\na b c"], 1, "line 2, column 5"),
        (
            ["--url", "http://127.0.0.1:1", "-e", "select * from nosuch"],
            1,
            "Error in the statement at line 1",
        ),
        (["--name", "no-such-stack", "-e", "select 1"], 1, "stepflake up --detach"),
        (["--format", "xml", "-e", "select 1"], 2, "--format"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], code: int, message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_failed_batch_is_shown_as_snowflake_shows_it(service: RemoteService) -> None:
    service.script.extend([Response(503), Response(422, b'{"error": "FunctionError"}')])
    result = run("--url", service.url, "-e", "select fail('x')")
    assert result.exit_code == 1
    assert "FAIL: 503, retrying" in result.output
    shown = 'external function FAIL with remote service error: 422 \'{"error": "FunctionError"}\''
    assert shown in result.output.replace("\n", " ")


ROW = (
    12345678901234567890123456789012345678,
    Decimal("1.10"),
    None,
    True,
    {"k": [Decimal("1.50"), None]},
    "ü,",
    b"AB",
    datetime.date(2024, 2, 29),
)
RESULT = session.StatementResult("select", tuple("ABCDEFGG"), [ROW])


def test_json_has_all_digits_and_every_column() -> None:
    printed = as_json(RESULT)
    assert simplejson.loads(printed, use_decimal=True) == [
        {
            "A": 12345678901234567890123456789012345678,
            "B": Decimal("1.10"),
            "C": None,
            "D": True,
            "E": {"k": [Decimal("1.50"), None]},
            "F": "ü,",
            "G": "4142",
            "G_8": "2024-02-29",
        }
    ]
    assert "1.10" in printed
    assert as_json(session.StatementResult("select", ("A",))) == "[\n]\n"


def test_csv_is_read_back_by_a_csv_reader() -> None:
    header, row = csv.reader(io.StringIO(as_csv(RESULT)))
    assert header == list("ABCDEFGG")
    assert row == [
        "12345678901234567890123456789012345678",
        "1.10",
        "",
        "TRUE",
        '{"k": [1.50, null]}',
        "ü,",
        "4142",
        "2024-02-29",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "NULL"),
        (False, "FALSE"),
        (1.5, "1.5"),
        ("x", "x"),
        (datetime.datetime(2024, 2, 29, 1), "2024-02-29 01:00:00"),
    ],
)
def test_values_in_a_table_are_snowflakes(value: Any, text: str) -> None:
    assert text_of(value) == text
