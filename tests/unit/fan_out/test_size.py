"""10,000 tasks in one run: what it needs of AWS's limits and costs, by the definition and the constants.

docs/fan-out.md shows the same numbers, and is checked against them.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from core.exact_json import dump_json
from fan_out import split, tasks
from fan_out.tasks import GroupedTaskPlan, TaskGroup

ROOT = Path(__file__).parents[3]
DEFINITION = json.loads((ROOT / "statemachines/fan_out.asl.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/fan-out.md").read_text(encoding="utf-8")
TASKS = 10_000

# https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
MAX_EVENTS = 25_000
MAX_PAYLOAD_BYTES = 262_144
MAX_INLINE_CONCURRENCY = 40
ANSWERS_BUCKET, ANSWERS_A_SECOND = 3_000, 500

# Dollars for a million in us-east-1, from the services' pricing pages: https://aws.amazon.com/pricing/
TRANSITION, SQS_REQUEST, LAMBDA_REQUEST, TABLE_WRITE, TABLE_READ = 25.0, 0.40, 0.20, 0.625, 0.125
S3_PUT, S3_GET = 5.0, 0.40
LAMBDA_GB_SECOND = 0.0000133334

# Assumed for one task in the worker: two writes, one callback, a fast service.
WORKER_SECONDS = 0.03

GROUPS = DEFINITION["States"]["Run groups"]
GROUP = GROUPS["ItemProcessor"]["States"]["Run tasks"]
TASK_STATES = GROUP["ItemProcessor"]["States"]

# A state's own two events, and a run's: https://docs.aws.amazon.com/step-functions/latest/apireference/API_HistoryEvent.html
ENTERED_AND_EXITED = 2
STARTED_AND_ENDED = 2


def attempts(state: Mapping[str, Any]) -> int:
    """The largest number of attempts of a Task: the first, and those of all its retriers."""
    return 1 + sum(int(retrier["MaxAttempts"]) for retrier in state["Retry"])


def events(state: Mapping[str, Any], tries: int = 1) -> int:
    """A Task's events: scheduled, started and ended for each attempt; with a token also submitted."""
    each = 4 if state["Resource"].endswith(".waitForTaskToken") else 3
    return ENTERED_AND_EXITED + each * tries


def child_events(group: int, *, worst: bool) -> int:
    """The history of one child execution. At worst each task needs all attempts of all its states."""
    needed = TASK_STATES.values() if worst else [TASK_STATES["Queue task"]]
    of_task = sum(events(state, attempts(state) if worst else 1) for state in needed)
    map_state = ENTERED_AND_EXITED + STARTED_AND_ENDED
    return STARTED_AND_ENDED + map_state + group * (STARTED_AND_ENDED + of_task)


def parent_events(*, worst: bool) -> int:
    states = DEFINITION["States"]
    of_tasks = sum(events(states[name], attempts(states[name]) if worst else 1) for name in ("Split", "Join"))
    return STARTED_AND_ENDED + of_tasks + ENTERED_AND_EXITED + STARTED_AND_ENDED


def groups_bytes(count: int) -> int:
    """The size of the plan that `Split` passes to `Run groups`, with the longest names."""
    run_id, round_, service = "r" * 80, "e" * 80 + "/10", "s" * 32
    planned = [
        TaskGroup(run_id=run_id, round=round_, service=service, tasks=list(numbers))
        for _, numbers in tasks.groups_of(count)
    ]
    plan = GroupedTaskPlan(run_id=run_id, round=round_, tasks=count, on_task_error="entry", groups=planned)
    return len(dump_json(plan).encode())


def transitions(count: int) -> int:
    """What is charged: each state entered, and each child execution started."""
    groups = len(list(tasks.groups_of(count)))
    return len(DEFINITION["States"]) + groups * 2 + count


