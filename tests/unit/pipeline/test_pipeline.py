"""The pipeline's Lambdas: the plan, what services see, and what they return for a text."""

import json
import re
from typing import Any

import pytest

from core.errors import TransientError
from core.services import ServiceError, UnknownService, load_service, run_service, service_names
from pipeline import preprocess, service
from pipeline.requests import MAX_OUTPUT_BYTES, RequestError
from tests.unit.fake_aws import CONTEXT, FakeAws

pytestmark = pytest.mark.usefixtures("aws")

SERVICES = ["language", "sentiment", "keywords"]
TEXT = "The battery life is excellent, and the delivery was quick."
REVIEW = {"text": TEXT, "stars": 5}


def plan(document: Any, execution: str = "execution-1") -> preprocess.ServicePlan:
    return preprocess.handler({"execution": execution, "input": document}, CONTEXT)


def run(name: str, request_id: str = "r") -> Any:
    return service.handler({"request_id": request_id, "service": name, "services": SERVICES}, CONTEXT)[
        "output"
    ]


# --- preprocess ---


def test_a_new_request_has_the_name_of_its_execution_and_all_services_to_run() -> None:
    assert plan({"document": REVIEW}) == {
        "request_id": "execution-1",
        "services": SERVICES,
        "first": 0,
        "skip": [],
        "finished": [],
        "output": {"document": REVIEW},
    }


def test_preprocess_may_be_repeated() -> None:
    assert plan({"document": REVIEW}) == plan({"document": REVIEW})


def test_an_earlier_request_needs_no_document_and_keeps_its_results() -> None:
    plan({"document": REVIEW, "request_id": "r"})
    output = run("language")

    resumed = plan({"request_id": "r"})

    assert resumed["finished"] == ["language"]
    assert resumed["output"] == output


def test_a_plan_has_start_at_and_skip_of_the_input() -> None:
    planned = plan(
        {"document": REVIEW, "request_id": "r", "start_at": "keywords", "skip": ["sentiment", "language"]}
    )

    assert (planned["first"], planned["skip"]) == (2, ["sentiment", "language"])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"document": REVIEW, "skip": ["language", "translation"]},
         "at $.skip[1]: the pipeline has no service 'translation'; it runs language, sentiment, keywords"),
        ({"document": REVIEW, "start_at": "translation"}, "at $.start_at: the pipeline has no service"),
        ({"request_id": "nobody"}, "at $.request_id: there is no request 'nobody'; send its document"),
        ({"document": REVIEW, "start_at": "keywords"},
         "at $.start_at: 'keywords' comes after language, sentiment, which request "
         "'execution-1' has no result of; start at 'language', or"),
        ({"document": REVIEW, "start_at": "keywords", "skip": ["language"]},
         "'keywords' comes after sentiment, which request"),
        ({"document": {**REVIEW, "keywords": []}},
         "at $.document.keywords: this is where the service keywords puts its result; rename"),
        ({"document": {"stars": 5}}, "at $.document: 'text' is a required property"),
        ({"document": {"text": ""}}, "at $.document.text: "),
        ({"document": REVIEW, "request_id": "a b"}, "at $.request_id: "),
        ({"document": REVIEW, "skip": "language"}, "at $.skip: "),
        ({"document": REVIEW, "runid": "x"}, "at $: "),
        ({}, "at $: "),
        ("r", "at $: "),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_its_path(document: Any, message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        plan(document)


def test_a_request_id_names_one_document() -> None:
    plan({"document": REVIEW, "request_id": "r"})

    with pytest.raises(RequestError, match=r"at \$.document: request 'r' has another document"):
        plan({"document": {"text": "Another one."}, "request_id": "r"})


def test_the_result_of_a_skipped_service_may_be_in_the_document() -> None:
    german = {"text": TEXT, "language": {"code": "de"}}
    plan({"document": german, "request_id": "r", "skip": ["language"]})

    assert run("sentiment")["document"] == {**german, "sentiment": None}


def test_a_run_may_start_after_services_whose_results_are_in_the_document() -> None:
    planned = plan({"document": {"text": TEXT, "language": {"code": "en"}}, "start_at": "sentiment"})

    assert planned["first"] == 1


def test_throttles_are_retried(aws: FakeAws) -> None:
    aws.faults.fail("put_object", "SlowDown")

    with pytest.raises(TransientError, match="SlowDown"):
        plan({"document": REVIEW})


# --- service ---


def test_each_service_sees_those_before_it_and_the_output_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def spy(name: str, document: dict[str, Any]) -> Any:
        seen[name] = set(document)
        return f"from {name}"

    monkeypatch.setattr(service, "run_service", spy)
    plan({"document": REVIEW, "request_id": "r"})
    for name in ("keywords", "language", "sentiment"):
        output = run(name)

    assert seen == {
        "language": {"text", "stars"},
        "sentiment": {"text", "stars", "language"},
        "keywords": {"text", "stars"},
    }
    assert list(output["document"].items())[2:] == [(name, f"from {name}") for name in SERVICES]


def test_a_finished_service_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plan({"document": REVIEW, "request_id": "r"})
    output = run("language")
    monkeypatch.setattr(service, "run_service", lambda name, document: pytest.fail(f"ran {name}"))

    assert run("language") == output


def test_an_output_too_large_for_the_machine_is_an_object(aws: FakeAws) -> None:
    text = TEXT * (MAX_OUTPUT_BYTES // len(TEXT) // 2)
    large = {"text": TEXT, "a": text, "b": text + text}

    output = plan({"document": large, "request_id": "r"})["output"]

    assert list(output) == ["key"]
    assert output["key"].startswith("runs/pipeline.r/output/")
    assert json.loads(aws.s3.objects[output["key"]].body) == large


def test_a_service_without_a_request_says_so() -> None:
    with pytest.raises(RequestError, match="there is no request 'nobody'"):
        run("language", "nobody")


def test_wherever_a_process_dies_a_retry_has_the_same_result(aws: FakeAws) -> None:
    def pipeline() -> Any:
        planned = plan({"document": REVIEW, "request_id": "r"})
        return [run(name) for name in planned["services"] if name not in planned["finished"]][-1:]

    [output] = pipeline()
    deaths = 0
    for death in aws.faults.each_death():
        aws.s3.objects.clear()
        aws.dynamodb.items.clear()
        with death:
            pipeline()
        deaths += death.happened
        finished = plan({"request_id": "r"})["finished"] if aws.dynamodb.items else []

        again = pipeline()

        assert again == ([] if finished == SERVICES else [output])
        assert run(SERVICES[-1]) == output
    assert deaths > 30


# --- services ---


def test_an_unknown_service_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownService, match=r"no service 'os'; there are: .*keywords, language, sentiment"):
        load_service("os")


def test_the_pipelines_services_exist() -> None:
    assert set(SERVICES) <= set(service_names())


def test_a_services_error_names_it() -> None:
    with pytest.raises(ServiceError, match="language: KeyError: 'text'"):
        run_service("language", {})


@pytest.mark.parametrize(
    ("error", "raised"), [(TransientError("busy"), TransientError), (ConnectionError("gone"), TransientError)]
)
def test_errors_of_the_network_are_transient(
    monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception]
) -> None:
    def fail(document: dict[str, Any]) -> Any:
        raise error

    monkeypatch.setattr("services.language.language", fail)

    with pytest.raises(raised, match=f"language: .*{error}"):
        run_service("language", REVIEW)


