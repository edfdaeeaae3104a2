from functools import cache
from typing import Any

# Shorter phrases are mostly stop words that the list lacks.
MIN_CHARACTERS = 3
MAX_WORDS = 3
MAX_KEYWORDS = 10


def keywords(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The most relevant phrases of `text`, best first: [{"phrase": ..., "score": RAKE's, 1 and more}].

    Phrases are the words between stop words of the text's language, or of English where that is unknown.
    """
    code = (document.get("language") or {}).get("code") or "en"
    phrases = _rake(code).run(document["text"], minCharacters=MIN_CHARACTERS, maxWords=MAX_WORDS)
    # A phrase of digits only has a score of 0.
    return [{"phrase": phrase, "score": round(score, 2)} for phrase, score in phrases if score][:MAX_KEYWORDS]


@cache
def _rake(code: str) -> Any:
    import RAKE
    from stopwordsiso import has_lang, stopwords

    return RAKE.Rake(sorted(stopwords(code if has_lang(code) else "en")))
