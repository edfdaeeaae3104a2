"""`stepflake up`: what it refuses before it builds or starts anything."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from stepflake.cli import main

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("functions/half.py", "def half(:\n", "half.py:1: this is not Python"),
        ("remind/input.json", '{"type": }', "input.json:1: this is not JSON"),
    ],
)
def test_an_invalid_declaration_is_not_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, source: str, message: str
) -> None:
    for name in ("template.yaml", "samconfig.toml"):
        shutil.copy(ROOT / name, tmp_path)
    path = tmp_path / "lambdas" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    monkeypatch.chdir(tmp_path)
    result = CliRunner(mix_stderr=False).invoke(main, ["up", "--detach"])
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / ".stepflake").exists()
