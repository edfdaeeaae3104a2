"""Texts cut to a length."""


def shorten(text: str, chars: int) -> str:
    """The text with at most `chars` characters; where some are cut off, the last one is an ellipsis."""
    return text if len(text) <= chars else text[: chars - 1] + "…"
