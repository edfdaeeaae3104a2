"""AWS in memory, for tests of the Lambdas: the fixture `aws` puts it in place of `boto3.client`.

Operations, parameters, pages and errors are checked against AWS's own models of the services, which botocore
has. What a service does is in the module of its name, as far as the Lambdas use it.
"""

from functools import partial
from typing import Any

from botocore.config import Config

from tests.unit.fake_aws.client import FakeClient
from tests.unit.fake_aws.clock import FakeClock
from tests.unit.fake_aws.comprehend import FakeComprehend
from tests.unit.fake_aws.dynamodb import REUSE_TABLE, TABLE, FakeDynamoDB
from tests.unit.fake_aws.faults import Faults, ProcessDied, client_error
from tests.unit.fake_aws.invocations import CONTEXT, FakeContext
from tests.unit.fake_aws.s3 import BUCKET, FakeS3
from tests.unit.fake_aws.sns import PIPELINE_TOPIC, FakeSNS
from tests.unit.fake_aws.sqs import TASK_DEAD_LETTERS, TASK_QUEUE, FakeSQS
from tests.unit.fake_aws.step_functions import MACHINES, FakeExecution, FakeStepFunctions

__all__ = [
    "CONTEXT",
    "ENVIRONMENT",
    "FakeAws",
    "FakeClient",
    "FakeContext",
    "FakeExecution",
    "ProcessDied",
    "client_error",
]

# What template.yaml gives to the Lambdas.
ENVIRONMENT = {
    "BUCKET": BUCKET,
    "TABLE": TABLE,
    "REUSE_TABLE": REUSE_TABLE,
    "REUSE_MEGABYTES": "1024",
    "STATE_MACHINE_PREFIX": MACHINES,
    "POST_WAIT_SECONDS": "5",
    "GET_WAIT_SECONDS": "5",
    "ROWS_IN_INPUTS": "true",
    "DIAGNOSTICS": "true",
    "SENTIMENT_ENGINE": "vader",
    "SENTIMENT_LANGUAGE": "en",
    "COMPREHEND_RATE_LIMIT": "none",
    "SENTIMENT_REUSE": "none",
    "TASK_QUEUE_URL": TASK_QUEUE,
    "TASK_DEAD_LETTER_QUEUE_URL": TASK_DEAD_LETTERS,
    "TASK_MAX_RECEIVES": "10",
    "PIPELINE_SERVICES": "language,sentiment,keywords",
    "PIPELINE_TOPIC": PIPELINE_TOPIC,
}


class FakeAws:
    """An account with the stack's resources. `clients_made`: the services of all clients that were made."""

    def __init__(self) -> None:
        self.clients_made: list[str] = []
        self.clock = FakeClock()
        self.clear()

    def clear(self) -> None:
        """Makes it a new account: nothing is stored, planned or counted. Clients and the clock stay."""
        self.faults = Faults()
        self.s3 = FakeS3()
        self.dynamodb = FakeDynamoDB()
        self.step_functions = FakeStepFunctions()
        self.sqs = FakeSQS()
        self.sns = FakeSNS()
        self.comprehend = FakeComprehend()

    def client(self, service_name: str, *, config: Config | None = None) -> Any:
        """In place of `boto3.client`."""
        self.clients_made.append(service_name)
        return FakeClient(service_name, partial(self._service, service_name), lambda: self.faults)

    def _service(self, name: str) -> object:
        return getattr(self, "step_functions" if name == "stepfunctions" else name)
