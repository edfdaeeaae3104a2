"""API Gateway on the engine: what it refuses, how long it waits, and what it makes of a compressed body."""

import gzip
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3

from stepflake.local.engine import REGION, Engine
from stepflake.local.faults import Faults
from stepflake.local.limits import Value

Limits = dict[str, dict[str, Any]]
Request = Callable[..., urllib3.BaseHTTPResponse]
TOO_LARGE = '{"error":"RequestTooLarge"}'


@pytest.fixture(scope="module")
def functions() -> dict[str, str]:
    """The handlers behind the API's paths."""
    return {"api": "app.api", "fails": "app.fail"}


@pytest.fixture(scope="module")
def stage(client: Callable[..., Any], deploy: Callable[..., str], functions: dict[str, str]) -> str:
    """The id of an API with the stage `prod`, as the template makes them."""
    gateway, lambdas = client("apigateway"), client("lambda")
    api = gateway.create_rest_api(name="api", binaryMediaTypes=["*/*"])["id"]
    root = gateway.get_resources(restApiId=api)["items"][0]["id"]
    for path, handler in functions.items():
        arn = lambdas.get_function(FunctionName=deploy(handler))["Configuration"]["FunctionArn"]
        lambdas.add_permission(
            FunctionName=arn,
            StatementId="api",
            Action="lambda:InvokeFunction",
            Principal="apigateway.amazonaws.com",
        )
        resource = gateway.create_resource(restApiId=api, parentId=root, pathPart=path)["id"]
        method = {"restApiId": api, "resourceId": resource, "httpMethod": "POST"}
        gateway.put_method(**method, authorizationType="NONE")
        gateway.put_integration(
            **method,
            type="AWS_PROXY",
            integrationHttpMethod="POST",
            uri=f"arn:aws:apigateway:{REGION}:lambda:path/2015-03-31/functions/{arn}/invocations",
        )
    gateway.put_gateway_response(
        restApiId=api,
        responseType="REQUEST_TOO_LARGE",
        statusCode="413",
        responseTemplates={"application/json": TOO_LARGE},
    )
    gateway.create_deployment(restApiId=api, stageName="prod")
    return str(api)


@pytest.fixture(scope="module")
def request_api(engine: Engine, stage: str) -> Request:
    """`request_api("api", body=..., seconds=...)`: a POST, without retries."""
    pool = urllib3.PoolManager(retries=False)

    def request(
        path: str, body: bytes = b"{}", headers: dict[str, str] | None = None, **query: Any
    ) -> urllib3.BaseHTTPResponse:
        text = "&".join(f"{name}={value}" for name, value in query.items())
        url = f"{engine.url}/_aws/execute-api/{stage}/prod/{path}?{text}"
        return pool.request("POST", url, body, headers={"Content-Type": "application/json"} | (headers or {}))

    return request


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"nobody made {path}"
        time.sleep(0.01)


# Sizes


def test_a_body_that_api_gateway_or_lambda_do_not_carry_is_refused(request_api: Request) -> None:
    assert request_api("api", b"x" * 4_700_000).data == b"True 6266668 None"
    for size in (4_720_000, 10_485_760, 10_485_761):
        answer = request_api("api", b"x" * size)
        assert (answer.status, answer.data.decode()) == (413, TOO_LARGE), size


def test_an_answer_that_lambda_does_not_carry_is_an_error_of_the_gateway(request_api: Request) -> None:
    assert len(request_api("api", characters=6_000_000).data) == 6_000_000
    answer = request_api("api", characters=6_400_000)
    assert (answer.status, answer.json()) == (502, {"message": "Internal server error"})


# Compressed requests


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_body_is_unpacked(
    request_api: Request, coding: str, pack: Callable[[bytes], bytes]
) -> None:
    answer = request_api("api", pack(b"x" * 3000), {"Content-Encoding": coding})
    assert answer.data.decode() == f"True 4000 {coding}"


@pytest.mark.parametrize(
    ("coding", "body"),
    [("br", b"x"), ("gzip", b"not packed"), ("gzip", gzip.compress(b"cut off")[:-9])],
    # Both processes of the tests name them alike: gzip has the time in it.
    ids=["another coding", "not packed", "cut off"],
)
def test_what_cannot_be_unpacked_is_refused(request_api: Request, coding: str, body: bytes) -> None:
    answer = request_api("api", body, {"Content-Encoding": coding})
    assert (answer.status, answer.json()) == (415, {"message": "Unsupported Media Type"})


