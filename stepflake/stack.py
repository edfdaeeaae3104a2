"""A deployed stack, on this machine or on AWS: where it is, and clients for its account."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from botocore.credentials import Credentials

from stepflake.errors import UserError

# The embedded engine's root user.
ACCESS_KEY = "test"
SECRET_KEY = "test"  # noqa: S105


class StackError(UserError):
    """A stack that does not exist, or cannot be built or deployed."""


@dataclass(frozen=True)
class Stack:
    """A deployed stack. `aws_endpoint_url`: the engine's, None on AWS. `profile`: of the AWS credentials."""

    api_url: str
    aws_endpoint_url: str | None
    region: str
    stack_name: str
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]
    profile: str | None = None

    @classmethod
    def describe(
        cls,
        stack_name: str,
        region: str | None = None,
        profile: str | None = None,
        *,
        endpoint: str | None = None,
    ) -> Self:
        """The stack that CloudFormation knows under this name. `endpoint`: a local engine's.

        Raises StackError.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            session = _session(endpoint, region, profile)
            if session.region_name is None:
                raise StackError("No AWS region is set: name one with --region, or set AWS_REGION.")
            client = client_of("cloudformation", endpoint, region, profile)
            described = client.describe_stacks(StackName=stack_name)["Stacks"][0]
        except (BotoCoreError, ClientError) as error:
            raise StackError(f"Stack {stack_name!r} can't be described: {error}") from error
        outputs = {item["OutputKey"]: item["OutputValue"] for item in described.get("Outputs", [])}
        parameters = {
            item["ParameterKey"]: item["ParameterValue"] for item in described.get("Parameters", [])
        }
        if "ApiUrl" not in outputs:
            raise StackError(f"Stack {stack_name!r} ({described['StackStatus']}) has no output ApiUrl.")
        api_url = outputs["ApiUrl"].rstrip("/")
        if endpoint:
            # https://{api}.execute-api.{region}.amazonaws.com/{stage}, as the engine serves it.
            host, _, stage = api_url.removeprefix("https://").partition("/")
            api_url = f"{endpoint}/_aws/execute-api/{host.split('.')[0]}/{stage}"
        return cls(api_url, endpoint, session.region_name, stack_name, outputs, parameters, profile)

    @property
    def credentials(self) -> Credentials:
        """To sign requests with. Raises StackError where there are none."""
        session = _session(self.aws_endpoint_url, self.region, self.profile)
        credentials: Credentials | None = session.get_credentials()
        if credentials is None:
            raise StackError("There are no AWS credentials; set AWS_PROFILE or name a --profile.")
        return credentials

    def output(self, key: str) -> str:
        """One of the stack's outputs. Raises StackError where what is deployed does not have it."""
        if key not in self.outputs:
            raise StackError(f"Stack {self.stack_name!r} has no output {key}: deploy the current version.")
        return self.outputs[key]

    def environment(self, lambda_name: str) -> Mapping[str, str]:
        """The variables that a Lambda has. `lambda_name`: its logical id. Raises StackError."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            resource = self.client("cloudformation").describe_stack_resource(
                StackName=self.stack_name, LogicalResourceId=lambda_name
            )
            configuration = self.client("lambda").get_function_configuration(
                FunctionName=resource["StackResourceDetail"]["PhysicalResourceId"]
            )
        except (BotoCoreError, ClientError) as error:
            raise StackError(f"The environment of {lambda_name} can't be read: {error}") from error
        variables: Mapping[str, str] = configuration.get("Environment", {}).get("Variables", {})
        return variables

    def client(self, service: str) -> Any:
        """A boto3 client for the stack's account; one for each service, made once."""
        return client_of(service, self.aws_endpoint_url, self.region, self.profile)


@functools.cache
def _session(endpoint: str | None, region: str | None, profile: str | None) -> Any:
    import boto3

    if endpoint:
        return boto3.Session(ACCESS_KEY, SECRET_KEY, region_name=region)
    return boto3.Session(region_name=region, profile_name=profile)


@functools.cache
def client_of(service: str, endpoint: str | None, region: str | None, profile: str | None) -> Any:
    """A boto3 client, made once. `endpoint`: a local engine's, None on AWS."""
    from botocore.config import Config

    # Hosts such as sync-states.127.0.0.1 don't exist.
    config = Config(inject_host_prefix=endpoint is None)
    return _session(endpoint, region, profile).client(service, endpoint_url=endpoint, config=config)
