"""`stepflake ddl` prints what Snowflake and `stepflake sql` accept."""

from pathlib import Path

import pytest
from botocore.credentials import Credentials
from click.testing import CliRunner

from core.catalog import read_catalog, read_workflows
from stepflake.commands.ddl import LOCAL_ROLE_ARN, ddl
from stepflake.snowflake.client import ExternalFunction, SnowflakeClient
from stepflake.snowflake.ddl import VARIADIC_ARGUMENTS, external_functions, workflow_functions
from stepflake.snowflake.declarations import write_function
from stepflake.snowflake.session import Session
from stepflake.stack import Stack

API_URL = "https://abc.execute-api.eu-west-1.amazonaws.com/prod"
ROLE = "arn:aws:iam::123456789012:role/snowflake"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(ddl, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def functions(folder: Path, **files: str) -> list[ExternalFunction]:
    for name, source in files.items():
        (folder / f"{name}.py").write_text(source)
    return external_functions(read_catalog(folder, diagnostics=True).values(), API_URL)


def test_each_sql_name_is_declared_with_the_types_of_the_hints(tmp_path: Path) -> None:
    (first, second) = functions(
        tmp_path,
        score="""@remote_function(sql_names=("score", "score_async"))
def score(text: str | None, at: datetime, weight: float, order: int) -> dict[str, Any]:
    '''Scores it.

    More about it.
    '''
""",
    )
    assert first == ExternalFunction(
        "SCORE",
        f"{API_URL}/functions/score",
        (("TEXT", "VARCHAR"), ("AT", "TIMESTAMP_NTZ"), ("WEIGHT", "FLOAT"), ("ORDER", "NUMBER(38, 0)")),
        "OBJECT",
        comment="Scores it.",
    )
    assert second.name == "SCORE_ASYNC"
    assert second.url == first.url


def test_a_variadic_function_has_an_overload_for_each_count_of_arguments(tmp_path: Path) -> None:
    overloads = functions(tmp_path, f="@remote_function\ndef f(first: str, *rest: Any) -> list[Any]: ...\n")
    assert [len(f.parameters) for f in overloads] == list(range(1, VARIADIC_ARGUMENTS + 2))
    assert overloads[2].signature == "(FIRST VARCHAR, REST_1 VARIANT, REST_2 VARIANT)"


def test_the_most_rows_of_a_batch_are_declared_where_the_function_says_so(tmp_path: Path) -> None:
    (narrow, wide) = functions(
        tmp_path,
        narrow="@remote_function()\ndef narrow(text: str) -> str: ...\n",
        wide="@remote_function(max_batch_rows=900)\ndef wide(text: str) -> str: ...\n",
    )
    assert "MAX_BATCH_ROWS" not in write_function(narrow, "api")
    assert "  MAX_BATCH_ROWS = 900\n" in write_function(wide, "api")


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        ('rate_limit="2/second"', 60),
        ('rate_limit="90/minute"', 45),
        ('rate_limit="1/hour"', 1),
        ('rate_limit="2/second", vectorized=True, rows_per_call=25', 1500),
        ('rate_limit="1/hour", vectorized=True, chunk_rows=500', 500),
        ('rate_limit="2/second", max_batch_rows=900', 900),
        # Snowflake's own batches have no more rows.
        ('rate_limit="10/second", vectorized=True, rows_per_call=25', None),
        # How many calls a batch needs is not known here, or how many are allowed.
        ('rate_limit="2/second", deduplicate=True', None),
        ('rate_limit="${RATE}"', None),
        ("max_concurrency=2", None),
        ('rate_limit="none"', None),
    ],
)
def test_a_rate_limit_bounds_the_rows_of_a_batch(tmp_path: Path, arguments: str, rows: int | None) -> None:
    hint = "list[str]" if "vectorized" in arguments else "str"
    source = f"@remote_function({arguments})\ndef slow(text: {hint}) -> {hint}: ...\n"
    (slow,) = functions(tmp_path, slow=source)
    assert slow.max_batch_rows == rows


def test_a_workflow_is_declared_attached_and_detached(tmp_path: Path) -> None:
    (tmp_path / "fan_in").mkdir()
    (tmp_path / "fan_in" / "input.json").write_text('{"description": "Joins."}')
    attached, detached = workflow_functions(read_workflows(tmp_path).values(), API_URL)
    assert attached.url == detached.url == f"{API_URL}/workflows/fan_in"
    assert (attached.name, attached.headers, attached.comment) == ("FAN_IN", (), "Joins.")
    assert (detached.name, detached.headers) == ("FAN_IN_DETACHED", (("mode", "detached"),))
    assert attached.signature == detached.signature == "(INPUT VARIANT)"


def test_the_script_is_accepted_by_our_own_sql() -> None:
    script = run("--api-url", API_URL + "/", "--role-arn", ROLE, "--diagnostics")
    with SnowflakeClient(Credentials("a", "b"), "eu-west-1") as client, Session(client) as session:
        messages = [result.message for result in session.execute(script)]
    assert messages[0] == "Integration STEPFLAKE successfully created."
    assert "Function EXT_FUNC_ASYNC successfully created." in messages
    assert "Function FAN_OUT_DETACHED successfully created." in messages
    assert messages.count("Function ECHO successfully created.") == VARIADIC_ARGUMENTS + 1
    assert f"API_AWS_ROLE_ARN = '{ROLE}'" in script
    assert f"API_ALLOWED_PREFIXES = ('{API_URL}/')" in script
    assert f"AS '{API_URL}/functions/sentiment';" in script


def test_diagnostics_are_declared_only_where_they_are_deployed() -> None:
    assert "ECHO" not in run("--api-url", API_URL, "--role-arn", ROLE)


def stack(parameters: dict[str, str], endpoint: str | None) -> Stack:
    return Stack("http://127.0.0.1:1/prod", endpoint, "us-east-1", "my-stack", {}, parameters)


def test_a_stack_decides_which_functions_and_role_are_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed = stack({"Diagnostics": "true", "SnowflakeRoleArn": ROLE}, None)
    monkeypatch.setattr("stepflake.commands.ddl.find_stack", lambda *_: deployed)
    script = run("--stack-name", "my-stack")
    assert "CREATE API INTEGRATION IF NOT EXISTS MY_STACK" in script
    assert ROLE in script
    assert "FUNCTION SLEEP(SECONDS FLOAT)" in script


def test_a_local_stack_needs_no_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepflake.commands.ddl.find_stack", lambda *_: stack({}, "http://127.0.0.1:1"))
    assert LOCAL_ROLE_ARN in run()


def test_a_missing_role_on_aws_is_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepflake.commands.ddl.find_stack", lambda *_: stack({"SnowflakeRoleArn": ""}, None))
    result = CliRunner().invoke(ddl, ["--stack-name", "my-stack"])
    assert result.exit_code == 2
    assert "--role-arn" in result.output
