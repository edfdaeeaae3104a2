from functools import cache
from typing import Any

# For shorter texts langdetect is often wrong, with high confidence.
MIN_BYTES = 20


def language(document: dict[str, Any]) -> dict[str, Any]:
    """The language of `text`: {"code": ISO 639-1, or null where it is unknown, "confidence": 0 to 1}."""
    from langdetect.lang_detect_exception import LangDetectException

    text = document["text"]
    if len(text.encode("utf-8")) < MIN_BYTES:
        return {"code": None, "confidence": 0.0}
    try:
        likeliest = _detector()(text)[0]
    except LangDetectException:  # no letters at all
        return {"code": None, "confidence": 0.0}
    return {"code": likeliest.lang.partition("-")[0], "confidence": round(likeliest.prob, 4)}


@cache
def _detector() -> Any:
    from langdetect import DetectorFactory, detect_langs

    # It samples at random: with a fixed seed, the same text has the same language each time.
    DetectorFactory.seed = 0
    return detect_langs
