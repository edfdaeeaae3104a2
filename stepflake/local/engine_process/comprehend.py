"""Amazon Comprehend's sentiment of texts, which MiniStack has not.

Protocol, limits and errors are Comprehend's. The scores are those of the VADER lexicon, which knows English
only: in another language a text is neutral.
https://docs.aws.amazon.com/comprehend/latest/APIReference/API_BatchDetectSentiment.html
"""

import asyncio
import json
from typing import Any

from stepflake.local.engine_process.account import ACCOUNT
from stepflake.local.engine_process.requests import Answer, Headers

_TARGET = "Comprehend_20171127"

# https://docs.aws.amazon.com/comprehend/latest/APIReference/API_DetectSentiment.html
_LANGUAGES = frozenset({"en", "es", "fr", "de", "it", "pt", "ar", "hi", "ja", "ko", "zh", "zh-TW"})


class RequestError(Exception):
    """What Comprehend refuses: the name of its exception and the message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class DocumentError(RequestError):
    """What Comprehend refuses of one document. `item_code`: as a batch's ErrorList names it."""

    def __init__(self, code: str, item_code: str, message: str) -> None:
        super().__init__(code, message)
        self.item_code = item_code


def install() -> None:
    """Adds the service to those that MiniStack routes, authorizes and answers."""
    from ministack import app  # type: ignore[import-untyped]
    from ministack.core import iam_actions, router  # type: ignore[import-untyped]

    router.SERVICE_PATTERNS["comprehend"] = {
        "target_prefixes": [_TARGET],
        "host_patterns": [r"comprehend\."],
    }
    iam_actions.SERVICE_TO_IAM_NAMESPACE["comprehend"] = "comprehend"
    app.SERVICE_HANDLERS["comprehend"] = handle_request


async def handle_request(
    _method: str, _path: str, headers: Headers, body: bytes, _query: dict[str, list[str]]
) -> Answer:
    """Answers one request."""
    operation = headers.get("x-amz-target", "").rpartition(".")[2]
    try:
        # In a thread: the first call loads the lexicon, and 25 long texts take a while.
        return _answer(200, await asyncio.to_thread(_detect, operation, body))
    except RequestError as error:
        return _answer(400, {"__type": error.code, "Message": str(error)})


def _answer(status: int, document: dict[str, Any]) -> Answer:
    return status, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(document).encode()


def _detect(operation: str, body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except ValueError:
        raise RequestError("SerializationException", "The request's body is not JSON.") from None
    if operation == "DetectSentiment":
        _check_language(request)
        return _sentiment(request.get("Text"))
    if operation == "BatchDetectSentiment":
        return _batch(request)
    raise RequestError("UnknownOperationException", f"The local engine has no {operation}.")


def _check_language(request: dict[str, Any]) -> None:
    language = request.get("LanguageCode")
    if not language:
        raise RequestError("InvalidRequestException", "LanguageCode is missing.")
    if language not in _LANGUAGES:
        raise RequestError("UnsupportedLanguageException", f"Unsupported language: {language}.")


def _batch(request: dict[str, Any]) -> dict[str, Any]:
    _check_language(request)
    texts = request.get("TextList")
    if not isinstance(texts, list) or not texts:
        raise RequestError("InvalidRequestException", "TextList is missing or empty.")
    if not ACCOUNT.fits("comprehend.Documents", len(texts)):
        raise RequestError(
            "BatchSizeLimitExceededException",
            f"The batch has {len(texts)} documents and may have {_most('comprehend.Documents')}.",
        )
    results, errors = [], []
    for index, text in enumerate(texts):
        try:
            results.append({"Index": index, **_sentiment(text)})
        except DocumentError as error:
            errors.append({"Index": index, "ErrorCode": error.item_code, "ErrorMessage": str(error)})
    return {"ResultList": results, "ErrorList": errors}


def _most(limit: str) -> int:
    return int(ACCOUNT.value(limit).size)


def _sentiment(text: Any) -> dict[str, Any]:
    from core.vader import score

    if not isinstance(text, str) or not text:
        raise DocumentError("InvalidRequestException", "INVALID_REQUEST", "The text is missing or empty.")
    size = len(text.encode("utf-8", "surrogatepass"))
    if not ACCOUNT.fits("comprehend.DocumentSize", size):
        raise DocumentError(
            "TextSizeLimitExceededException",
            "TEXT_SIZE_LIMIT_EXCEEDED",
            f"The text has {size} bytes and may have {_most('comprehend.DocumentSize')}.",
        )
    scores = score(text)
    return {"Sentiment": max(scores, key=scores.__getitem__).upper(), "SentimentScore": scores}
