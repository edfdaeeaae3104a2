"""Which errors of AWS are transient, as botocore reads the answers."""

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import create_parser

from core.errors import TransientError, is_transient, reraise_transient
from ingest.landed_objects import find_object
from tests.unit.fake_aws import FakeAws
from tests.unit.fake_aws.faults import AwsError

S3 = ServiceModel(Loader().load_service_model("s3", "service-2"))
NO_BODY = b""
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


def s3_error(operation: str, status: int, body: bytes) -> ClientError:
    """What boto3 raises for this answer."""
    answer = {"status_code": status, "headers": {}, "body": body}
    shape = S3.operation_model(operation).output_shape
    assert shape
    return ClientError(create_parser("rest-xml").parse(answer, shape), operation)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 507])
def test_an_answer_without_a_body_is_transient_by_its_status(status: int) -> None:
    error = s3_error("HeadObject", status, NO_BODY)
    assert error.response["Error"]["Code"] == str(status)
    assert is_transient(error)


@pytest.mark.parametrize("status", [301, 400, 403, 404, 409, 412, 416])
def test_other_statuses_are_not(status: int) -> None:
    assert not is_transient(s3_error("HeadObject", status, NO_BODY))


def test_a_throttle_is_transient_by_its_code_whatever_its_status() -> None:
    assert is_transient(s3_error("GetObject", 503, SLOW_DOWN))
    assert is_transient(ClientError({"Error": {"Code": "ThrottlingException"}}, "StartExecution"))
    assert not is_transient(ClientError({"Error": {"Code": "AccessDeniedException"}}, "StartExecution"))


@pytest.mark.parametrize("error", [ConnectionError(), TimeoutError(), ReadTimeoutError(endpoint_url="s3")])
def test_a_lost_connection_is_transient(error: Exception) -> None:
    assert is_transient(error)


def test_a_head_that_s3_cannot_answer_is_an_error_that_the_machine_retries(aws: FakeAws) -> None:
    unavailable = AwsError("503", ResponseMetadata={"HTTPStatusCode": 503})
    aws.faults.fail("head_object", unavailable)
    with pytest.raises(TransientError):
        reraise_transient(find_object)("ingest/echo/a.csv", None, None)
