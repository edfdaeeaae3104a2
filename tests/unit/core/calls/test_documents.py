"""Services within limits, and with results that are kept: in the pipeline and in the fan-out."""

import importlib
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import services as services_package
from core import deadline, services
from core.calls.rates import Bucket
from core.calls.versions import code_version
from core.errors import RateLimited, ThrottleError, TransientError
from core.patience import ATTEMPTS
from core.services import ServiceError, run_service
from core.stored import read_stored
from core.table import get_item
from pipeline import service as pipeline_service
from pipeline.requests import store_document
from tests.unit.fake_aws import FakeAws, FakeContext

Provide = Callable[..., list[dict[str, Any]]]

KEPT = '@service(reuse="7 days")'
LIMITED = '@service(rate_limit="2/second", calls="shared")'


@pytest.fixture
def provide(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Provide:
    """`provide(decorator, body)`: deploys the service `measure`; returns the documents it is called with.

    `body`: what it does after noting its document.
    """
    monkeypatch.setattr(services, "SERVICES_DIR", tmp_path)
    monkeypatch.setattr(services_package, "__path__", [str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(decorator: str, body: str = "return len(document['text'])") -> list[dict[str, Any]]:
        monkeypatch.delitem(sys.modules, "services.measure", raising=False)
        importlib.invalidate_caches()
        code_version.cache_clear()
        head = "from stepflake_lambda import service, ThrottleError, TransientError\n\nDOCUMENTS = []\n"
        function = (
            f"def measure(document):\n    DOCUMENTS.append(document)\n{textwrap.indent(body, '    ')}\n"
        )
        (tmp_path / "measure.py").write_text(f"{head}\n\n{decorator}\n{function}")
        documents: list[dict[str, Any]] = importlib.import_module("services.measure").DOCUMENTS
        return documents

    return write


def measure(text: str, **more: Any) -> Any:
    return run_service("measure", {"text": text, **more})


def bucket(name: str = "shared") -> Bucket:
    item = get_item({"pk": f"rate#{name}", "sk": "bucket"})
    assert item
    return read_stored(Bucket, item)


# --- kept results ---


def test_an_equal_document_is_not_called_for_again(provide: Provide) -> None:
    called = provide(KEPT)

    assert [measure("abc"), measure("abc"), measure("ab"), measure("abc", n=1)] == [3, 3, 2, 3]
    assert called == [{"text": "abc"}, {"text": "ab"}, {"text": "abc", "n": 1}]


def test_a_service_that_says_nothing_is_called_each_time(aws: FakeAws, provide: Provide) -> None:
    called = provide("")

    assert [measure("abc"), measure("abc")] == [3, 3]
    assert (len(called), aws.faults.calls) == (2, [])


def test_null_is_kept(provide: Provide) -> None:
    called = provide(KEPT, "return None")

    assert [measure("a"), measure("a")] == [None, None]
    assert len(called) == 1


@pytest.mark.parametrize("error", ["ValueError('no')", "TransientError('busy')", "ThrottleError('slower')"])
def test_an_error_is_not_kept(provide: Provide, error: str) -> None:
    called = provide(KEPT, f"raise {error}")

    for _ in range(2):
        with pytest.raises((ServiceError, TransientError)):
            measure("a")
    assert len(called) == 2


def test_other_code_of_the_service_starts_afresh(provide: Provide) -> None:
    provide(KEPT)
    measure("a")

    called = provide(KEPT, "return 'other'")
    assert measure("a") == "other"
    assert len(called) == 1


@pytest.mark.parametrize("operation", ["batch_get_item", "batch_write_item", "query", "update_item"])
def test_a_table_that_does_not_answer_costs_a_call_and_no_result(
    aws: FakeAws, provide: Provide, operation: str
) -> None:
    called = provide(KEPT)
    aws.faults.fail(operation, "InternalServerError", times=100)

    assert [measure("abc"), measure("abc")] == [3, 3]
    assert len(called) == (1 if operation == "update_item" else 2)


# --- limits ---


def test_calls_wait_for_the_limit(aws: FakeAws, provide: Provide) -> None:
    called = provide(LIMITED)
    began = aws.clock.now

    for number in range(21):
        measure(f"{number}")

    assert len(called) == 21
    assert 8.5 <= aws.clock.now - began <= 10.5
    assert bucket().calls == 21


def test_without_time_for_the_limit_nothing_is_called(aws: FakeAws, provide: Provide) -> None:
    called = provide('@service(rate_limit="1/minute")')
    deadline.begin(FakeContext(seconds_left=50))
    measure("a")

    with pytest.raises(RateLimited, match=r"measure allows 0\.0167 calls a second, for all queries together"):
        measure("b")
    assert called == [{"text": "a"}]


@pytest.mark.parametrize("limit", ['rate_limit="2/second"', "max_concurrency=1"])
def test_a_throttled_call_is_repeated(provide: Provide, limit: str) -> None:
    called = provide(f"@service({limit})", "if len(DOCUMENTS) < 9: raise ThrottleError('slower')\nreturn 1")

    assert measure("a") == 1
    assert len(called) == 9


def test_throttles_lower_the_rate(provide: Provide) -> None:
    provide(LIMITED, "if len(DOCUMENTS) < 9: raise ThrottleError('slower')\nreturn 1")

    measure("a")

    assert bucket().throttles == 8
    assert bucket().per_second < 2


@pytest.mark.parametrize("decorator", ["", KEPT])
def test_without_a_limit_a_throttle_is_left_to_the_queue_and_the_machine(
    aws: FakeAws, provide: Provide, decorator: str
) -> None:
    called = provide(decorator, "raise ThrottleError('slower')")

    with pytest.raises(ThrottleError, match="measure: ThrottleError: slower"):
        measure("a")
    assert (len(called), aws.clock.now) == (1, 1000)


def test_within_a_limit_another_transient_error_is_tried_a_few_times(provide: Provide) -> None:
    called = provide(LIMITED, "raise TransientError('busy')")

    with pytest.raises(TransientError, match="measure: busy"):
        measure("a")
    assert len(called) == ATTEMPTS


def test_a_final_error_is_raised_at_once(provide: Provide) -> None:
    called = provide(LIMITED, "raise ValueError('no')")

    with pytest.raises(ServiceError, match="measure: ValueError: no"):
        measure("a")
    assert len(called) == 1


def test_slots_are_given_back(aws: FakeAws, provide: Provide) -> None:
    provide("@service(max_concurrency=2)", "if document['text'] == 'bad': raise ValueError\nreturn 1")

    measure("a")
    with pytest.raises(ServiceError):
        measure("bad")

    assert aws.dynamodb.items["rate#measure", "slots"]["used"] == {"N": "0"}


def test_a_kept_result_needs_no_limit(aws: FakeAws, provide: Provide) -> None:
    called = provide('@service(rate_limit="1/hour", max_concurrency=1, reuse="7 days")')
    assert measure("abc") == 3
    began = aws.clock.now

    assert [measure("abc") for _ in range(5)] == [3] * 5
    assert (len(called), aws.clock.now) == (1, began)


def test_what_another_worker_answers_while_it_waits_is_not_called(aws: FakeAws, provide: Provide) -> None:
    called = provide('@service(rate_limit="6/minute", reuse="7 days")')
    for text in ("first", "second"):
        measure(text)
    aws.clock.at(5, lambda: measure("same"))

    assert measure("same") == 4
    assert called.count({"text": "same"}) == 1


# --- in the pipeline ---


def run_in_pipeline(request_id: str, seconds_left: float) -> Any:
    event = pipeline_service.Event(request_id=request_id, service="measure", services=["measure"])
    return pipeline_service.handler(event, FakeContext(seconds_left))["output"]["document"]["measure"]


def test_the_pipelines_lambda_leaves_a_limit_to_the_machine(provide: Provide) -> None:
    called = provide('@service(rate_limit="1/minute")')
    for number in range(2):
        store_document(f"r{number}", {"text": "abc"})

    assert run_in_pipeline("r0", 50) == 3
    with pytest.raises(RateLimited):
        run_in_pipeline("r1", 50)
    assert len(called) == 1
    assert run_in_pipeline("r1", 280) == 3
    assert len(called) == 2


def test_the_pipelines_lambda_has_kept_results(provide: Provide) -> None:
    called = provide(KEPT)
    for request_id in ("r0", "r1"):
        store_document(request_id, {"text": "abc"})
        assert run_in_pipeline(request_id, 280) == 3
    assert len(called) == 1
