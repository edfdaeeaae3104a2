"""The version of a function's code: what changes it, and what does not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from core.calls import versions
from core.calls.versions import code_version
from core.catalog import FUNCTIONS_DIR, LAMBDAS_DIR

Write = Callable[..., None]

FILES = {
    "stepflake_lambda.py": "from core import catalog\n",
    "functions/f.py": "from core import scores\nfrom stepflake_lambda import service\n\ndef f(a): ...\n",
    "functions/g.py": "def g(a): ...\n",
    "core/__init__.py": "",
    "core/catalog.py": "NAMES = []\n",
    "core/scores.py": "from core.words import WORDS\nimport math\n",
    "core/words.py": "WORDS = []\n",
    "core/other.py": "OTHER = []\n",
}


@pytest.fixture
def lambdas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle in which functions/f.py imports core/scores.py, and that core/words.py."""
    monkeypatch.setattr(versions, "LAMBDAS_DIR", tmp_path)
    write(tmp_path, FILES)
    return tmp_path


def write(lambdas: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = lambdas / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


def version(lambdas: Path, named: str = "", function: str = "f") -> str:
    """As another execution environment finds it."""
    code_version.cache_clear()
    return code_version(lambdas / "functions" / f"{function}.py", named)


def test_the_same_code_has_the_same_version(lambdas: Path) -> None:
    first = version(lambdas)

    assert version(lambdas) == first
    assert len(first) == 16
    assert int(first, 16) >= 0


@pytest.mark.parametrize("file", ["functions/f.py", "core/scores.py", "core/words.py", "core/__init__.py"])
def test_a_change_of_the_code_or_of_what_it_imports_changes_it(lambdas: Path, file: str) -> None:
    before = version(lambdas)
    write(lambdas, {file: FILES[file] + "# another\n"})

    assert version(lambdas) != before


@pytest.mark.parametrize(
    "file", ["functions/g.py", "core/other.py", "core/catalog.py", "stepflake_lambda.py", "core/words.txt"]
)
def test_a_change_elsewhere_does_not_change_it(lambdas: Path, file: str) -> None:
    before = version(lambdas)
    write(lambdas, {file: FILES.get(file, "") + "# another\n"})

    assert version(lambdas) == before


def test_a_named_version_changes_it(lambdas: Path) -> None:
    assert len({version(lambdas), version(lambdas, "1"), version(lambdas, "2")}) == 3


@pytest.mark.parametrize(
    ("source", "imported"),
    [
        ("import model.weights", "model/weights.py"),
        ("import model.weights as w", "model/__init__.py"),
        ("import model", "model/__init__.py"),
        ("from model import weights", "model/weights.py"),
        ("from model import size", "model/__init__.py"),
        ("from model.weights import ONE", "model/weights.py"),
        ("from model import *", "model/__init__.py"),
        ("def f(a):\n    from model.weights import ONE", "model/weights.py"),
        ("try:\n    import model.weights\nexcept ImportError:\n    pass", "model/weights.py"),
        ("from .near import x", "functions/near.py"),
        ("from . import near", "functions/near.py"),
        ("from ..model import weights", "model/weights.py"),
        ("import core.scores, model.weights", "model/weights.py"),
    ],
)
def test_each_way_to_import_is_seen(lambdas: Path, source: str, imported: str) -> None:
    files = {
        "model/__init__.py": "size = 1\n",
        "model/weights.py": "ONE = 1\n",
        "functions/near.py": "x = 1\n",
    }
    write(lambdas, {**files, "functions/f.py": source + "\n"})
    before = version(lambdas)
    write(lambdas, {imported: files[imported] + "# another\n"})

    assert version(lambdas) != before


def test_modules_that_import_each_other_and_packages_that_are_installed_are_no_problem(lambdas: Path) -> None:
    write(lambdas, {"core/words.py": "import core.scores\nimport boto3\nfrom json import loads\n"})

    assert version(lambdas) != version(lambdas, function="g")


@pytest.mark.parametrize(
    "read",
    [
        'os.environ["ENGINE"]',
        'os.environ.get("ENGINE")',
        'os.environ.get("ENGINE", "vader")',
        'os.getenv("ENGINE")',
        'environ["ENGINE"]',
        'setting("ENGINE")',
    ],
)
@pytest.mark.parametrize("file", ["functions/f.py", "core/words.py"])
def test_a_variable_of_the_environment_that_is_read_changes_it(
    lambdas: Path, monkeypatch: pytest.MonkeyPatch, file: str, read: str
) -> None:
    write(lambdas, {file: f"{FILES[file]}\ndef engine():\n    return {read}\n"})
    found = set()
    for value in ("vader", "comprehend", ""):
        monkeypatch.setenv("ENGINE", value)
        monkeypatch.setenv("OTHER", value)
        found.add(version(lambdas))
    monkeypatch.delenv("ENGINE")
    found.add(version(lambdas))

    assert len(found) == 4


def test_a_variable_that_is_not_read_does_not_change_it(
    lambdas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = version(lambdas)
    monkeypatch.setenv("ENGINE", "comprehend")

    assert version(lambdas) == before


def test_sentiment_depends_on_its_engine_and_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {path for path, _, _ in versions._closure(FUNCTIONS_DIR / "sentiment.py")}
    assert {LAMBDAS_DIR / "core" / name for name in ("sentiment.py", "vader.py", "clients.py")} <= found
    assert not {path.name for path in found} & {"rows.py", "table.py", "catalog.py", "stepflake_lambda.py"}

    seen = set()
    for engine, language in (("vader", "en"), ("comprehend", "en"), ("comprehend", "de")):
        monkeypatch.setenv("SENTIMENT_ENGINE", engine)
        monkeypatch.setenv("SENTIMENT_LANGUAGE", language)
        seen.add(version(LAMBDAS_DIR, function="sentiment"))
    assert len(seen) == 3
    code_version.cache_clear()


def test_installed_packages_do_not_count(lambdas: Path) -> None:
    record = "package/__init__.py,sha256=x,1\nmodule.py,sha256=y,1\n"
    write(lambdas, {"functions/f.py": "import package.part, module", "package-1.dist-info/RECORD": record})
    before = version(lambdas)
    write(lambdas, dict.fromkeys(["package/__init__.py", "package/part.py", "module.py"], "ONE = 1"))

    assert version(lambdas) == before