def test_what_is_not_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.language.language", lambda document: {1, 2})

    with pytest.raises(ServiceError, match="language: what it returned is not JSON"):
        run_service("language", REVIEW)


def test_a_file_without_its_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("services.language.language")

    with pytest.raises(ServiceError, match=r"services/language.py has no function language\(document\)"):
        load_service("language")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (TEXT, "en"),
        ("Das Essen war kalt, und der Kellner war unfreundlich.", "de"),
        ("Excelente producto, llegó a tiempo.", "es"),
        ("この商品は最高です。", "ja"),
        ("物流很快、产品质量非常好、推荐购买。", "zh"),
        ("bad", None),
        ("1234567890 1234567890 !!!", None),
    ],
)
def test_language(text: str, code: str | None) -> None:
    result = run_service("language", {"text": text})

    assert result["code"] == code
    assert (result["confidence"] > 0.9) == (code is not None)


@pytest.mark.parametrize(
    ("document", "label"),
    [
        ({"text": "Wonderful, great, I love it!"}, "Positive"),
        ({"text": "Terrible. I hate it.", "language": {"code": "en"}}, "Negative"),
        ({"text": "It has four wheels.", "language": {"code": None}}, "Neutral"),
    ],
)
def test_sentiment(document: dict[str, Any], label: str) -> None:
    result = run_service("sentiment", document)

    assert result["label"] == label
    assert set(result["scores"]) == {"Positive", "Negative", "Neutral", "Mixed"}


@pytest.mark.parametrize("document", [{"text": "Wunderbar!", "language": {"code": "de"}}, {"text": " "}])
def test_no_sentiment_in_a_language_that_the_engine_does_not_know(document: dict[str, Any]) -> None:
    assert run_service("sentiment", document) is None


def test_a_text_that_comprehend_leaves_out_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTIMENT_ENGINE", "comprehend")

    with pytest.raises(TransientError, match="sentiment: Comprehend left the text out of its answer"):
        run_service("sentiment", REVIEW)


def test_keywords_are_phrases_between_stop_words_best_first() -> None:
    keywords = run_service(
        "keywords", {"text": TEXT + " The battery life lasts.", "language": {"code": "en"}}
    )

    assert [keyword["phrase"] for keyword in keywords][:2] == ["battery life lasts", "battery life"]
    assert keywords[0]["score"] > keywords[-1]["score"] >= 1


@pytest.mark.parametrize(
    ("text", "code", "phrases"),
    [
        ("Der Kellner war sehr freundlich.", "de", ["kellner", "freundlich"]),
        ("The waiter was very polite.", None, ["waiter", "polite"]),
        ("The waiter was very polite.", "tlh", ["waiter", "polite"]),
        ("12345", "en", []),
    ],
)
def test_keywords_by_language(text: str, code: str | None, phrases: list[str]) -> None:
    keywords = run_service("keywords", {"text": text, "language": {"code": code}})

    assert [keyword["phrase"] for keyword in keywords] == phrases
