"""The Lambdas of fan_out on AWS in memory: workers that die anywhere, doubled messages, lost answers."""

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from boto3.dynamodb.types import TypeSerializer

from core import checkpoints
from core.errors import ResultError, TransientError
from core.services import ServiceError, UnknownService
from core.settings import settings
from fan_out import fail_task, join, split, tasks, work
from fan_out.tasks import GROUP_TASKS, MAX_DEATHS, MAX_RESULT_BYTES, Record, Task
from tests.unit.fake_aws import FakeS3, client_error

MAX_RECEIVES = 10
WORKER_SECONDS = 120

Json = Any
Service = Callable[[Json], Json]


class WorkerDies(BaseException):
    """Nothing catches it, as nothing catches a process's end."""


class FakeTable:
    """Conditional writes, as the records and checkpoints make them."""

    def __init__(self, step: Callable[[], None]) -> None:
        self.items: dict[tuple[str, str], dict[str, Any]] = {}
        self.step = step
        self.lose_answer = False

    def get_item(self, *, Key: dict[str, str], ConsistentRead: bool) -> dict[str, Any]:
        assert ConsistentRead
        self.step()
        item = self.items.get((Key["pk"], Key["sk"]))
        return {"Item": copy.deepcopy(item)} if item else {}

    def put_item(self, *, Item: dict[str, Any], ConditionExpression: str, **request: Any) -> None:
        self.step()
        key = (Item["pk"], Item["sk"])
        there = self.items.get(key)
        if self.lose_answer:
            # The SDK sends the write again, whose answer was lost.
            self.lose_answer = False
            self.items[key] = there = dict(Item)
        if ConditionExpression == "attribute_not_exists(pk)":
            allowed = there is None
        else:
            assert ConditionExpression == "#owner = :owner AND #status = :status"
            values = request["ExpressionAttributeValues"]
            allowed = there is not None and (there["owner"], there["status"]) == (
                values[":owner"],
                values[":status"],
            )
        if not allowed:
            error = client_error("ConditionalCheckFailedException", "PutItem")
            if there and request.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD":
                typed = {name: TypeSerializer().serialize(value) for name, value in there.items()}
                error.response["Item"] = typed  # type: ignore[typeddict-unknown-key]
            raise error
        self.items[key] = dict(Item)
        self.step()

    def query(self, *, KeyConditionExpression: Any, ConsistentRead: bool, **request: Any) -> dict[str, Any]:
        """In pages of 150."""
        assert ConsistentRead
        partition = KeyConditionExpression.get_expression()["values"][1]
        found = sorted((item for (pk, _), item in self.items.items() if pk == partition), key=_sort_key)
        start = request.get("ExclusiveStartKey", 0)
        page = {"Items": found[start : start + 150]}
        return page | ({"LastEvaluatedKey": start + 150} if start + 150 < len(found) else {})


def _sort_key(item: dict[str, Any]) -> str:
    key: str = item["sk"]
    return key


