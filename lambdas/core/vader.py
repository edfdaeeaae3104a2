"""The VADER lexicon's scores of a text, in Comprehend's four classes; it knows English only."""

from functools import cache
from typing import Any


def score(text: str) -> dict[str, float]:
    """Positive, Negative, Neutral and Mixed, each 0 to 1.

    VADER has no class Mixed: it is computed as twice the smaller of the positive and negative shares.
    """
    shares = _analyzer().polarity_scores(text)
    mixed = min(shares["pos"], shares["neg"])
    return {
        "Positive": round(shares["pos"] - mixed, 4),
        "Negative": round(shares["neg"] - mixed, 4),
        "Neutral": round(shares["neu"], 4),
        "Mixed": round(2 * mixed, 4),
    }


@cache
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
