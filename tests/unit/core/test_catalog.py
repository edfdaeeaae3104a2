"""Remote functions and workflows read from their files, and the errors for files that are invalid."""

from pathlib import Path

import pytest

from core.catalog import (
    NONE,
    SNOWFLAKE_TYPES,
    CallOptions,
    CatalogError,
    Parameter,
    read_catalog,
    read_service,
    read_workflows,
)

F = "def f(x: str) -> str: ...\n"
LISTS = "def f(x: list[str]) -> list[str]: ...\n"


def write(folder: Path, name: str, source: str) -> None:
    (folder / f"{name}.py").write_text("from core.remote import remote_function\n" + source)


def problem(folder: Path, source: str) -> str:
    """The error for `f.py` with this source."""
    write(folder, "f", source)
    with pytest.raises(CatalogError) as refused:
        read_catalog(folder)
    assert str(refused.value).startswith(str(folder / "f.py"))
    return str(refused.value).removeprefix(str(folder / "f.py"))


def write_schema(folder: Path, workflow: str, text: str) -> Path:
    path = folder / workflow / "input.json"
    path.parent.mkdir()
    path.write_text(text)
    return path


def test_the_shipped_functions_are_in_the_catalog() -> None:
    catalog = read_catalog(diagnostics=False)
    assert str(catalog["sentiment"]) == "sentiment(text VARCHAR) -> VARIANT"
    assert "ext_func_async" in catalog["sentiment"].sql_names
    assert not {"echo", "sleep", "fail"} & set(catalog)
    assert {"echo", "sleep", "fail"} <= set(read_catalog(diagnostics=True))


@pytest.mark.parametrize("value", ["true", "false", None])
def test_the_environment_decides_whether_diagnostic_functions_are_included(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("DIAGNOSTICS", raising=False)
    if value is not None:
        monkeypatch.setenv("DIAGNOSTICS", value)
    assert ("echo" in read_catalog()) == (value == "true")


def test_a_file_is_read_without_running_it(tmp_path: Path) -> None:
    write(tmp_path, "f", "raise SystemExit\n@remote_function()\ndef f(x: str) -> str: ...\n")
    assert list(read_catalog(tmp_path)) == ["f"]


def test_files_that_start_with_an_underscore_are_not_functions(tmp_path: Path) -> None:
    write(tmp_path, "f", "@remote_function()\ndef f(x: str) -> str: ...\n")
    write(tmp_path, "_shared", "def helper() -> None: ...\n")
    assert list(read_catalog(tmp_path)) == ["f"]


@pytest.mark.parametrize(("hint", "sql"), SNOWFLAKE_TYPES.items())
@pytest.mark.parametrize("form", ["{}", "{} | None"])
def test_each_type_hint_has_its_sql_type(tmp_path: Path, hint: str, sql: str, form: str) -> None:
    hint = form.format(hint)
    write(tmp_path, "f", f"@remote_function()\ndef f(a: {hint}, b: int) -> {hint}: ...\n")
    assert str(read_catalog(tmp_path)["f"]) == f"f(a {sql}, b NUMBER(38, 0)) -> {sql}"


@pytest.mark.parametrize(
    ("hint", "kind"),
    [
        ("dict[str, Any]", "dict"),
        ("list[int] | None", "list"),
        ("typing.Any", "Any"),
        ("datetime.datetime", "datetime"),
        ("decimal.Decimal | None", "Decimal"),
    ],
)
def test_hints_may_be_written_in_full(tmp_path: Path, hint: str, kind: str) -> None:
    write(tmp_path, "f", f"@remote_function()\ndef f(a: {hint}) -> str: ...\n")
    assert read_catalog(tmp_path)["f"].parameters == (Parameter("a", kind),)


def test_options_and_the_docstring_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        "f",
        '@remote_function(vectorized=True, chunk_rows=10, on_error="null", sql_names=("f", "g"), '
        "max_batch_rows=900)\n"
        "def f(a: list[str | None], b: list[Any]) -> list[float]:\n"
        '    """Does\n    this.\n\n    And that."""\n',
    )
    signature = read_catalog(tmp_path)["f"]
    assert signature.vectorized
    assert (signature.chunk_rows, signature.on_error, signature.sql_names) == (10, "null", ("f", "g"))
    assert signature.max_batch_rows == 900
    assert str(signature) == "f(a VARCHAR, b VARIANT) -> FLOAT"
    assert signature.doc.split() == ["Does", "this."]


