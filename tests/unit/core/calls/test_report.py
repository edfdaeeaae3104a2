"""What is logged of an invocation's calls, and counted as CloudWatch metrics."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import services
from core.calls import report
from core.errors import ThrottleError
from tests.unit.core.calls.counted import Counted, write_code
from tests.unit.fake_aws import FakeAws

Json = dict[str, Any]

# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDatum.html
UNITS = {
    "Calls": "Count",
    "Throttles": "Count",
    "Waited": "Seconds",
    "Rate": "Count/Second",
    "EqualRows": "Count",
    "ReuseHits": "Count",
    "ReuseMisses": "Count",
}
OF_LIMITS = ("Calls", "Throttles", "Waited", "Rate")
OF_ROWS = ("EqualRows", "ReuseHits", "ReuseMisses")


@pytest.fixture(autouse=True)
def code(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_code(tmp_path, monkeypatch, "f")
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "my-stack")


@pytest.fixture
def metrics(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[Json]]:
    """What was printed in CloudWatch's embedded metric format, checked as far as all of it must be valid."""

    def read() -> list[Json]:
        lines = [line for line in capsys.readouterr().out.splitlines() if "CloudWatchMetrics" in line]
        documents: list[Json] = [json.loads(line) for line in lines]
        for document in documents:
            [directive] = document["_aws"]["CloudWatchMetrics"]
            assert directive["Namespace"] == "stepflake"
            assert isinstance(document["_aws"]["Timestamp"], int)
            for metric in directive["Metrics"]:
                assert metric["Unit"] == UNITS[metric["Name"]]
                assert all(isinstance(value, float) for value in document[metric["Name"]])
            [dimensions] = directive["Dimensions"]
            assert all(isinstance(document[dimension], str) for dimension in dimensions)
            names = {metric["Name"] for metric in directive["Metrics"]}
            assert set(document) == {"_aws", *dimensions, *names}
        return documents

    return read


def values(document: Json) -> dict[str, float]:
    return {name: document[name][0] for name in UNITS if name in document}


def test_a_limit_s_calls_are_counted_by_its_name(metrics: Callable[[], list[Json]]) -> None:
    refusals = [ThrottleError("slower")]

    def refuse(_: Any) -> None:
        if refusals:
            raise refusals.pop()

    Counted(before=refuse, rate_limit="2/second", calls="comprehend").run(list(range(10)))

    [counted] = metrics()
    assert (counted["limit"], counted["service"]) == ("comprehend", "my-stack")
    assert set(values(counted)) == set(OF_LIMITS)
    assert (counted["Calls"], counted["Throttles"], counted["Rate"]) == ([10.0], [1.0], [2.0])
    assert 4 <= counted["Waited"][0] <= 6


def test_a_limit_without_a_rate_has_no_rate(metrics: Callable[[], list[Json]]) -> None:
    Counted(max_concurrency=2).run([1])

    [counted] = metrics()
    assert values(counted) == {"Calls": 1.0, "Throttles": 0.0, "Waited": 0.0}


def test_what_is_spared_is_counted_by_the_function_s_name(metrics: Callable[[], list[Json]]) -> None:
    Counted(reuse="7 days", deduplicate=True).run(["a", "a", "b"])
    Counted(reuse="7 days", deduplicate=True).run(["a", "c", "c", "c", "b"])

    first, second = metrics()
    assert [set(values(each)) for each in (first, second)] == [set(OF_ROWS)] * 2
    assert (first["function"], first["service"]) == ("f", "my-stack")
    assert values(first) == {"EqualRows": 1.0, "ReuseHits": 0.0, "ReuseMisses": 2.0}
    assert values(second) == {"EqualRows": 2.0, "ReuseHits": 2.0, "ReuseMisses": 1.0}


def test_equal_rows_are_counted_without_reuse(metrics: Callable[[], list[Json]]) -> None:
    Counted(deduplicate=True).run(["a", "a"])

    [counted] = metrics()
    assert values(counted) == {"EqualRows": 1.0, "ReuseHits": 0.0, "ReuseMisses": 0.0}


@pytest.mark.parametrize(
    "options", [{}, {"deduplicate": True}, {"rate_limit": "${NONE}", "reuse": "${NONE}"}]
)
def test_where_nothing_is_limited_or_spared_nothing_is_said(
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    metrics: Callable[[], list[Json]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("NONE", "none")
    caplog.set_level(logging.INFO)
    Counted(**options).run(["a", "b"])

    assert metrics() == []
    assert caplog.records == []


def test_the_log_has_one_line_without_the_rows(
    metrics: Callable[[], list[Json]], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    Counted(reuse="7 days", deduplicate=True, rate_limit="5/second").run(["a secret", "a secret", "b secret"])

    [record] = caplog.records
    assert record.name.endswith(report.__name__)
    logged = {
        key: value for key, value in vars(record).items() if key in {"calls", "throttles", "equal_rows"}
    }
    assert logged == {"calls": 2, "throttles": 0, "equal_rows": 1}
    assert (vars(record)["reuse_hits"], vars(record)["reuse_misses"], vars(record)["reuse_lost"]) == (0, 2, 0)
    assert "secret" not in str(vars(record))
    assert "secret" not in capsys.readouterr().out


def test_a_failed_chunk_is_counted_too(metrics: Callable[[], list[Json]]) -> None:
    def refuse(_: Any) -> Any:
        raise ValueError("no")

    with pytest.raises(Exception, match="ValueError: no"):
        Counted(refuse, rate_limit="5/second").run(["a", "b"])

    [counted] = metrics()
    assert counted["Calls"] == [1.0]


def test_a_service_is_counted_as_a_function_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics: Callable[[], list[Json]]
) -> None:
    source = '@service(rate_limit="5/second", reuse="7 days")\ndef language(document): ...\n'
    (tmp_path / "language.py").write_text(f"from stepflake_lambda import service\n\n{source}")
    monkeypatch.setattr(services, "SERVICES_DIR", tmp_path)

    for _ in range(2):
        services.run_service("language", {"text": "What a lovely day"})

    first, second = [dict(zip(OF_LIMITS, numbers, strict=True)) for numbers in ((1, 0, 0, 5), (0, 0, 0, 5))]
    missed, hit = [dict(zip(OF_ROWS, numbers, strict=True)) for numbers in ((0, 0, 1), (0, 1, 0))]
    assert list(map(values, metrics())) == [first, missed, second, hit]
