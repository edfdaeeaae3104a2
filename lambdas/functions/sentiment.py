from typing import Any

from core.sentiment import score
from stepflake_lambda import remote_function


@remote_function(vectorized=True, chunk_rows=1000, sql_names=("sentiment", "ext_func_async"))
def sentiment(text: list[str | None]) -> list[Any]:
    """Scores a text from 0 to 1 as Positive, Negative, Neutral and Mixed; null for null or blank text."""
    return score(text)
