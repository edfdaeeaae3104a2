"""Amazon Comprehend in memory, with the scores that a test gives its texts."""

from typing import Any

from tests.unit.fake_aws.faults import AwsError

# https://docs.aws.amazon.com/comprehend/latest/dg/guidelines-and-limits.html
MAX_TEXTS = 25
MAX_TEXT_BYTES = 5000


class FakeComprehend:
    """`positive`: the score of a text, 0 to 1; `errors`: the error code of a text. Others are left out."""

    def __init__(self) -> None:
        self.positive: dict[str, float] = {}
        self.errors: dict[str, str] = {}

    def batch_detect_sentiment(self, *, LanguageCode: str, TextList: list[str]) -> dict[str, Any]:
        """Answers in reverse order: only the index says which text is meant."""
        if len(TextList) > MAX_TEXTS:
            raise AwsError("BatchSizeLimitExceededException", f"at most {MAX_TEXTS} documents")
        results, errors = [], []
        for index, text in reversed(list(enumerate(TextList))):
            code = (
                "TEXT_SIZE_LIMIT_EXCEEDED" if len(text.encode()) > MAX_TEXT_BYTES else self.errors.get(text)
            )
            if code:
                errors.append({"Index": index, "ErrorCode": code, "ErrorMessage": "why"})
            elif text in self.positive:
                scores = {"Positive": self.positive[text], "Negative": 0.0, "Neutral": 0.0, "Mixed": 0.0}
                results.append({"Index": index, "Sentiment": "POSITIVE", "SentimentScore": scores})
        return {"ResultList": results, "ErrorList": errors}
