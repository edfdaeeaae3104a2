"""Amazon Comprehend on the engine, as boto3 sees it: answers, errors, the quota and IAM."""

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from core.vader import score
from stepflake.local.engine import REGION, Engine
from stepflake.local.faults import Faults
from stepflake.local.limits import Value
from stepflake.stack import ACCESS_KEY, SECRET_KEY

TEXTS = ["I am happy, this is great!", "This is terrible and sad.", "I love it and I hate it.", "A table."]


def comprehend_as(engine: Engine, access_key: str, secret_key: str, token: str | None = None) -> Any:
    """A client that sends what botocore would not, so that the service says what is wrong with it."""
    session: Any = boto3.Session(access_key, secret_key, token, region_name=REGION)
    config = Config(retries={"total_max_attempts": 1}, parameter_validation=False)
    return session.client("comprehend", endpoint_url=engine.url, config=config)


@pytest.fixture(scope="module")
def comprehend(engine: Engine) -> Any:
    return comprehend_as(engine, ACCESS_KEY, SECRET_KEY)


def refused(call: Callable[..., Any], **parameters: Any) -> tuple[str, int]:
    """The code and the status with which a call is refused."""
    with pytest.raises(ClientError) as caught:
        call(LanguageCode=parameters.pop("LanguageCode", "en"), **parameters)
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


def test_a_batch_is_scored_by_vader(comprehend: Any) -> None:
    answer = comprehend.batch_detect_sentiment(LanguageCode="en", TextList=TEXTS)
    assert answer["ErrorList"] == []
    assert [result["Index"] for result in answer["ResultList"]] == [0, 1, 2, 3]
    assert [result["SentimentScore"] for result in answer["ResultList"]] == [score(text) for text in TEXTS]
    assert [result["Sentiment"] for result in answer["ResultList"]] == [
        "POSITIVE",
        "NEGATIVE",
        "MIXED",
        "NEUTRAL",
    ]


def test_one_text_is_scored_as_in_a_batch(comprehend: Any) -> None:
    answer = comprehend.detect_sentiment(LanguageCode="en", Text=TEXTS[0])
    assert (answer["Sentiment"], answer["SentimentScore"]) == ("POSITIVE", score(TEXTS[0]))


def test_a_bad_document_of_a_batch_is_in_its_error_list(comprehend: Any) -> None:
    longest = "é" * 2500
    answer = comprehend.batch_detect_sentiment(
        LanguageCode="en", TextList=[longest, longest + "!", "", "good"]
    )
    assert [result["Index"] for result in answer["ResultList"]] == [0, 3]
    assert [(error["Index"], error["ErrorCode"]) for error in answer["ErrorList"]] == [
        (1, "TEXT_SIZE_LIMIT_EXCEEDED"),
        (2, "INVALID_REQUEST"),
    ]
    assert "5001 bytes" in answer["ErrorList"][0]["ErrorMessage"]


def test_errors_of_a_request(comprehend: Any) -> None:
    batch, one = comprehend.batch_detect_sentiment, comprehend.detect_sentiment
    assert refused(batch, TextList=["a"] * 26) == ("BatchSizeLimitExceededException", 400)
    assert refused(batch, TextList=[]) == ("InvalidRequestException", 400)
    assert refused(batch, TextList=["a"], LanguageCode="xx") == ("UnsupportedLanguageException", 400)
    assert refused(batch, TextList=["a"], LanguageCode="") == ("InvalidRequestException", 400)
    assert refused(one, Text="a" * 5001) == ("TextSizeLimitExceededException", 400)
    assert refused(one, Text="") == ("InvalidRequestException", 400)
    assert refused(one, Text="a", LanguageCode="xx") == ("UnsupportedLanguageException", 400)
    assert refused(comprehend.detect_syntax, Text="a") == ("UnknownOperationException", 400)


def test_calls_above_the_quota_are_throttled(
    comprehend: Any, settings: Callable[..., dict[str, dict[str, Any]]]
) -> None:
    before = settings(limits={"comprehend.BatchDetectSentiment": Value(2, 0)})
    for _ in range(2):
        comprehend.batch_detect_sentiment(LanguageCode="en", TextList=["a"])
    assert refused(comprehend.batch_detect_sentiment, TextList=["a"]) == ("ThrottlingException", 429)
    comprehend.detect_sentiment(LanguageCode="en", Text="a")  # it has a quota of its own
    after = settings()
    name = "comprehend.BatchDetectSentiment"
    assert after[name]["allowed"] - before[name]["allowed"] == 2
    assert after[name]["refused"] - before[name]["refused"] == 1


def test_what_became_of_calls_is_counted(
    role_client: Callable[[str], Any], settings: Callable[..., dict[str, dict[str, Any]]]
) -> None:
    name, documents = "comprehend.BatchDetectSentiment", "comprehend.DocumentSize"
    scorer = role_client("comprehend")
    throttle, fail = (Faults(**{fault: 1}, services=("comprehend",)) for fault in ("throttle", "fail"))
    before = settings(limits={name: Value(2, 0)})
    outcomes = []
    for faults in (Faults(), throttle, fail, fail, Faults(), Faults()):
        settings(faults=faults)
        try:
            scorer.batch_detect_sentiment(LanguageCode="en", TextList=["a", "b", "c"])
            outcomes.append("")
        except ClientError as error:
            outcomes.append(error.response["Error"]["Code"])
    throttled, failed = "ThrottlingException", "InternalServerException"
    assert outcomes == ["", throttled, failed, failed, "", throttled], "faults take no token"

    after = settings()
    counted = {each: after[name][each] - before[name][each] for each in ("allowed", "refused", "failed")}
    assert counted == {"allowed": 2, "refused": 1, "failed": 3}
    assert after[documents]["allowed"] - before[documents]["allowed"] == 6, "documents that were scored"
    assert 1 <= after[name]["peak"] <= 6


def test_sizes_and_rates_do_not_apply_where_limits_are_off(
    comprehend: Any, settings: Callable[..., dict[str, dict[str, Any]]]
) -> None:
    settings(has_limits=False, limits={"comprehend.BatchDetectSentiment": Value(0, 0)})
    answer = comprehend.batch_detect_sentiment(LanguageCode="en", TextList=["a" * 6000] * 30)
    assert len(answer["ResultList"]) == 30


def test_a_role_needs_the_permission(engine: Engine, client: Callable[..., Any]) -> None:
    iam, sts = client("iam"), client("sts")
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    iam.create_role(RoleName="scorer", AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}))
    arn = iam.get_role(RoleName="scorer")["Role"]["Arn"]
    keys = sts.assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
    scorer = comprehend_as(engine, keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    assert refused(scorer.batch_detect_sentiment, TextList=["a"])[0] == "AccessDeniedException"
    allowed = {"Effect": "Allow", "Action": "comprehend:BatchDetectSentiment", "Resource": "*"}
    iam.put_role_policy(
        RoleName="scorer",
        PolicyName="p",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}),
    )
    assert scorer.batch_detect_sentiment(LanguageCode="en", TextList=["a"])["ErrorList"] == []
    assert refused(scorer.detect_sentiment, Text="a")[0] == "AccessDeniedException"
