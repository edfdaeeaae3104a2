"""The sentiment of texts, by Amazon Comprehend or, without AWS, by the VADER lexicon."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from core.clients import comprehend
from core.errors import TransientError

# BatchDetectSentiment: 25 documents a call, 5,000 bytes a document.
# https://docs.aws.amazon.com/comprehend/latest/dg/guidelines-and-limits.html
DOCUMENTS_PER_CALL = 25
DOCUMENT_BYTES = 5000
PARALLEL_CALLS = 4

Scores = dict[str, float]


def score(texts: list[str | None]) -> list[Scores | Exception | None]:
    """The scores of each text: Positive, Negative, Neutral and Mixed, each 0 to 1.

    None for None or a blank text. An exception in the list is that text's error.
    """
    scored = {row: text for row, text in enumerate(texts) if text and text.strip()}
    engine = _with_comprehend if os.environ["SENTIMENT_ENGINE"] == "comprehend" else _with_vader
    scores = dict(zip(scored, engine(list(scored.values())), strict=True))
    return [scores.get(row) for row in range(len(texts))]


def _with_comprehend(texts: list[str]) -> list[Scores | Exception]:
    parts = [texts[start : start + DOCUMENTS_PER_CALL] for start in range(0, len(texts), DOCUMENTS_PER_CALL)]
    with ThreadPoolExecutor(PARALLEL_CALLS) as pool:
        return [scores for part in pool.map(_detect, parts) for scores in part]


def _detect(texts: list[str]) -> list[Scores | Exception]:
    answer = comprehend().batch_detect_sentiment(
        LanguageCode=os.environ["SENTIMENT_LANGUAGE"], TextList=[_shorten(text) for text in texts]
    )
    scores: list[Scores | Exception] = [TransientError("Comprehend left the text out of its answer")] * len(
        texts
    )
    for result in answer["ResultList"]:
        scores[result["Index"]] = dict(result["SentimentScore"])
    for failed in answer["ErrorList"]:
        message = f"Comprehend: {failed['ErrorCode']}: {failed['ErrorMessage']}"
        is_internal = failed["ErrorCode"] == "INTERNAL_SERVER_ERROR"
        scores[failed["Index"]] = TransientError(message) if is_internal else ValueError(message)
    return scores


def _shorten(text: str) -> str:
    # Comprehend refuses longer texts. The first 5,000 bytes are enough for a score; an error would give none.
    return text.encode("utf-8")[:DOCUMENT_BYTES].decode("utf-8", errors="ignore")


def _with_vader(texts: list[str]) -> list[Scores]:
    analyzer = _vader()
    return [_vader_scores(analyzer.polarity_scores(text)) for text in texts]


def _vader_scores(scores: Scores) -> Scores:
    # VADER has no class Mixed: it is computed as twice the smaller of the positive and negative shares.
    mixed = min(scores["pos"], scores["neg"])
    return {
        "Positive": round(scores["pos"] - mixed, 4),
        "Negative": round(scores["neg"] - mixed, 4),
        "Neutral": round(scores["neu"], 4),
        "Mixed": round(2 * mixed, 4),
    }


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