def test_a_body_is_measured_unpacked(request_api: Request) -> None:
    for size in (5_000_000, 200_000_000):
        answer = request_api("api", gzip.compress(b"x" * size), {"Content-Encoding": "gzip"})
        assert answer.status == 413


# The integration


def test_the_gateway_gives_up_and_the_lambda_goes_on(
    request_api: Request, settings: Callable[..., Limits], tmp_path: Path
) -> None:
    settings(limits={"execute-api.Timeout": Value(1, None)})
    done = tmp_path / "done"
    answer = request_api("api", seconds=3, done=done)
    assert (answer.status, answer.json()) == (504, {"message": "Endpoint request timed out"})
    wait_for(done)


def test_a_lambda_that_fails_is_a_bad_gateway_without_its_reason(request_api: Request) -> None:
    answer = request_api("fails")
    assert (answer.status, answer.json()) == (502, {"message": "Internal server error"})


def test_a_throttle_of_lambda_is_an_internal_error(
    request_api: Request, settings: Callable[..., Limits]
) -> None:
    settings(limits={"lambda.ConcurrentExecutions": Value(0, None)})
    answer = request_api("api")
    assert (answer.status, answer.json()) == (500, {"message": "Internal server error"})


def test_the_api_may_have_a_response_of_its_own_for_a_throttle_of_lambda(
    engine: Engine, client: Callable[..., Any], stage: str, settings: Callable[..., Limits]
) -> None:
    gateway = client("apigateway")
    gateway.put_gateway_response(
        restApiId=stage,
        responseType="INTEGRATION_FAILURE",
        statusCode="429",
        responseTemplates={"application/json": '{"error":"Throttled"}'},
    )
    # A deployment of its own: the stage that is there keeps its responses.
    gateway.create_deployment(restApiId=stage, stageName="mapped")
    settings(limits={"lambda.ConcurrentExecutions": Value(0, None)})
    answer = urllib3.request(
        "POST", f"{engine.url}/_aws/execute-api/{stage}/mapped/api", body=b"{}", retries=False
    )
    assert (answer.status, answer.json()) == (429, {"error": "Throttled"})


# Throttles


def assert_throttled(answer: urllib3.BaseHTTPResponse) -> None:
    assert (answer.status, answer.json()) == (429, {"message": "Too Many Requests"})
    assert answer.headers["x-amzn-errortype"] == "TooManyRequestsException"


def test_the_stages_method_settings_throttle(
    request_api: Request, client: Callable[..., Any], stage: str, settings: Callable[..., Limits]
) -> None:
    def throttle(burst: int, rate: float) -> None:
        client("apigateway").update_stage(
            restApiId=stage,
            stageName="prod",
            patchOperations=[
                {"op": "replace", "path": "/*/*/throttling/burstLimit", "value": str(burst)},
                {"op": "replace", "path": "/*/*/throttling/rateLimit", "value": str(rate)},
            ],
        )

    before = settings()["execute-api.Stage"]
    throttle(2, 0.001)
    assert [request_api("api").status for _ in range(2)] == [200, 200]
    assert_throttled(request_api("api"))
    after = settings()["execute-api.Stage"]
    assert (after["allowed"] - before["allowed"], after["refused"] - before["refused"]) == (2, 1)
    throttle(5000, 10_000)


@pytest.mark.parametrize("limit", ["execute-api.Account", "execute-api.Stage"])
def test_the_engines_own_settings_throttle(
    request_api: Request, settings: Callable[..., Limits], limit: str
) -> None:
    settings(limits={limit: Value(1, 0)})
    assert request_api("api").status == 200
    assert_throttled(request_api("api"))
    settings(has_limits=False)
    assert request_api("api").status == 200


# Faults


def test_faults_of_the_api(request_api: Request, settings: Callable[..., Limits], tmp_path: Path) -> None:
    settings(faults=Faults(throttle=1))
    assert_throttled(request_api("api"))
    done = tmp_path / "done"
    settings(faults=Faults(fail=1))
    assert request_api("api", done=done).status == 500
    assert not done.exists()
    settings(faults=Faults(fail=1, services=("comprehend", "s3")))
    assert request_api("api").status == 200
    settings(faults=Faults(lost=1))
    with pytest.raises(urllib3.exceptions.ProtocolError):
        request_api("api", done=done)
    assert done.exists()