LIMITS = 'rate_limit="10/second", max_concurrency=20, calls="comprehend", reuse="${REUSE}", version="2"'
LIMITED = CallOptions(
    rate_limit="10/second", max_concurrency=20, calls="comprehend", reuse="${REUSE}", version="2"
)


def options_of(options: CallOptions) -> dict[str, object]:
    return {name: getattr(options, name) for name in vars(CallOptions())}


def test_what_a_function_says_of_its_calls_is_read(tmp_path: Path) -> None:
    source = f"@remote_function(vectorized=True, rows_per_call=25, deduplicate=True, {LIMITS})\n{LISTS}"
    write(tmp_path, "f", source)
    signature = read_catalog(tmp_path)["f"]
    assert options_of(signature) == options_of(LIMITED)
    assert (signature.rows_per_call, signature.deduplicate) == (25, True)
    assert (signature.may_be_limited, signature.may_be_reused) == (True, True)


def test_what_is_not_said_of_calls_is_no_limit_and_no_reuse(tmp_path: Path) -> None:
    write(tmp_path, "f", f"@remote_function()\n{F}")
    signature = read_catalog(tmp_path)["f"]
    assert options_of(signature) == options_of(CallOptions())
    assert (signature.rate_limit, signature.reuse) == (NONE, NONE)
    assert (signature.may_be_limited, signature.may_be_reused, signature.deduplicate) == (False,) * 3


@pytest.mark.parametrize(
    ("options", "rows", "calls"),
    [
        ("", 7, 7),
        ("concurrency=4", 7, 7),
        ("vectorized=True", 4096, 1),
        ("vectorized=True, chunk_rows=10", 21, 3),
        ("vectorized=True, rows_per_call=25", 100, 4),
        ("vectorized=True, rows_per_call=25", 101, 5),
        ("vectorized=True", 0, 0),
    ],
)
def test_the_calls_that_rows_need_are_known(tmp_path: Path, options: str, rows: int, calls: int) -> None:
    write(tmp_path, "f", f"@remote_function({options})\n{LISTS if 'vectorized' in options else F}")
    assert read_catalog(tmp_path)["f"].calls_for(rows) == calls


@pytest.mark.parametrize("decorator", ["service", "stepflake_lambda.service"])
def test_what_a_service_says_is_read_without_running_it(tmp_path: Path, decorator: str) -> None:
    source = f"raise SystemExit\n@{decorator}({LIMITS})\ndef s(document): ...\n\ndef other(): ...\n"
    (tmp_path / "s.py").write_text(source)
    assert read_service("s", tmp_path) == LIMITED


@pytest.mark.parametrize(
    "source", ["def s(document): ...\n", "@service()\ndef s(document): ...\n", "s = len\n"]
)
def test_a_service_may_say_nothing(tmp_path: Path, source: str) -> None:
    (tmp_path / "s.py").write_text(source)
    assert read_service("s", tmp_path) == CallOptions()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("@service()\ndef other(document): ...\n", ": @service belongs to the function s, and to no other"),
        ("@service()\ndef s(d): ...\n@service()\ndef t(d): ...\n", ": @service belongs to the function s"),
        (
            "@service(on_error='null')\ndef s(d): ...\n",
            ":1: @service has no argument on_error; it has rate_limit",
        ),
        ("@service(rate_limit=5)\ndef s(d): ...\n", ":1: rate_limit must be a literal of type str"),
        (
            "@service(reuse='for ever')\ndef s(d): ...\n",
            ":1: reuse is 'for ever'; it must be like \"7 days\"",
        ),
        ("def s(:\n", ":1: this is not Python"),
    ],
)
def test_an_error_in_a_service_is_named_with_its_line(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "s.py").write_text(source)
    with pytest.raises(CatalogError) as refused:
        read_service("s", tmp_path)
    assert str(refused.value).startswith(str(tmp_path / "s.py") + said)


