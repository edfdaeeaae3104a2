"""`stepflake limits`, and the options of `up` for limits and faults."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from stepflake.cli import main
from stepflake.commands import limits
from stepflake.local import stack
from stepflake.local.engine import Engine, Settings
from stepflake.local.faults import Faults
from stepflake.local.limits import LIMITS, Value

RATE = {"name": "comprehend.BatchDetectSentiment", "kind": "rate", "size": 10.0, "refill": 10.0}
SIZE = {"name": "states.PayloadSize", "kind": "bytes", "size": 262144, "refill": None}


def document(**changes: Any) -> dict[str, Any]:
    about = {"title": "Title", "source": "https://docs.aws.amazon.com/x", "adjustable": True}
    listed = [
        {**RATE, "allowed": 164, "refused": 1031, "failed": 0, "peak": 12, **about},
        {**SIZE, "allowed": 3, "refused": 0, "failed": 0, "peak": 0, **about, "adjustable": False},
    ]
    return {"enabled": True, "limits": listed, "faults": asdict(Faults()), **changes}


def run(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], *arguments: str) -> Result:
    monkeypatch.setattr(limits, "find_local_engine", lambda _name: Engine(Path("none"), 1, 1))
    monkeypatch.setattr(Engine, "settings", lambda _self: answer)
    return CliRunner(mix_stderr=False).invoke(main, ["limits", *arguments])


def test_each_limit_with_what_it_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, document())
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["comprehend.BatchDetectSentiment", "10,", "then", "10/s", "164", "1,031", "yes", "Title"] in lines
    assert ["states.PayloadSize", "262,144", "bytes", "3", "0", "no", "Title"] in lines
    assert result.stdout.count("https://docs.aws.amazon.com/x") == 1
    assert "Faults" not in result.stdout


def test_limits_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(run(monkeypatch, document(), "--json").stdout) == document()["limits"]


def test_it_says_that_limits_are_off_and_which_faults_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = json.loads(json.dumps(asdict(Faults(throttle=0.08, seed=7, services=("comprehend", "s3")))))
    result = run(monkeypatch, document(enabled=False, faults=faults))
    assert "Limits are off (--no-limits)" in result.stdout
    assert "Faults: throttle=0.08, service=comprehend,s3, seed=7" in result.stdout


def test_what_failed_by_faults_is_shown_where_there_were_any(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = document()
    assert "failed" not in run(monkeypatch, answer).stdout
    answer["limits"][0]["failed"] = 17
    lines = [line.split() for line in run(monkeypatch, answer).stdout.splitlines()]
    rate = ["comprehend.BatchDetectSentiment", "10,", "then", "10/s", "164", "1,031", "17", "yes", "Title"]
    assert rate in lines
    assert ["states.PayloadSize", "262,144", "bytes", "3", "0", "0", "no", "Title"] in lines


def test_a_stack_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "template.yaml").touch()
    monkeypatch.chdir(tmp_path)
    result = CliRunner(mix_stderr=False).invoke(main, ["limits"])
    assert result.exit_code == 1
    assert "The local stack 'local' is not running; start it with: stepflake up --detach" in result.stderr


def settings_of(monkeypatch: pytest.MonkeyPatch, *options: str) -> Settings:
    """What `up` with these options changes of the engine."""
    seen: list[Settings] = []

    class Stopped(Exception):
        pass

    def stop(*_arguments: Any, settings: Settings, **_options: Any) -> None:
        seen.append(settings)
        raise Stopped

    monkeypatch.setattr(stack, "up", stop)
    result = CliRunner(mix_stderr=False).invoke(main, ["up", "--detach", *options])
    assert isinstance(result.exception, Stopped), result.stderr
    return seen[0]


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], Settings()),
        (["--no-limits"], Settings(has_limits=False)),
        (
            ["--limit", "comprehend.DetectSentiment=2", "--limit", "states.PayloadSize=10"],
            Settings(
                True,
                {"comprehend.DetectSentiment": Value(2, 2), "states.PayloadSize": Value(10, None)},
            ),
        ),
        (
            ["--fault", "throttle=0.1", "--fault", "seed=7"],
            Settings(faults=Faults(throttle=0.1, seed=7)),
        ),
        (["--fault", "throttle=0"], Settings(faults=Faults())),
        (
            ["--fault", "fail=0.3", "--fault", "service=comprehend", "--fault", "seed=7"],
            Settings(faults=Faults(fail=0.3, seed=7, services=("comprehend",))),
        ),
    ],
)
def test_options(monkeypatch: pytest.MonkeyPatch, options: list[str], settings: Settings) -> None:
    assert settings_of(monkeypatch, *options) == settings


def test_faults_without_a_seed_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = settings_of(monkeypatch, "--fault", "lost=0.1").faults
    assert faults is not None
    assert 0 <= faults.seed < 10**6


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--no-limits", "--limit", "states.PayloadSize=1"], 2, "--no-limits and --limit exclude each other"),
        (["--limit", "states.Payload=1"], 1, "There is no limit 'states.Payload'; there are: "),
        (["--limit", "states.PayloadSize=much"], 1, "states.PayloadSize is a number, such as"),
        (["--fault", "slow=1"], 1, "The fault 'slow=1' is not valid"),
    ],
)
def test_options_that_are_not_valid(options: list[str], code: int, message: str) -> None:
    result = CliRunner(mix_stderr=False).invoke(main, ["up", "--detach", *options])
    assert result.exit_code == code
    assert message in " ".join(result.stderr.split())


def test_every_limit_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "limits.md").read_text(encoding="utf-8")
    named = {name for name in LIMITS if f"`{name}`" in page}
    of_states = {
        name for name, limit in LIMITS.items() if name.startswith("states.") and limit.kind == "rate"
    }
    assert named | of_states == set(LIMITS)
