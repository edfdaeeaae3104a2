"""POSTs to functions with a limit: 429 where too much is queued before them, 413 where they never fit."""

import base64
import gzip
import json
from typing import Any

import pytest

from batch import initiate
from core.calls.rates import now_us
from core.table import get_item
from tests.unit.conftest import Deploy
from tests.unit.fake_aws import CONTEXT, FakeAws
from tests.unit.fake_aws.invocations import post_event

PACED = """
    @remote_function(rate_limit="10/second", calls="api")
    def paced(a: int) -> int:
        return a
"""
PACKED = """
    @remote_function(
        vectorized=True, rows_per_call=25, rate_limit="10/second", calls="api", deduplicate=True
    )
    def packed(a: list[int]) -> list[int]:
        return a
"""


def post(name: str, values: list[int], batch: str = "batch") -> tuple[int, Any]:
    """The status and the body of the answer."""
    answer = initiate.handler(post_event(name, [[value] for value in values], batch_id=batch), CONTEXT)
    body = answer["body"]
    if answer["isBase64Encoded"]:
        body = gzip.decompress(base64.b64decode(body))
    return answer["statusCode"], json.loads(body)


def queued_seconds() -> float:
    item = get_item({"pk": "rate#api", "sk": "bucket"})
    return (item["clear_us"] - now_us()) / 1_000_000 if item else 0.0


def test_what_is_queued_beyond_a_batch_s_time_is_429_until_it_fits(aws: FakeAws, deploy: Deploy) -> None:
    deploy(paced=PACED)
    assert post("paced", list(range(2500)), "first")[0] == 202
    status, body = post("paced", list(range(2500)), "second")
    assert (status, body["error"]) == (429, "Throttled")
    assert body["message"].startswith("api allows 10 calls a second, for all queries together")
    assert "MAX_BATCH_ROWS" in body["message"]
    assert len(aws.step_functions.executions) == 1
    aws.clock.sleep(150)
    assert post("paced", list(range(2500)), "second")[0] == 202


def test_a_repeated_post_is_queued_once(aws: FakeAws, deploy: Deploy) -> None:
    deploy(paced=PACED)
    for _ in range(20):
        assert post("paced", list(range(1000)))[0] == 202
    assert 0 < queued_seconds() <= 100


def test_a_batch_that_never_fits_is_413(aws: FakeAws, deploy: Deploy) -> None:
    deploy(paced=PACED)
    status, body = post("paced", list(range(6000)))
    assert (status, body["error"]) == (413, "RequestTooLarge")
    assert "api allows 5,400 in 540 s" in body["message"]
    assert not aws.step_functions.executions


def test_calls_are_counted_and_not_rows(aws: FakeAws, deploy: Deploy) -> None:
    deploy(packed=PACKED)
    assert post("packed", [n % 500 for n in range(4096)])[0] == 202
    # 500 distinct rows are 20 calls, which take 2 s. The POST has waited for its rows meanwhile.
    aws.clock.now -= 5
    assert queued_seconds() == pytest.approx(2, abs=0.1)


def test_a_function_without_a_limit_costs_a_post_nothing(aws: FakeAws) -> None:
    assert post("echo", [1])[0] == 202
    assert not any(call.service == "dynamodb" for call in aws.faults.calls)


@pytest.mark.parametrize("operation", ["put_item", "get_item", "update_item"])
def test_a_table_that_is_throttled_is_429(aws: FakeAws, deploy: Deploy, operation: str) -> None:
    deploy(paced=PACED)
    aws.faults.fail(operation, "ThrottlingException")
    assert post("paced", [1])[0] == 429
    assert post("paced", [1])[0] == 202