@pytest.mark.parametrize(
    "options",
    [
        'rate_limit="0.5/second"',
        'rate_limit="600/minute"',
        'rate_limit="5000/hour"',
        'rate_limit="none"',
        'rate_limit="${RATE}"',
        "max_concurrency=1",
        'reuse="1 minute"',
        'reuse="30 minutes"',
        'reuse="1 hour"',
        'reuse="365 days"',
        'reuse="none"',
        'reuse="7 days", version="${MODEL}"',
        f'max_concurrency=1, calls="{"a" * 64}"',
        'rate_limit="${RATE}", calls="my-api_2"',
        "vectorized=True, rows_per_call=1, concurrency=8",
    ],
)
def test_these_limits_and_periods_are_accepted(tmp_path: Path, options: str) -> None:
    write(tmp_path, "f", f"@remote_function({options})\n{LISTS if 'vectorized' in options else F}")
    assert "f" in read_catalog(tmp_path)


@pytest.mark.parametrize(
    ("parameters", "text", "accepted"),
    [
        ("", "f() -> VARCHAR", {0}),
        ("a: str", "f(a VARCHAR) -> VARCHAR", {1}),
        ("a: str, b: Any", "f(a VARCHAR, b VARIANT) -> VARCHAR", {2}),
        ("*a: Any", "f(a VARIANT ...) -> VARCHAR", {0, 1, 2, 3}),
        ("a: str, *b: int", "f(a VARCHAR, b NUMBER(38, 0) ...) -> VARCHAR", {1, 2, 3}),
    ],
)
def test_a_signature_counts_arguments(tmp_path: Path, parameters: str, text: str, accepted: set[int]) -> None:
    write(tmp_path, "f", f"@remote_function()\ndef f({parameters}) -> str: ...\n")
    signature = read_catalog(tmp_path)["f"]
    assert str(signature) == text
    assert {count for count in range(4) if signature.accepts(count)} == accepted


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    write(tmp_path, "f", "@remote_function()\ndef f(a: str) -> str: ...\n")
    assert len(read_catalog(tmp_path)["f"].parameters) == 1
    write(tmp_path, "f", "@remote_function()\ndef f(a: str, b: str) -> str: ...\n")
    assert len(read_catalog(tmp_path)["f"].parameters) == 2


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (F, "found none"),
        ("@remote_function()\ndef g(x: str) -> str: ...\n", "named 'f' like its file; found ['g']"),
        ("@remote_function()\n" + F + "@remote_function()\n" + F.replace("f(", "g("), "exactly one"),
        ("@remote_function()\nasync " + F, "found none"),
        ("@remote_function()\ndef f(x: str = '') -> str: ...\n", ":3: SQL passes arguments by position"),
        ("@remote_function()\ndef f(*, x: str) -> str: ...\n", ":3: SQL passes arguments by position"),
        ("@remote_function()\ndef f(**x: str) -> str: ...\n", ":3: SQL passes arguments by position"),
        ("@remote_function()\ndef f(x) -> str: ...\n", ":3: x: the type hint is nothing; it must be one of"),
        ("@remote_function()\ndef f(x: set) -> str: ...\n", ":3: x: the type hint is set"),
        ("@remote_function()\ndef f(x: str): ...\n", ":3: return: the type hint is nothing"),
        ("@remote_function()\ndef f(x: str) -> None: ...\n", ":3: return: the type hint is None"),
        ("@remote_function(vectorized=True)\n" + F, ":3: x: a vectorized function takes"),
        ("@remote_function(vectorized=True)\ndef f(x: list) -> list[str]: ...\n", ":3: x: a vectorized"),
        ("@remote_function(vectorized=True)\ndef f() -> list[str]: ...\n", ":3: a vectorized function needs"),
        ("N = 5\n@remote_function(chunk_rows=N)\n" + F, ":3: @remote_function(chunk_rows=...) must be"),
        (
            "@remote_function(chunks=5)\n" + F,
            ":2: @remote_function has no argument chunks; it has vectorized",
        ),
        ("@remote_function(chunk_rows=0)\n" + F, ":2: chunk_rows must be at least 1"),
        ("@remote_function(max_batch_rows=0)\n" + F, ":2: max_batch_rows must be at least 1"),
        ("@remote_function(max_batch_rows=9.5)\n" + F, ":2: max_batch_rows must be a literal of type int"),
        ("@remote_function(chunk_rows='5')\n" + F, ":2: chunk_rows must be a literal of type int"),
        ("@remote_function(concurrency=True)\n" + F, ":2: concurrency must be a literal of type int"),
        ("@remote_function(concurrency=-1)\n" + F, ":2: concurrency must be at least 1"),
        ("@remote_function(on_error='skip')\n" + F, ":2: on_error is 'skip'; it must be one of fail, null"),
        ("@remote_function(vectorized=True, concurrency=2)\n" + LISTS, ":2: a vectorized function gets all"),
        ("@remote_function(rows_per_call=5)\n" + F, ":2: rows_per_call is for vectorized functions"),
        (
            "@remote_function(vectorized=True, rows_per_call=0)\n" + LISTS,
            ":2: rows_per_call must be at least 1",
        ),
        ("@remote_function(max_concurrency=0)\n" + F, ":2: max_concurrency must be at least 1"),
        ("@remote_function(deduplicate=1)\n" + F, ":2: deduplicate must be a literal of type bool"),
        *[
            (
                f"@remote_function(rate_limit={rate!r})\n" + F,
                f':2: rate_limit is {rate!r}; it must be like "10/s',
            )
            for rate in ("10", "10/day", "0/second", "0.0/second", "-1/second", "10 / second", "${a b}", "")
        ],
        *[
            (
                f"@remote_function(reuse={period!r})\n" + F,
                f':2: reuse is {period!r}; it must be like "7 days"',
            )
            for period in ("7", "0 days", "7days", "1 week", "1.5 hours", "x${A}")
        ],
        ("@remote_function(rate_limit=None)\n" + F, ":2: rate_limit must be a literal of type str"),
        ("@remote_function(max_concurrency=1, calls='a b')\n" + F, ":2: calls must be a name of at most 64"),
        ("@remote_function(max_concurrency=1, calls='')\n" + F, ":2: calls must be a name of at most 64"),
        (
            "@remote_function(calls='api')\n" + F,
            ":2: calls names a limit: rate_limit or max_concurrency must",
        ),
        ("@remote_function(version='2')\n" + F, ":2: version is of results that are kept: reuse must say"),
        ("@remote_function(sql_names=())\n" + F, ":2: sql_names"),
        ("@remote_function(sql_names=('a b',))\n" + F, ":2: sql_names"),
        ("@remote_function(**{})\n" + F, ":2: @remote_function has no argument None"),
        ("def f(:\n", ":2: this is not Python"),
    ],
)
def test_an_error_in_a_file_is_named_with_its_line(tmp_path: Path, source: str, said: str) -> None:
    assert said in problem(tmp_path, source)