def cost(count: int) -> dict[str, float]:
    """Dollars by service, when nothing fails."""
    template = yaml_parse((ROOT / "template.yaml").read_text())
    work = template["Globals"]["Function"] | template["Resources"]["WorkFunction"]["Properties"]
    batches = count / work["Events"]["Tasks"]["Properties"]["BatchSize"]
    groups = len(list(tasks.groups_of(count)))
    memory_gb = work["MemorySize"] / 1024
    return {
        "Step Functions": transitions(count) * TRANSITION / 1e6,
        "DynamoDB": (2 * count * TABLE_WRITE + count / 4 * TABLE_READ) / 1e6,
        "SQS": (count + 2 * batches) * SQS_REQUEST / 1e6,
        "Lambda": batches * LAMBDA_REQUEST / 1e6 + count * WORKER_SECONDS * memory_gb * LAMBDA_GB_SECOND,
        "S3": ((groups + 2) * S3_PUT + batches * S3_GET) / 1e6,
    }


def test_ten_thousand_tasks_do_not_fit_one_execution() -> None:
    assert child_events(TASKS, worst=False) > MAX_EVENTS


def test_each_history_stays_below_the_limit_even_if_every_try_is_needed() -> None:
    assert child_events(tasks.GROUP_TASKS, worst=True) < MAX_EVENTS * 2 / 3
    assert parent_events(worst=True) < 300


def test_the_plan_of_the_largest_run_fits_the_payload() -> None:
    assert groups_bytes(TASKS) < MAX_PAYLOAD_BYTES / 2
    assert groups_bytes(split.MAX_TASKS) < MAX_PAYLOAD_BYTES


def test_the_maps_use_the_concurrency_that_step_functions_allows() -> None:
    assert GROUP["MaxConcurrency"] == MAX_INLINE_CONCURRENCY
    assert GROUPS["ItemProcessor"]["ProcessorConfig"]["ExecutionType"] == "STANDARD"  # waits for tokens


def test_all_results_at_once_fit_the_memory_of_join() -> None:
    template = yaml_parse((ROOT / "template.yaml").read_text())["Resources"]
    memory = template["JoinFunction"]["Properties"]["MemorySize"] * 1024 * 1024

    # As texts, as one text, and as the bytes that are written.
    assert memory > 3 * split.MAX_TASKS * tasks.MAX_RESULT_BYTES


def numbers() -> dict[str, str]:
    """The numbers of the page, by the row of its table."""
    spent = cost(TASKS)
    in_flight = GROUPS["MaxConcurrency"] * GROUP["MaxConcurrency"]
    return {
        "Groups, each a child execution": f"{TASKS / tasks.GROUP_TASKS:,.0f}",
        "Events if one execution held all": f"{child_events(TASKS, worst=False):,}",
        "Events of a child": f"{child_events(tasks.GROUP_TASKS, worst=False):,}",
        "Events of a child, every try needed": f"{child_events(tasks.GROUP_TASKS, worst=True):,}",
        "Events of the parent": f"{parent_events(worst=False):,}",
        "The plan's bytes": f"{groups_bytes(TASKS):,}",
        f"The plan's bytes for {split.MAX_TASKS:,} tasks": f"{groups_bytes(split.MAX_TASKS):,}",
        "State transitions": f"{transitions(TASKS):,}",
        "Tasks in the queue or at work at once": f"{in_flight:,}",
        "Seconds that the answers take at least": f"{(TASKS - ANSWERS_BUCKET) / ANSWERS_A_SECOND:.0f}",
        **{f"Cost: {name}": f"${dollars:.4f}" for name, dollars in spent.items()},
        "Cost": f"${sum(spent.values()):.2f}",
    }


@pytest.mark.parametrize("row", numbers())
def test_the_page_has_these_numbers(row: str) -> None:
    rows = dict(re.findall(r"^\| (.+?) +\| (.+?) +\|", PAGE, re.MULTILINE))

    assert rows[row] == numbers()[row]
