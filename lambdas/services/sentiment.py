import os
from typing import Any

from core.sentiment import score
from stepflake_lambda import service


@service(rate_limit="${COMPREHEND_RATE_LIMIT}", calls="comprehend", reuse="${SENTIMENT_REUSE}")
def sentiment(document: dict[str, Any]) -> dict[str, Any] | None:
    """The sentiment of `text`: {"label": that of the highest score, "scores": as of the remote function}.

    Null where the text is in a language other than SENTIMENT_LANGUAGE, or is blank.
    """
    code = (document.get("language") or {}).get("code")
    if code not in (None, os.environ["SENTIMENT_LANGUAGE"].partition("-")[0]):
        return None
    scores = score([document["text"]])[0]
    if isinstance(scores, Exception):
        raise scores
    return {"label": max(scores, key=scores.__getitem__), "scores": scores} if scores else None
