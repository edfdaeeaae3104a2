"""The sentiment of texts, by Amazon Comprehend or by the VADER lexicon.

Comprehend answers ten calls a second, so a chunk of rows is throttled in the normal case. Whoever waits keeps
what was answered already: if the machine ran the chunk again instead, every text would be paid for twice.
"""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

from core import vader
from core.clients import comprehend
from core.deadline import seconds_left
from core.errors import TransientError, is_throttle, is_transient

# BatchDetectSentiment: 25 documents a call, 5,000 bytes a document.
# https://docs.aws.amazon.com/comprehend/latest/dg/guidelines-and-limits.html
DOCUMENTS_PER_CALL = 25
DOCUMENT_BYTES = 5000
PARALLEL_CALLS = 4

# A pause is drawn from 0 to a bound, which doubles from the first to the longest. Longer ones would leave
# part of the quota unused while few calls are left; shorter ones would only be refused more often.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 4.0
# Calls with the same texts that fail otherwise than by a throttle.
ATTEMPTS = 4
# What the last call and storing the chunk may take.
RESERVED_SECONDS = 5.0

Scores = dict[str, float]


def score(texts: list[str | None]) -> list[Scores | Exception | None]:
    """The scores of each text: Positive, Negative, Neutral and Mixed, each 0 to 1.

    None for None or a blank text. An exception in the list is that text's error. Raises what Comprehend
    answers to a call, and a throttle only where the invocation has no time left to wait.
    """
    scored = {row: text for row, text in enumerate(texts) if text and text.strip()}
    engine = _with_comprehend if os.environ["SENTIMENT_ENGINE"] == "comprehend" else _with_vader
    scores = dict(zip(scored, engine(list(scored.values())), strict=True))
    return [scores.get(row) for row in range(len(texts))]


def _with_vader(texts: list[str]) -> list[Scores | Exception]:
    return [vader.score(text) for text in texts]


def _with_comprehend(texts: list[str]) -> list[Scores | Exception]:
    parts = [texts[start : start + DOCUMENTS_PER_CALL] for start in range(0, len(texts), DOCUMENTS_PER_CALL)]
    # Where one call fails the chunk, no other is made, and so none is paid for.
    failures: list[Exception] = []

    def detect(part: list[str]) -> list[Scores | Exception]:
        try:
            return _detect(part, failures)
        except Exception as error:  # noqa: BLE001 - it is raised below
            failures.append(error)
            return []

    with ThreadPoolExecutor(PARALLEL_CALLS) as pool:
        answers = list(pool.map(detect, parts))
    if failures:
        raise failures[0]
    return [scores for part in answers for scores in part]


def _detect(texts: list[str], failures: list[Exception]) -> list[Scores | Exception]:
    """The scores of at most DOCUMENTS_PER_CALL texts, unless another call failed meanwhile."""
    answers: dict[int, Scores | Exception] = {}
    attempts = pauses = 0
    while not failures:
        asked = [row for row in range(len(texts)) if not isinstance(answers.get(row), dict | ValueError)]
        try:
            answered = _call([texts[row] for row in asked])
        except Exception as error:
            attempts += not is_throttle(error)
            if not is_transient(error) or attempts == ATTEMPTS or not _pause(pauses):
                raise
        else:
            answers |= dict(zip(asked, answered, strict=True))
            attempts += 1
            is_done = not any(isinstance(answer, TransientError) for answer in answered)
            if is_done or attempts == ATTEMPTS or not _pause(pauses):
                break
        pauses += 1
    return [answers[row] for row in sorted(answers)]


def _call(texts: list[str]) -> list[Scores | Exception]:
    """One call. A TransientError in the list is that of a text which another call may score."""
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


def _pause(pauses: int) -> bool:
    """Waits before the next attempt; False where the invocation has no time left for one."""
    # The exponent is bounded too: there can be thousands of pauses.
    bound = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(pauses, 10))
    seconds = random.uniform(0, bound)  # noqa: S311 - so that those who were refused do not come back together
    if seconds_left() < RESERVED_SECONDS + seconds:
        return False
    time.sleep(seconds)
    return True


def _shorten(text: str) -> str:
    # Comprehend refuses longer texts. The first 5,000 bytes are enough for a score; an error would give none.
    return text.encode("utf-8")[:DOCUMENT_BYTES].decode("utf-8", errors="ignore")
