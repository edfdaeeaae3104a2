"""The sentiment of texts, by Amazon Comprehend or by the VADER lexicon."""

import os

from core import vader
from core.clients import comprehend
from core.errors import TransientError

# https://docs.aws.amazon.com/comprehend/latest/dg/guidelines-and-limits.html
DOCUMENT_BYTES = 5000

Scores = dict[str, float]


def score(texts: list[str | None]) -> list[Scores | Exception | None]:
    """The scores of each text: Positive, Negative, Neutral and Mixed, each 0 to 1; at most 25 texts.

    None for None or a blank text. An exception in the list is that text's error; a TransientError, one that
    another call may avoid. Raises what Comprehend answers to the call.
    """
    scored = {row: text for row, text in enumerate(texts) if text and text.strip()}
    if not scored:
        return [None] * len(texts)
    engine = _with_comprehend if os.environ["SENTIMENT_ENGINE"] == "comprehend" else _with_vader
    scores = dict(zip(scored, engine(list(scored.values())), strict=True))
    return [scores.get(row) for row in range(len(texts))]


def _with_vader(texts: list[str]) -> list[Scores | Exception]:
    return [vader.score(text) for text in texts]


def _with_comprehend(texts: list[str]) -> list[Scores | Exception]:
    answer = comprehend().batch_detect_sentiment(
        LanguageCode=os.environ["SENTIMENT_LANGUAGE"], TextList=[_shorten(text) for text in texts]
    )
    missing = TransientError("Comprehend left the text out of its answer")
    scores: list[Scores | Exception] = [missing] * len(texts)
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
