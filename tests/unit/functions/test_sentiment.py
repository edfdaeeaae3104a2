"""sentiment: VADER as it is, and Amazon Comprehend's batch call against botocore's Stubber."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from core.errors import TransientError
from functions import sentiment as module
from functions.sentiment import sentiment

KEYS = {"Positive", "Negative", "Neutral", "Mixed"}


@pytest.fixture
def vader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTIMENT_ENGINE", "vader")


@pytest.fixture
def comprehend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """Amazon Comprehend, which answers what the test adds and checks what it is asked."""
    client = boto3.client(
        "comprehend", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    monkeypatch.setenv("SENTIMENT_ENGINE", "comprehend")
    monkeypatch.setenv("SENTIMENT_LANGUAGE", "de")
    monkeypatch.setattr(module, "_comprehend", lambda: client)
    monkeypatch.setattr(module, "CALLS_AT_ONCE", 1)  # a Stubber answers in one order
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()
    client.close()


def answer(
    stubber: Stubber, texts: list[str], scores: dict[int, float], errors: dict[int, str] | None = None
) -> None:
    """Comprehend answers these texts: by index a score, or an error's code."""
    stubber.add_response(
        "batch_detect_sentiment",
        {
            "ResultList": [
                {
                    "Index": index,
                    "Sentiment": "POSITIVE",
                    "SentimentScore": {"Positive": score, "Negative": 0.0, "Neutral": 0.0, "Mixed": 0.0},
                }
                for index, score in scores.items()
            ],
            "ErrorList": [
                {"Index": index, "ErrorCode": code, "ErrorMessage": "why"}
                for index, code in (errors or {}).items()
            ],
        },
        {"LanguageCode": "de", "TextList": texts},
    )


@pytest.mark.usefixtures("vader")
def test_vader_knows_what_is_good_and_what_is_bad() -> None:
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


@pytest.mark.usefixtures("vader")
def test_null_and_blank_texts_are_null() -> None:
    assert sentiment([None, "", "  \n", None]) == [None] * 4
    first, second, third = sentiment([None, "good", ""])
    assert (first, third) == (None, None)
    assert second["Positive"] > 0


def test_comprehend_is_asked_for_the_texts_alone(comprehend: Stubber) -> None:
    answer(comprehend, ["gut", "schlecht"], {1: 0.1, 0: 0.9})
    first, blank, none, last = sentiment(["gut", " ", None, "schlecht"])
    assert (first["Positive"], last["Positive"]) == (0.9, 0.1)
    assert (blank, none) == (None, None)


def test_comprehend_gets_25_texts_a_call_and_their_order_stays(comprehend: Stubber) -> None:
    texts = [str(n) for n in range(60)]
    for start in range(0, 60, 25):
        part = texts[start : start + 25]
        answer(comprehend, part, {index: int(text) / 100 for index, text in enumerate(part)})
    assert [scores["Positive"] for scores in sentiment(list(texts))] == [n / 100 for n in range(60)]


def test_no_texts_are_no_call(comprehend: Stubber) -> None:
    assert sentiment([None, ""]) == [None, None]


@pytest.mark.parametrize("text", ["a" * 6000, "é" * 3000, "a" + "😀" * 1500])
def test_a_long_text_is_shortened_to_what_comprehend_takes(comprehend: Stubber, text: str) -> None:
    short = module._shorten(text)
    assert text.startswith(short)
    assert 4996 < len(short.encode()) <= 5000
    answer(comprehend, [short], {0: 0.5})
    assert sentiment([text])[0]["Positive"] == 0.5


def test_an_error_of_one_text_is_that_rows_error(comprehend: Stubber) -> None:
    answer(comprehend, ["a", "b", "c"], {0: 0.5}, {1: "TEXT_SIZE_LIMIT_EXCEEDED", 2: "INTERNAL_SERVER_ERROR"})
    good, bad, busy = sentiment(["a", "b", "c"])
    assert good["Positive"] == 0.5
    assert type(bad) is ValueError
    assert str(bad) == "Comprehend: TEXT_SIZE_LIMIT_EXCEEDED: why"
    assert type(busy) is TransientError


def test_a_text_left_out_is_asked_again(comprehend: Stubber) -> None:
    answer(comprehend, ["a", "b"], {0: 0.5})
    found: list[Any] = sentiment(["a", "b"])
    assert type(found[1]) is TransientError


def test_a_throttle_is_what_the_machine_tries_again(comprehend: Stubber) -> None:
    from core.catalog import read_catalog
    from core.remote import run_rows

    comprehend.add_client_error("batch_detect_sentiment", "ThrottlingException")
    with pytest.raises(TransientError):
        run_rows(read_catalog()["sentiment"], sentiment, [["a"]], 0)
