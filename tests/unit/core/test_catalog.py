"""Remote functions and workflows read from their files, and the errors for files that are invalid."""

from pathlib import Path

import pytest

from core.catalog import SNOWFLAKE_TYPES, CatalogError, Parameter, read_catalog, read_workflows


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


F = "def f(x: str) -> str: ...\n"
LISTS = "def f(x: list[str]) -> list[str]: ...\n"


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
