from typing import Any

from core.sentiment import score
from stepflake_lambda import remote_function


@remote_function(
    vectorized=True,
    rows_per_call=25,
    concurrency=8,
    rate_limit="${COMPREHEND_RATE_LIMIT}",
    calls="comprehend",
    deduplicate=True,
    reuse="${SENTIMENT_REUSE}",
    sql_names=("sentiment", "ext_func_async"),
)
def sentiment(text: list[str | None]) -> list[Any]:
    """Scores a text from 0 to 1 as Positive, Negative, Neutral and Mixed; null for null or blank text."""
    return score(text)