@dataclass
class World:
    """`run_service` is what a test makes of the services; `die_at` the call of AWS at which a worker dies."""

    s3: FakeS3 = field(default_factory=FakeS3)
    now: float = 1_000_000.0
    die_at: int | None = None
    calls: int = 0
    refusals: list[str] = field(default_factory=list)
    answers: list[tuple[str, str]] = field(default_factory=list)
    dead: list[dict[str, Any]] = field(default_factory=list)
    hidden: dict[str, int] = field(default_factory=dict)
    ran: list[Json] = field(default_factory=list)
    service: Service = lambda document: document

    def __post_init__(self) -> None:
        self.table = FakeTable(self.step)

    def step(self) -> None:
        self.calls += 1
        if self.calls == self.die_at:
            raise WorkerDies

    def time(self) -> float:
        return self.now

    # SQS and Step Functions, as the worker calls them

    def change_message_visibility(self, *, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> None:
        assert QueueUrl == "queue"
        self.hidden[ReceiptHandle] = VisibilityTimeout

    def send_message(self, *, QueueUrl: str, MessageBody: str, MessageAttributes: dict[str, Any]) -> None:
        assert QueueUrl == "dead-letters"
        self.step()
        attributes = {name: value["StringValue"] for name, value in MessageAttributes.items()}
        self.dead.append({"body": MessageBody, **attributes})

    def send_task_success(self, *, taskToken: str, output: str) -> None:
        self._answer(taskToken, output)

    def send_task_failure(self, *, taskToken: str, error: str, cause: str) -> None:
        self._answer(taskToken, f"{error}: {cause}")

    def _answer(self, token: str, text: str) -> None:
        self.step()
        if self.refusals:
            raise client_error(self.refusals.pop(0), "SendTask")
        self.answers.append((token, text))
        self.step()

    # What a test does

    def run_service(self, _name: str, document: Json) -> Json:
        self.ran.append(document)
        return self.service(document)

    def deliver(self, *messages: str, receive: int = 1) -> list[str]:
        """Lambda's call with these messages; returns those that come again: all, where the worker died."""
        records: list[dict[str, Any]] = [
            {
                "messageId": f"id-{number}",
                "receiptHandle": body,
                "body": body,
                "attributes": {"ApproximateReceiveCount": str(receive)},
                "eventSource": "aws:sqs",
            }
            for number, body in enumerate(messages)
        ]
        context: Any = SimpleNamespace(get_remaining_time_in_millis=lambda: WORKER_SECONDS * 1000)
        try:
            answer = work.handler({"Records": records}, context)
        except WorkerDies:
            return list(messages)
        failed = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
        return [record["body"] for record in records if record["messageId"] in failed]

    def record(self, number: int = 0) -> Record:
        found = tasks.load_record(task(number))
        assert found
        return found


def task(number: int = 0, round_: str = "e/0") -> Task:
    return Task("r", number, round_, "upper")


def message(number: int = 0, *, round_: str = "e/0", token: str = "token") -> str:
    return json.dumps({"run_id": "r", "number": number, "round": round_, "service": "upper", "token": token})


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Ten tasks of the run `r` are stored, with the documents {"n": 0} to {"n": 9}."""
    world = World()
    for name, value in {
        "BUCKET": "bucket",
        "TABLE": "table",
        "STATE_MACHINE_PREFIX": "machine-",
        "POST_WAIT_SECONDS": "0",
        "GET_WAIT_SECONDS": "0",
        "TASK_QUEUE_URL": "queue",
        "TASK_DEAD_LETTER_QUEUE_URL": "dead-letters",
        "TASK_MAX_RECEIVES": str(MAX_RECEIVES),
    }.items():
        monkeypatch.setenv(name, value)
    for module in (tasks, checkpoints, split):
        monkeypatch.setattr(module, "s3", lambda: world.s3)
    for module in (tasks, checkpoints):
        monkeypatch.setattr(module, "table", lambda: world.table)
    for module in (tasks, work):
        monkeypatch.setattr(module, "time", world)
    monkeypatch.setattr(work, "sqs", lambda: world)
    monkeypatch.setattr(work, "task_callbacks", lambda: world)
    monkeypatch.setattr(work, "run_service", world.run_service)
    settings.cache_clear()
    tasks._load_documents.cache_clear()
    tasks.store_documents("r", 0, [{"n": number} for number in range(10)])
    yield world
    settings.cache_clear()
    tasks._load_documents.cache_clear()


def raises(error: BaseException) -> Service:
    def service(_document: Json) -> Json:
        raise error

    return service


# The worker


def test_a_task_is_run_recorded_and_answered(world: World) -> None:
    again = world.deliver(message(0), message(3, token="other"))

    assert (again, world.ran) == ([], [{"n": 0}, {"n": 3}])
    assert world.answers == [("token", "{}"), ("other", "{}")]
    assert [(world.record(n).status, world.record(n).result) for n in (0, 3)] == [
        ("done", '{"n":0}'),
        ("done", '{"n":3}'),
    ]


def test_a_second_delivery_answers_without_the_work(world: World) -> None:
    world.deliver(message(token="first"))
    world.deliver(message(token="second"), receive=2)

    assert (len(world.ran), world.answers) == (1, [("first", "{}"), ("second", "{}")])


@pytest.mark.parametrize("outcome", ["done", "failed"])
def test_wherever_a_worker_dies_the_task_counts_once_and_is_answered(world: World, outcome: str) -> None:
    if outcome == "failed":
        world.service = raises(ServiceError("no"))
    for call in itertools.count(1):
        world.table.items.clear()
        world.answers.clear()
        world.dead.clear()
        world.calls, world.die_at = 0, call
        died = world.deliver(message())
        world.die_at = None
        if not died:
            break
        world.now += WORKER_SECONDS + 2
        ran = len(world.ran)
        recorded = world.record().status if world.table.items else None

        assert world.deliver(message(), receive=2) == []
        assert world.record().status == outcome
        assert world.answers[-1] == ("token", "{}" if outcome == "done" else "ServiceError: no")
        assert len(world.ran) - ran == (0 if recorded == outcome else 1)
        assert len(world.dead) >= (outcome == "failed")
    assert call > 5


def test_an_answer_that_fails_is_sent_again_without_the_work(world: World) -> None:
    world.refusals = ["ThrottlingException"]

    assert world.deliver(message()) == [message()]
    assert world.hidden == {message(): 1}
    assert world.deliver(message(), receive=2) == []
    assert (len(world.ran), world.answers) == (1, [("token", "{}")])


@pytest.mark.parametrize("code", ["TaskTimedOut", "TaskDoesNotExist", "InvalidToken"])
def test_an_answer_that_nobody_waits_for_is_done_with(world: World, code: str) -> None:
    world.refusals = [code]

    assert world.deliver(message()) == []
    assert world.record().status == "done"


def test_a_task_that_a_worker_has_comes_again_when_its_lease_has_ended(world: World) -> None:
    tasks.claim(task(), int(world.now) + 30, last=False)

    assert world.deliver(message()) == [message()]
    assert (world.hidden, world.ran) == ({message(): 31}, [])


def test_a_worker_that_comes_late_changes_nothing_and_answers_what_counts(world: World) -> None:
    def slow(document: Json) -> Json:
        world.service = lambda _: "in time"
        world.now += WORKER_SECONDS + 2
        # A second handler in one process would share Powertools' processor: so its inside.
        work.settle(task(), lease_until=int(world.now) + WORKER_SECONDS, last=False)
        return "late"

    world.service = slow

    assert world.deliver(message()) == []
    assert (world.record().result, world.answers) == ('"in time"', [("token", "{}")])


@pytest.mark.parametrize("error", [TransientError("busy"), ConnectionError("reset"), KeyError("a bug")])
def test_what_may_pass_is_tried_again_with_growing_pauses_until_the_last_delivery(
    world: World, error: Exception
) -> None:
    world.service = raises(error)
    pauses = []
    for receive in range(1, MAX_RECEIVES):
        assert world.deliver(message(), receive=receive) == [message()]
        pauses.append(world.hidden[message()])
    assert (world.answers, pauses) == ([], [1, 2, 4, 8, 16, 32, 60, 60, 60])

    assert world.deliver(message(), receive=MAX_RECEIVES) == []
    assert (len(world.ran), len(world.dead)) == (MAX_RECEIVES, 1)
    assert world.answers == [("token", f"{type(error).__name__}: {error}")]


def test_poison_fails_its_task_at_once_and_goes_to_the_dead_letter_queue(world: World) -> None:
    world.service = lambda document: document if document["n"] != 1 else raises(ServiceError("no"))(document)

    assert world.deliver(message(0), message(1), message(2)) == []
    assert [text for _, text in world.answers] == ["{}", "ServiceError: no", "{}"]
    assert world.dead == [{"body": message(1), "error": "ServiceError", "cause": "no"}]


def test_a_failure_that_comes_again_is_answered_again(world: World) -> None:
    world.service = raises(ServiceError("no"))
    world.refusals = ["ThrottlingException"]

    assert world.deliver(message()) == [message()]
    assert world.deliver(message(), receive=2) == []
    assert (len(world.ran), world.answers) == (1, [("token", "ServiceError: no")])


def test_a_new_round_tries_again_what_failed_and_keeps_what_is_done(world: World) -> None:
    world.deliver(message(0))
    world.service = raises(ServiceError("no"))
    world.deliver(message(1))
    world.service = lambda _: "better"

    world.deliver(message(0, round_="e/1"), message(1, round_="e/1"))

    assert (world.record(0).result, world.record(1).result) == ('{"n":0}', '"better"')


def test_a_task_that_ends_its_workers_is_given_up(world: World) -> None:
    world.service = raises(WorkerDies())
    for receive in range(1, MAX_DEATHS + 1):
        assert world.deliver(message(), receive=receive) == [message()]
        world.now += WORKER_SECONDS + 2

    assert world.deliver(message(), receive=MAX_DEATHS + 1) == []
    assert len(world.ran) == MAX_DEATHS
    assert world.answers[0][1].startswith(f"WorkerDied: {MAX_DEATHS} of its workers ended while they ran it")


def test_at_the_last_delivery_only_a_task_that_ended_no_worker_is_run(world: World) -> None:
    world.service = raises(WorkerDies())
    world.deliver(message(0), message(1))
    world.now += WORKER_SECONDS + 2
    world.service = lambda document: document

    assert world.deliver(message(0), message(1), receive=MAX_RECEIVES) == []
    assert (world.record(0).error, world.record(1).status) == ("WorkerDied", "done")


def test_tasks_that_ended_a_worker_come_after_the_others(world: World) -> None:
    def service(document: Json) -> Json:
        if document["n"] in (0, 1):
            raise WorkerDies
        return document

    world.service = service
    for receive in (1, 2):
        world.deliver(*(message(number) for number in range(4)), receive=receive)
        world.now += WORKER_SECONDS + 2
    assert [document["n"] for document in world.ran] == [0, 1]

    world.deliver(*(message(number) for number in range(4)), receive=3)

    # The one whose worker ended longest ago comes first, so that each has its turn.
    assert [document["n"] for document in world.ran[2:]] == [2, 3, 0]


@pytest.mark.parametrize("body", ["{oops", "[]", '{"run_id": "r"}', '{"token": "t", "unknown": 1}'])
@pytest.mark.parametrize("receive", [1, 2])
def test_what_is_no_task_fails_alone(world: World, body: str, receive: int) -> None:
    assert world.deliver(message(0), body, message(1), receive=receive) == [body]
    assert [world.record(number).status for number in (0, 1)] == ["done", "done"]


@pytest.mark.parametrize(
    ("result", "cause"),
    [("x" * MAX_RESULT_BYTES, f"returned {MAX_RESULT_BYTES + 2:,} bytes"), ("\ud800", "not Unicode")],
)
def test_a_result_that_does_not_fit_fails_its_task(world: World, result: str, cause: str) -> None:
    world.service = lambda _: result

    assert world.deliver(message()) == []
    assert world.record().error == "ResultError"
    assert cause in world.record().cause


def test_a_cause_is_what_a_message_may_carry(world: World) -> None:
    world.service = raises(ServiceError("bell \a, surrogate \ud800, \N{SNOWMAN}" + "." * 2000))

    assert world.deliver(message()) == []
    assert world.dead[0]["cause"].startswith("bell ?, surrogate ?, \N{SNOWMAN}...")
    assert len(world.record().cause) == tasks.MAX_CAUSE_CHARS


def test_a_write_whose_answer_was_lost_is_one_s_own(world: World) -> None:
    world.table.lose_answer = True

    assert world.deliver(message()) == []
    assert world.record().status == "done"


# What the machine gives up


def given_up(number: int, error: str = "States.Timeout", cause: str = "") -> None:
    fail_task.handler(
        {"run_id": "r", "number": number, "round": "e/0", "service": "upper", "error": error, "cause": cause},
        None,
    )


def test_a_task_that_nobody_answered_fails_with_the_machine_s_reason(world: World) -> None:
    given_up(0)
    given_up(1, "SQS.AmazonSQSException", "no such queue")

    assert (world.record(0).status, world.record(0).error) == ("failed", "States.Timeout")
    assert world.record(0).cause.startswith("no worker answered in time")
    assert (world.record(1).error, world.record(1).cause) == ("SQS.AmazonSQSException", "no such queue")


def test_what_a_worker_recorded_stays(world: World) -> None:
    world.deliver(message(0))
    world.service = raises(ServiceError("no"))
    world.deliver(message(1))

    given_up(0)
    given_up(1)

    assert (world.record(0).status, world.record(1).error) == ("done", "ServiceError")


def test_a_worker_that_is_still_at_it_can_t_bring_back_a_task_that_was_given_up(world: World) -> None:
    def slow(_document: Json) -> Json:
        given_up(0)
        return "late"

    world.service = slow

    assert world.deliver(message()) == []
    assert (world.record().status, world.record().error) == ("failed", "States.Timeout")
    assert world.answers[0][1].startswith("States.Timeout")


# Split


def planned(run_input: Json, *, run_id: str = "s", round_: str = "e/0") -> split.Plan:
    return split.handler({"input": run_input, "run_id": run_id, "round": round_}, None)


def names(count: int) -> list[Json]:
    return [{"name": f"host{number}"} for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, GROUP_TASKS, GROUP_TASKS + 1, 3 * GROUP_TASKS - 1])
def test_tasks_are_planned_in_groups_and_each_finds_its_document(world: World, count: int) -> None:
    plan = planned({"names": names(count)})

    assert (plan["tasks"], plan["on_task_error"]) == (count, "fail")
    assert [number for group in plan["groups"] for number in group["tasks"]] == list(range(count))
    assert all(len(group["tasks"]) <= GROUP_TASKS for group in plan["groups"])
    for group in plan["groups"]:
        assert (group["run_id"], group["round"], group["service"]) == ("s", "e/0", "hostname")
        for number in group["tasks"]:
            assert tasks.load_document(Task("s", number, "e/0", "hostname")) == {"name": f"host{number}"}


def test_a_resumed_run_plans_what_is_not_done(world: World) -> None:
    run_input = {"names": names(GROUP_TASKS * 2)}
    planned(run_input)
    for number in range(GROUP_TASKS + 5):
        done = Task("s", number, "e/0", "hostname")
        tasks.finish(done, tasks.claim(done, int(world.now) + 60, last=False), number)
    failed = Task("s", GROUP_TASKS + 7, "e/0", "hostname")
    tasks.fail(failed, tasks.claim(failed, int(world.now) + 60, last=False), "ServiceError", "no")

    plan = planned(run_input, round_="f/0")

    [group] = plan["groups"]
    assert group["tasks"] == list(range(GROUP_TASKS + 5, GROUP_TASKS * 2))
    assert (plan["tasks"], group["round"]) == (GROUP_TASKS * 2, "f/0")


@pytest.mark.parametrize("other", [{"names": names(3)}, {"names": names(2), "service": "language"}])
def test_a_run_id_stands_for_its_tasks_and_service(world: World, other: Json) -> None:
    planned({"names": names(2)})

    with pytest.raises(split.RunConflict, match="run id s was used with 2 other tasks or another service"):
        planned(other)


def test_names_come_from_an_object_too(world: World) -> None:
    world.s3.objects["fan_out/in.jsonl"] = (b'{"name": 1.10}\r\n\n{"name": "\xe6\x97\xa5"}', {})

    plan = planned({"names": "fan_out/in.jsonl"})

    assert plan["tasks"] == 2
    body, _ = world.s3.objects["fan_out/s/tasks-00000.json"]
    assert body.decode() == '[{"name":1.10},{"name":"日"}]'


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"a": 1}\n{oops', "line 2: not JSON"),
        (b"[1]", "line 1: not a JSON object"),
        (b"{}\n\xff", "line 2: not UTF-8"),
    ],
)
def test_an_object_that_cannot_be_read_is_refused(world: World, body: bytes, problem: str) -> None:
    world.s3.objects["fan_out/in.jsonl"] = (body, {})

    with pytest.raises(split.InputError, match=problem):
        planned({"names": "fan_out/in.jsonl"})


@pytest.mark.parametrize(
    ("run_input", "error", "problem"),
    [
        ({}, split.InputError, "'names' is a required property"),
        ({"names": 5}, split.InputError, r"at \$\.names: 5 is not of type"),
        ({"names": [{}, 1]}, split.InputError, r"at \$\.names\[1\]"),
        ({"names": [], "on_task_error": "skip"}, split.InputError, r"at \$\.on_task_error"),
        ({"names": [], "service": "nothing"}, UnknownService, "there is no service 'nothing'"),
        ({"names": "fan_out/no.jsonl"}, split.InputError, "there is no object fan_out/no.jsonl"),
        ({"names": names(split.MAX_TASKS + 1)}, split.InputError, "30,001 tasks in one run; at most 30,000"),
    ],
)
def test_bad_input_is_refused(world: World, run_input: Json, error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=problem):
        planned(run_input)


# Join


def joined(count: int, *, on_task_error: str = "fail", round_: str = "e/0") -> join.Joined:
    plan: join.Plan = {"run_id": "r", "round": "e/0", "tasks": count, "on_task_error": on_task_error}
    return join.handler({"plan": plan, "round": round_}, None)


def lines(world: World) -> list[str]:
    body, _ = world.s3.objects["fan_out/r/results.jsonl"]
    return body.decode().splitlines()


def test_results_come_in_input_order(world: World) -> None:
    count = GROUP_TASKS + 3
    for number in reversed(range(count)):
        tasks.finish(task(number), tasks.claim(task(number), int(world.now) + 60, last=False), number * 2)

    output = joined(count)

    assert output["results"] == [number * 2 for number in range(count)]
    assert (output["tasks"], output["succeeded"], output["failed"]) == (count, count, 0)
    assert lines(world) == [str(number * 2) for number in range(count)]


def test_a_failed_task_is_an_entry_or_fails_the_run_as_asked(world: World) -> None:
    world.service = lambda document: document if document["n"] != 1 else raises(ServiceError("no"))(document)
    world.deliver(message(0), message(1), message(2))

    output = joined(3, on_task_error="entry")

    entry = {"error": "ServiceError", "cause": "no"}
    assert output["results"] == [{"n": 0}, entry, {"n": 2}]
    assert (output["succeeded"], output["failed"]) == (2, 1)
    with pytest.raises(join.TaskFailed, match="1 of 3 tasks failed; the first is task 1: ServiceError: no; "):
        joined(3)
    assert json.loads(lines(world)[1]) == entry


@pytest.mark.parametrize(
    "result", ["x" * (MAX_RESULT_BYTES - 2), {"id": 12345678901234567890}], ids=["large", "many digits"]
)
def test_what_the_machine_cannot_carry_is_in_s3_alone(world: World, result: Json) -> None:
    world.service = lambda _: result
    world.deliver(*(message(number) for number in range(10)))

    output = joined(10)

    assert (output["results"], output["succeeded"]) == (None, 10)
    assert [json.loads(line) for line in lines(world)] == [result] * 10


def test_a_redrive_goes_back(world: World) -> None:
    with pytest.raises(join.Redriven, match="e/0 was redriven"):
        joined(1, round_="e/1")


def test_a_task_without_an_outcome_fails_the_run(world: World) -> None:
    tasks.claim(task(), int(world.now) + 60, last=False)

    with pytest.raises(ResultError, match="task 0 of r has no outcome"):
        joined(1)
