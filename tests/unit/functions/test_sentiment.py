"""sentiment: with VADER itself, and the calls of Amazon Comprehend that a chunk makes."""

import json
from typing import Any

import pytest

from core import deadline
from core.calls.rows import run_rows
from core.catalog import read_catalog
from core.deadline import STORE_SECONDS
from core.errors import FunctionError, RateLimited, TransientError
from core.patience import ATTEMPTS, LONGEST_PAUSE_SECONDS
from functions.sentiment import sentiment
from tests.unit.fake_aws import FakeAws, FakeContext
from tests.unit.fake_aws.comprehend import FakeComprehend

KEYS = {"Positive", "Negative", "Neutral", "Mixed"}

pytestmark = pytest.mark.usefixtures("aws")


@pytest.fixture
def comprehend(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> FakeComprehend:
    """Amazon Comprehend as the engine, for texts in German."""
    monkeypatch.setenv("SENTIMENT_ENGINE", "comprehend")
    monkeypatch.setenv("SENTIMENT_LANGUAGE", "de")
    return aws.comprehend


def run(texts: list[Any]) -> list[Any]:
    """What the texts become as rows of a chunk."""
    rows = [[text] for text in texts]
    return [json.loads(text) for text in run_rows(read_catalog()["sentiment"], sentiment, rows, 0)]


def asked(aws: FakeAws) -> list[list[str]]:
    """The texts of each call of Comprehend; calls are made in parallel, so in the order of their texts."""
    assert all(call.parameters["LanguageCode"] == "de" for call in aws.faults.calls)
    assert set(aws.faults.operations()) <= {"batch_detect_sentiment"}
    return sorted(call.parameters["TextList"] for call in aws.faults.calls)


def test_vader_scores_good_and_bad_texts() -> None:
    good, bad, both, flat = sentiment(
        ["I am happy, this is great!", "This is terrible and sad.", "I love it and I hate it.", "A table."]
    )
    assert good["Positive"] > 0.5 > good["Negative"]
    assert bad["Negative"] > 0.4 > bad["Positive"]
    assert both["Mixed"] > 0.2
    assert flat == {"Positive": 0, "Negative": 0, "Neutral": 1, "Mixed": 0}
    for scores in (good, bad, both, flat):
        assert set(scores) == KEYS
        assert sum(scores.values()) == pytest.approx(1, abs=0.01)
        assert all(0 <= score <= 1 for score in scores.values())


def test_null_and_blank_texts_are_null() -> None:
    assert sentiment([None, "", "  \n", None]) == [None] * 4
    first, second, third = sentiment([None, "good", ""])
    assert (first, third) == (None, None)
    assert second["Positive"] > 0


def test_comprehend_gets_only_the_texts(aws: FakeAws, comprehend: FakeComprehend) -> None:
    comprehend.positive = {"gut": 0.9, "schlecht": 0.1}
    first, blank, none, last = sentiment(["gut", " ", None, "schlecht"])
    assert (first["Positive"], last["Positive"]) == (0.9, 0.1)
    assert (blank, none) == (None, None)
    assert asked(aws) == [["gut", "schlecht"]]


def test_comprehend_gets_25_texts_a_call_and_their_order_is_kept(
    aws: FakeAws, comprehend: FakeComprehend
) -> None:
    texts = [f"{n:02}" for n in range(60)]
    comprehend.positive = {text: int(text) / 100 for text in texts}
    assert [scores["Positive"] for scores in run(texts)] == [n / 100 for n in range(60)]
    assert asked(aws) == [texts[:25], texts[25:50], texts[50:]]


def test_no_texts_need_no_call(aws: FakeAws, comprehend: FakeComprehend) -> None:
    assert sentiment([None, ""]) == [None, None]
    assert asked(aws) == []


@pytest.mark.parametrize("text", ["a" * 6000, "é" * 3000, "a" + "😀" * 1500])
def test_a_long_text_is_shortened_to_what_comprehend_accepts(
    aws: FakeAws, comprehend: FakeComprehend, text: str
) -> None:
    short = text.encode()[:5000].decode(errors="ignore")
    assert 4996 < len(short.encode()) <= 5000
    comprehend.positive = {short: 0.5}
    assert sentiment([text])[0]["Positive"] == 0.5
    assert asked(aws) == [[short]]


def test_an_error_of_one_text_is_that_rows_error(comprehend: FakeComprehend) -> None:
    comprehend.positive = {"a": 0.5}
    comprehend.errors = {"b": "TEXT_SIZE_LIMIT_EXCEEDED", "c": "INTERNAL_SERVER_ERROR"}
    good, bad, busy = sentiment(["a", "b", "c"])
    assert good["Positive"] == 0.5
    assert type(bad) is ValueError
    assert str(bad) == "Comprehend: TEXT_SIZE_LIMIT_EXCEEDED: why"
    assert type(busy) is TransientError


def test_only_texts_without_an_answer_are_sent_again(aws: FakeAws, comprehend: FakeComprehend) -> None:
    comprehend.positive = {"a": 0.5, "b": 0.25}
    with pytest.raises(TransientError, match="sentiment, row 2: TransientError: Comprehend left the text"):
        run(["a", "b", "left out"])
    assert asked(aws) == [["a", "b", "left out"], *[["left out"]] * (ATTEMPTS - 1)]


def test_a_text_that_is_answered_at_the_second_attempt_has_its_score(
    aws: FakeAws, comprehend: FakeComprehend
) -> None:
    comprehend.positive = {"a": 0.5}
    aws.faults.meanwhile("batch_detect_sentiment", lambda: None)
    aws.faults.meanwhile("batch_detect_sentiment", lambda: comprehend.positive.update(b=0.25))
    assert [scores["Positive"] for scores in run(["a", "b"])] == [0.5, 0.25]


def test_a_throttled_call_waits_and_nothing_is_paid_twice(aws: FakeAws, comprehend: FakeComprehend) -> None:
    texts = [f"{n:02}" for n in range(50)]
    comprehend.positive = {text: int(text) / 100 for text in texts}
    aws.faults.fail("batch_detect_sentiment", "ThrottlingException", times=20)
    deadline.begin(FakeContext(seconds_left=280))
    assert [scores["Positive"] for scores in run(texts)] == [n / 100 for n in range(50)]
    assert len(aws.faults.calls) == 22
    assert 0 < aws.clock.now - 1000 < 20 * LONGEST_PAUSE_SECONDS


def test_throttles_until_the_time_is_over_are_left_to_the_machine(
    aws: FakeAws, comprehend: FakeComprehend
) -> None:
    aws.faults.fail("batch_detect_sentiment", "ThrottlingException", times=10_000)
    deadline.begin(FakeContext(seconds_left=100))
    with pytest.raises(RateLimited):
        run(["a"])
    earliest = 100 - STORE_SECONDS - LONGEST_PAUSE_SECONDS
    assert earliest < aws.clock.now - 1000 <= 100 - STORE_SECONDS


def test_another_transient_error_is_tried_a_few_times_only(aws: FakeAws, comprehend: FakeComprehend) -> None:
    aws.faults.fail("batch_detect_sentiment", "InternalServerException", times=10_000)
    with pytest.raises(TransientError):
        run(["a"])
    assert len(aws.faults.calls) == ATTEMPTS


def test_where_one_call_fails_the_chunk_the_rest_is_not_sent(
    aws: FakeAws, comprehend: FakeComprehend
) -> None:
    aws.faults.fail("batch_detect_sentiment", "UnsupportedLanguageException", times=1)
    aws.faults.fail("batch_detect_sentiment", "ThrottlingException", times=10_000)
    deadline.begin(FakeContext(seconds_left=10_000))
    with pytest.raises(FunctionError, match="UnsupportedLanguageException"):
        run([f"{n}" for n in range(1000)])
    # Of the chunk's 40 calls those that were being made, each by a thread of its own.
    assert len({tuple(texts) for texts in asked(aws)}) <= read_catalog()["sentiment"].concurrency
