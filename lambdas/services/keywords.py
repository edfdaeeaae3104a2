from functools import cache
from typing import Any

# Shorter ones are mostly what the list of stop words forgot.
MIN_CHARACTERS = 3
MAX_WORDS = 3
MAX_KEYWORDS = 10


def keywords(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The phrases that say most of `text`, best first: [{"phrase": ..., "score": RAKE's, 1 and more}].

    Phrases are what lies between stop words of the text's language, or of English where that is unknown.
    """
    code = (document.get("language") or {}).get("code") or "en"
    found = _rake(code).run(document["text"], minCharacters=MIN_CHARACTERS, maxWords=MAX_WORDS)
    # A score of 0: nothing but digits.
    return [{"phrase": phrase, "score": round(score, 2)} for phrase, score in found if score][:MAX_KEYWORDS]


@cache
def _rake(code: str) -> Any:
    import RAKE
    from stopwordsiso import has_lang, stopwords

    return RAKE.Rake(sorted(stopwords(code if has_lang(code) else "en")))