def test_a_workflow_is_named_after_its_folder(tmp_path: Path) -> None:
    write_schema(tmp_path, "one", '{"description": "Does this.", "x-run-id": "request_id"}')
    write_schema(tmp_path, "two", "{}")
    one, two = read_workflows(tmp_path).values()
    assert (one.name, one.doc, one.run_id) == ("one", "Does this.", "request_id")
    assert (two.name, two.doc, two.run_id) == ("two", "", "run_id")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n"type": "object"\n"required": []}', ":3: this is not JSON: Expecting ',' delimiter"),
        ('{"type": "object"', ":1: this is not JSON: "),
        ("", ":1: this is not JSON: "),
        ("[]", ":1: a JSON Schema of a workflow's input must be a JSON object"),
    ],
)
def test_an_invalid_input_schema_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    write_schema(tmp_path, "valid", "{}")
    path = write_schema(tmp_path, "invalid", text)
    with pytest.raises(CatalogError) as raised:
        read_workflows(tmp_path)
    assert str(raised.value).startswith(f"{path}{message}")


def test_an_input_schema_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = write_schema(tmp_path, "invalid", "{}")
    path.write_bytes(b'{"title": "\xff"}')
    with pytest.raises(CatalogError, match=r"input\.json: this is not UTF-8"):
        read_workflows(tmp_path)
