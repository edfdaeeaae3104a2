"""The log of a warm Lambda has no keys of the invocation before."""

import importlib
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from batch import initiate, poll
from core.catalog import LAMBDAS_DIR
from core.executions import execution_name
from tests.unit.fake_aws import CONTEXT, FakeAws
from tests.unit.fake_aws.invocations import BATCH_ID, api_event, post_event

HANDLERS = sorted(
    f"{path.parent.name}.{path.stem}"
    for path in LAMBDAS_DIR.glob("*/*.py")
    if "\ndef handler(" in path.read_text(encoding="utf-8")
)


def test_all_handlers_are_found() -> None:
    assert {"batch.initiate", "etl.extract", "fan_out.work", "ingest.lock", "pipeline.connect"} <= set(
        HANDLERS
    )
    assert len(HANDLERS) == 21


@pytest.mark.parametrize("name", HANDLERS)
def test_every_handler_starts_without_the_keys_of_the_invocation_before(aws: FakeAws, name: str) -> None:
    module: Any = importlib.import_module(name)
    module.logger.append_keys(execution="the execution before", run_id="the run before")

    # The event is not what it expects; its keys are reset before it reads it.
    with suppress(Exception):
        module.handler({}, CONTEXT)

    assert not {"execution", "run_id"} & set(module.logger.get_current_keys())


@pytest.mark.parametrize(("handler", "method"), [(initiate.handler, "POST"), (poll.handler, "GET")])
def test_a_refused_request_logs_nothing_of_the_request_before(
    aws: FakeAws, logged: Callable[[], str], handler: Callable[..., Any], method: str
) -> None:
    assert handler(post_event("echo", [["a"]]) | {"httpMethod": method}, CONTEXT)["statusCode"] in (202, 404)
    before = logged()
    assert execution_name("functions", "echo", BATCH_ID) in before

    answer = handler(api_event("echo", method, b"{}", batch_id=None), CONTEXT)

    assert answer["statusCode"] == 400
    [entry] = [json.loads(line) for line in logged().removeprefix(before).splitlines()]
    assert (entry["message"], entry["error"]) == ("refused", "BadRequest")
    assert not {"execution", "query_id"} & set(entry)
    assert entry["function_request_id"] == CONTEXT.aws_request_id
