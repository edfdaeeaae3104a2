"""The Lambdas of fan_out on AWS in memory: workers that die, repeated messages, lost responses."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from core.checkpoints import RunConflict
from core.dead_letters import MAX_CAUSE_CHARS
from core.errors import RateLimited, ResultError, TransientError
from core.inputs import InputError
from core.services import ServiceError, UnknownService
from fan_out import fail_task, join, split, tasks, work
from fan_out.tasks import GROUP_TASKS, MAX_DEATHS, MAX_RESULT_BYTES, Task, TaskState
from fan_out.work import POSTPONED_SECONDS
from tests.unit.fake_aws import CONTEXT, ENVIRONMENT, FakeAws, FakeContext, ProcessDied
from tests.unit.fake_aws.invocations import redelivered, sqs_event
from tests.unit.fake_aws.sqs import TASK_DEAD_LETTERS, TASK_QUEUE, SentMessage

MAX_RECEIVES = int(ENVIRONMENT["TASK_MAX_RECEIVES"])
WORKER_SECONDS = 120

Json = Any
Service = Callable[[Json], Json]


@dataclass
class Workers:
    """The workers of the queue. `service`: what every service does; `ran`: the documents it got."""

    aws: FakeAws
    service: Service = lambda document: document
    ran: list[Json] = field(default_factory=list)

    def run_service(self, _name: str, document: Json) -> Json:
        """Replaces core.services.run_service."""
        self.ran.append(document)
        return self.service(document)

    def deliver(self, *messages: str, receive: int = 1) -> list[str]:
        """Invokes the Lambda with these messages; returns those to deliver again: all, where it died."""
        event = sqs_event("tasks", *messages, receive_count=receive)
        try:
            answer = work.handler(event, FakeContext(WORKER_SECONDS))
        except ProcessDied:
            return list(messages)
        return redelivered(event, answer)

    def wait(self) -> None:
        """Waits until the lease of a worker that died has expired."""
        self.aws.clock.sleep(WORKER_SECONDS + 2)

    @property
    def callbacks(self) -> list[tuple[str, str]]:
        """The token and the text of each callback."""
        return [
            (each.token, f"{each.error}: {each.cause}" if each.output is None else each.output)
            for each in self.aws.step_functions.callbacks
        ]

    @property
    def dead(self) -> list[SentMessage]:
        """The messages in the dead-letter queue."""
        return self.aws.sqs.sent[TASK_DEAD_LETTERS]


def state(number: int = 0) -> TaskState:
    """The state of a task of the run `r`."""
    stored = tasks.load_state(task(number))
    assert stored
    return stored


def task(number: int = 0, round_: str = "e/0") -> Task:
    return Task("r", number, round_, "upper")


def message(number: int = 0, *, round_: str = "e/0", token: str | None = None) -> str:
    """A task's message; each task waits for a token of its own."""
    token = token or f"token-{number}"
    return json.dumps({"run_id": "r", "number": number, "round": round_, "service": "upper", "token": token})


def lease(aws: FakeAws, seconds: int = 60) -> int:
    """When a lease that starts now expires."""
    return int(aws.clock.now) + seconds


@pytest.fixture(autouse=True)
def documents(aws: FakeAws) -> None:
    """Ten tasks of the run `r` are stored, with the documents {"n": 0} to {"n": 9}."""
    tasks.store_documents("r", 0, [{"n": number} for number in range(10)])


@pytest.fixture
def workers(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> Workers:
    made = Workers(aws)
    monkeypatch.setattr(work, "run_service", made.run_service)
    return made


def raises(error: BaseException) -> Service:
    def service(_document: Json) -> Json:
        raise error

    return service


def refuse_task_1(document: Json) -> Json:
    if document["n"] == 1:
        raise ServiceError("no")
    return document


# The worker


def test_a_task_is_run_and_stored_and_its_callback_is_sent(workers: Workers) -> None:
    again = workers.deliver(message(0), message(3, token="other"))

    assert (again, workers.ran) == ([], [{"n": 0}, {"n": 3}])
    assert workers.callbacks == [("token-0", "{}"), ("other", "{}")]
    assert [(state(n).status, state(n).result) for n in (0, 3)] == [
        ("done", '{"n":0}'),
        ("done", '{"n":3}'),
    ]


def test_a_second_delivery_sends_the_callback_without_running_the_service(workers: Workers) -> None:
    workers.deliver(message(token="first"))
    workers.deliver(message(token="second"), receive=2)

    assert (len(workers.ran), workers.callbacks) == (1, [("first", "{}"), ("second", "{}")])


@pytest.mark.parametrize("outcome", ["done", "failed"])
def test_wherever_a_worker_dies_the_task_has_one_result_and_is_answered(
    aws: FakeAws, workers: Workers, outcome: str
) -> None:
    if outcome == "failed":
        workers.service = raises(ServiceError("no"))
    deaths = 0
    for death in aws.faults.each_death():
        aws.dynamodb.items.clear()
        aws.step_functions.callbacks.clear()
        workers.dead.clear()
        with death:
            workers.deliver(message())
        if not death.happened:
            break
        deaths += 1
        workers.wait()
        ran = len(workers.ran)
        stored = state().status if aws.dynamodb.items else None

        assert workers.deliver(message(), receive=2) == []
        assert state().status == outcome
        assert workers.callbacks == [("token-0", "{}" if outcome == "done" else "ServiceError: no")]
        assert len(workers.ran) - ran == (0 if stored == outcome else 1)
        assert len(workers.dead) >= (outcome == "failed")
    assert deaths > 5


def test_a_callback_that_fails_is_sent_again_without_running_the_service(
    aws: FakeAws, workers: Workers
) -> None:
    aws.faults.fail("send_task_success", "ThrottlingException")

    assert workers.deliver(message()) == [message()]
    assert aws.sqs.hidden == {message(): 1}
    assert workers.deliver(message(), receive=2) == []
    assert (len(workers.ran), workers.callbacks) == (1, [("token-0", "{}")])


@pytest.mark.parametrize("code", ["TaskTimedOut", "TaskDoesNotExist", "InvalidToken"])
def test_a_callback_that_the_machine_no_longer_waits_for_is_no_error(
    aws: FakeAws, workers: Workers, code: str
) -> None:
    aws.faults.fail("send_task_success", code)

    assert workers.deliver(message()) == []
    assert state().status == "done"


def test_a_task_that_another_worker_owns_is_delivered_again_after_its_lease(
    aws: FakeAws, workers: Workers
) -> None:
    tasks.claim(task(), lease(aws, 30), last=False)

    assert workers.deliver(message()) == [message()]
    assert (aws.sqs.hidden, workers.ran) == ({message(): 31}, [])


def test_a_worker_whose_lease_expired_changes_nothing_and_sends_the_stored_outcome(
    aws: FakeAws, workers: Workers
) -> None:
    def slow(document: Json) -> Json:
        workers.service = lambda _: "in time"
        workers.wait()
        # A second handler in one process would share Powertools' processor, so this calls its inner function.
        work.settle(task(), lease_until=lease(aws, WORKER_SECONDS), last=False)
        return "late"

    workers.service = slow

    assert workers.deliver(message()) == []
    assert (state().result, workers.callbacks) == ('"in time"', [("token-0", "{}")])


@pytest.mark.parametrize("receive", [1, 3, MAX_RECEIVES])
def test_a_task_that_waits_for_a_limit_is_sent_again_and_costs_no_delivery(
    aws: FakeAws, workers: Workers, receive: int
) -> None:
    workers.service = raises(RateLimited("upper allows 1 call a second"))

    assert workers.deliver(message(), receive=receive) == []

    [again] = aws.sqs.sent[TASK_QUEUE]
    assert again.body == message()
    assert 1 <= again.delay <= POSTPONED_SECONDS
    assert (workers.callbacks, workers.dead, aws.sqs.hidden) == ([], [], {})
    assert (state().status, state().deaths) == ("waiting", 0)
    workers.service = lambda document: document
    assert workers.deliver(again.body) == []
    assert (state().status, workers.callbacks) == ("done", [("token-0", "{}")])


def test_where_a_limit_has_no_time_further_tasks_of_the_service_are_sent_again_at_once(
    aws: FakeAws, workers: Workers
) -> None:
    workers.service = raises(RateLimited("upper allows 1 call a second"))

    assert workers.deliver(message(0), message(1), message(2)) == []

    assert workers.ran == [{"n": 0}]
    assert [each.body for each in aws.sqs.sent[TASK_QUEUE]] == [message(0), message(1), message(2)]
    # Another invocation has time again.
    workers.service = lambda document: document
    workers.deliver(message(1))
    assert workers.callbacks == [("token-1", "{}")]


def test_a_task_that_cannot_be_sent_again_is_delivered_again(aws: FakeAws, workers: Workers) -> None:
    workers.service = raises(RateLimited("upper allows 1 call a second"))
    aws.faults.fail("send_message", "RequestThrottled", times=100)

    assert workers.deliver(message()) == [message()]
    assert aws.sqs.hidden == {message(): 1}


def test_wherever_a_worker_dies_while_it_sends_a_task_again_the_task_has_one_result(
    aws: FakeAws, workers: Workers
) -> None:
    twice = 0
    for death in aws.faults.each_death():
        aws.dynamodb.items.clear()
        aws.step_functions.callbacks.clear()
        aws.sqs.sent[TASK_QUEUE].clear()
        workers.service = raises(RateLimited("upper allows 1 call a second"))
        with death:
            workers.deliver(message())
        if not death.happened:
            break
        workers.wait()
        # The old message was not deleted, and the new one may have been sent.
        messages = [message(), *(each.body for each in aws.sqs.sent[TASK_QUEUE])]
        twice += len(messages) == 2
        workers.service = lambda document: document
        ran = len(workers.ran)

        for each in messages:
            assert workers.deliver(each, receive=2) == []

        assert (state().status, state().result) == ("done", '{"n":0}')
        assert len(workers.ran) - ran == 1
        assert workers.callbacks == [("token-0", "{}")]
        assert workers.dead == []
    assert twice == 1


@pytest.mark.parametrize("error", [TransientError("busy"), ConnectionError("reset"), KeyError("a bug")])
def test_an_error_that_is_not_final_is_retried_with_growing_delays_until_the_last_delivery(
    aws: FakeAws, workers: Workers, error: Exception
) -> None:
    workers.service = raises(error)
    pauses = []
    for receive in range(1, MAX_RECEIVES):
        assert workers.deliver(message(), receive=receive) == [message()]
        pauses.append(aws.sqs.hidden[message()])
    assert (workers.callbacks, pauses) == ([], [1, 2, 4, 8, 16, 32, 60, 60, 60])

    assert workers.deliver(message(), receive=MAX_RECEIVES) == []
    assert (len(workers.ran), len(workers.dead)) == (MAX_RECEIVES, 1)
    assert workers.callbacks == [("token-0", f"{type(error).__name__}: {error}")]


def test_a_final_error_fails_its_task_at_the_first_delivery_and_goes_to_the_dead_letter_queue(
    workers: Workers,
) -> None:
    workers.service = refuse_task_1

    assert workers.deliver(message(0), message(1), message(2)) == []
    assert [text for _, text in workers.callbacks] == ["{}", "ServiceError: no", "{}"]
    assert workers.dead == [SentMessage(message(1), {"error": "ServiceError", "cause": "no"})]


def test_a_failure_that_is_delivered_again_is_sent_again(aws: FakeAws, workers: Workers) -> None:
    workers.service = raises(ServiceError("no"))
    aws.faults.fail("send_task_failure", "ThrottlingException")

    assert workers.deliver(message()) == [message()]
    assert workers.deliver(message(), receive=2) == []
    assert (len(workers.ran), workers.callbacks) == (1, [("token-0", "ServiceError: no")])


def test_a_new_round_retries_what_failed_and_keeps_what_is_done(workers: Workers) -> None:
    workers.deliver(message(0))
    workers.service = raises(ServiceError("no"))
    workers.deliver(message(1))
    workers.service = lambda _: "better"

    workers.deliver(message(0, round_="e/1"), message(1, round_="e/1"))

    assert (state(0).result, state(1).result) == ('{"n":0}', '"better"')


def test_a_task_on_which_workers_keep_dying_fails(workers: Workers) -> None:
    workers.service = raises(ProcessDied())
    for receive in range(1, MAX_DEATHS + 1):
        assert workers.deliver(message(), receive=receive) == [message()]
        workers.wait()

    assert workers.deliver(message(), receive=MAX_DEATHS + 1) == []
    assert len(workers.ran) == MAX_DEATHS
    assert workers.callbacks[0][1].startswith(
        f"WorkerDied: {MAX_DEATHS} of its workers died while they ran it"
    )


def test_at_the_last_delivery_only_a_task_on_which_no_worker_died_is_run(workers: Workers) -> None:
    workers.service = raises(ProcessDied())
    workers.deliver(message(0), message(1))
    workers.wait()
    workers.service = lambda document: document

    assert workers.deliver(message(0), message(1), receive=MAX_RECEIVES) == []
    assert (state(0).error, state(1).status) == ("WorkerDied", "done")


def test_tasks_on_which_a_worker_died_run_after_the_others(workers: Workers) -> None:
    def service(document: Json) -> Json:
        if document["n"] in (0, 1):
            raise ProcessDied
        return document

    workers.service = service
    for receive in (1, 2):
        workers.deliver(*(message(number) for number in range(4)), receive=receive)
        workers.wait()
    assert [document["n"] for document in workers.ran] == [0, 1]

    workers.deliver(*(message(number) for number in range(4)), receive=3)

    # The one whose worker died first comes first, so that each is attempted.
    assert [document["n"] for document in workers.ran[2:]] == [2, 3, 0]


@pytest.mark.parametrize("body", ["{oops", "[]", '{"run_id": "r"}', '{"token": "t", "unknown": 1}'])
@pytest.mark.parametrize("receive", [1, 2])
def test_a_message_that_is_not_a_task_affects_no_other(workers: Workers, body: str, receive: int) -> None:
    assert workers.deliver(message(0), body, message(1), receive=receive) == [body]
    assert [state(number).status for number in (0, 1)] == ["done", "done"]


@pytest.mark.parametrize(
    ("result", "cause"),
    [("x" * MAX_RESULT_BYTES, f"returned {MAX_RESULT_BYTES + 2:,} bytes"), ("\ud800", "not Unicode")],
)
def test_a_result_that_does_not_fit_fails_its_task(workers: Workers, result: str, cause: str) -> None:
    workers.service = lambda _: result

    assert workers.deliver(message()) == []
    assert state().error == "ResultError"
    assert cause in state().cause


def test_a_cause_is_limited_to_what_a_message_may_contain(workers: Workers) -> None:
    workers.service = raises(ServiceError("bell \a, surrogate \ud800, \N{SNOWMAN}" + "." * 2000))

    assert workers.deliver(message()) == []
    assert workers.dead[0].attributes["cause"].startswith("bell ?, surrogate ?, \N{SNOWMAN}...")
    assert len(state().cause) == MAX_CAUSE_CHARS


def test_a_worker_recognizes_its_own_write_whose_response_was_lost(aws: FakeAws, workers: Workers) -> None:
    aws.faults.lose_answer("put_item")

    assert workers.deliver(message()) == []
    assert state().status == "done"


# What the machine fails


def given_up(number: int, error: str = "States.Timeout", cause: str = "") -> None:
    fail_task.handler(
        {"run_id": "r", "number": number, "round": "e/0", "service": "upper", "error": error, "cause": cause},
        CONTEXT,
    )


def test_a_task_that_no_worker_answered_fails_with_the_machine_s_error() -> None:
    given_up(0)
    given_up(1, "SQS.AmazonSQSException", "no such queue")

    assert (state(0).status, state(0).error) == ("failed", "States.Timeout")
    assert state(0).cause.startswith("no worker answered in time")
    assert (state(1).error, state(1).cause) == ("SQS.AmazonSQSException", "no such queue")


def test_the_outcome_that_a_worker_recorded_is_kept(workers: Workers) -> None:
    workers.deliver(message(0))
    workers.service = raises(ServiceError("no"))
    workers.deliver(message(1))

    given_up(0)
    given_up(1)

    assert (state(0).status, state(1).error) == ("done", "ServiceError")


def test_a_worker_that_is_still_running_changes_nothing_of_a_task_that_the_machine_failed(
    workers: Workers,
) -> None:
    def slow(_document: Json) -> Json:
        given_up(0)
        return "late"

    workers.service = slow

    assert workers.deliver(message()) == []
    assert (state().status, state().error) == ("failed", "States.Timeout")
    assert workers.callbacks[0][1].startswith("States.Timeout")


# Split


def planned(run_input: Json, *, run_id: str = "s", round_: str = "e/0") -> tasks.GroupedTaskPlan:
    return split.handler({"input": run_input, "run_id": run_id, "round": round_}, CONTEXT)


def names(count: int) -> list[Json]:
    return [{"name": f"host{number}"} for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, GROUP_TASKS, GROUP_TASKS + 1, 3 * GROUP_TASKS - 1])
def test_tasks_are_planned_in_groups_and_each_gets_its_document(count: int) -> None:
    plan = planned({"names": names(count)})

    assert (plan["tasks"], plan["on_task_error"]) == (count, "fail")
    assert [number for group in plan["groups"] for number in group["tasks"]] == list(range(count))
    assert all(len(group["tasks"]) <= GROUP_TASKS for group in plan["groups"])
    for group in plan["groups"]:
        assert (group["run_id"], group["round"], group["service"]) == ("s", "e/0", "hostname")
        for number in group["tasks"]:
            assert tasks.load_document(Task("s", number, "e/0", "hostname")) == {"name": f"host{number}"}


def test_a_resumed_run_plans_what_is_not_done(aws: FakeAws) -> None:
    run_input = {"names": names(GROUP_TASKS * 2)}
    planned(run_input)
    for number in range(GROUP_TASKS + 5):
        done = Task("s", number, "e/0", "hostname")
        tasks.finish(done, tasks.claim(done, lease(aws), last=False), number)
    failed = Task("s", GROUP_TASKS + 7, "e/0", "hostname")
    tasks.fail(failed, tasks.claim(failed, lease(aws), last=False), "ServiceError", "no")

    plan = planned(run_input, round_="f/0")

    [group] = plan["groups"]
    assert group["tasks"] == list(range(GROUP_TASKS + 5, GROUP_TASKS * 2))
    assert (plan["tasks"], group["round"]) == (GROUP_TASKS * 2, "f/0")


@pytest.mark.parametrize("other", [{"names": names(3)}, {"names": names(2), "service": "language"}])
def test_a_run_id_is_bound_to_its_tasks_and_service(other: Json) -> None:
    planned({"names": names(2)})

    with pytest.raises(RunConflict, match="run id s was used with 2 other tasks or another service"):
        planned(other)


def test_names_may_be_in_an_object(aws: FakeAws) -> None:
    aws.s3.put("fan_out/in.jsonl", b'{"name": 1.10}\r\n\n{"name": "\xe6\x97\xa5"}')

    plan = planned({"names": "fan_out/in.jsonl"})

    assert plan["tasks"] == 2
    assert aws.s3.objects["fan_out/s/tasks-00000.json"].body.decode() == '[{"name":1.10},{"name":"日"}]'


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"a": 1}\n{oops', "line 2: not JSON"),
        (b"[1]", "line 1: not a JSON object"),
        (b"{}\n\xff", "line 2: not UTF-8"),
    ],
)
def test_an_object_that_cannot_be_read_is_refused(aws: FakeAws, body: bytes, problem: str) -> None:
    aws.s3.put("fan_out/in.jsonl", body)

    with pytest.raises(InputError, match=problem):
        planned({"names": "fan_out/in.jsonl"})


@pytest.mark.parametrize(
    ("run_input", "error", "problem"),
    [
        ({}, InputError, "'names' is a required property"),
        ({"names": 5}, InputError, r"at \$\.names: 5 is not of type"),
        ({"names": [{}, 1]}, InputError, r"at \$\.names\[1\]"),
        ({"names": [], "on_task_error": "skip"}, InputError, r"at \$\.on_task_error"),
        ({"names": [], "service": "nothing"}, UnknownService, "there is no service 'nothing'"),
        ({"names": "fan_out/no.jsonl"}, InputError, "there is no object fan_out/no.jsonl"),
        ({"names": names(split.MAX_TASKS + 1)}, InputError, "30,001 tasks in one run; at most 30,000"),
    ],
)
def test_bad_input_is_refused(run_input: Json, error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=problem):
        planned(run_input)


# Join


def joined(count: int, *, on_task_error: str = "fail", round_: str = "e/0") -> join.Joined:
    plan: tasks.TaskPlan = {"run_id": "r", "round": "e/0", "tasks": count, "on_task_error": on_task_error}
    return join.handler({"plan": plan, "round": round_}, CONTEXT)


def lines(aws: FakeAws) -> list[str]:
    return aws.s3.objects["fan_out/r/results.jsonl"].body.decode().splitlines()


def test_results_are_in_input_order(aws: FakeAws) -> None:
    count = GROUP_TASKS + 3
    for number in reversed(range(count)):
        tasks.finish(task(number), tasks.claim(task(number), lease(aws), last=False), number * 2)

    output = joined(count)

    assert output["results"] == [number * 2 for number in range(count)]
    assert (output["tasks"], output["succeeded"], output["failed"]) == (count, count, 0)
    assert lines(aws) == [str(number * 2) for number in range(count)]


def test_a_failed_task_is_an_entry_or_fails_the_run_as_asked(aws: FakeAws, workers: Workers) -> None:
    workers.service = refuse_task_1
    workers.deliver(message(0), message(1), message(2))

    output = joined(3, on_task_error="entry")

    entry = {"error": "ServiceError", "cause": "no"}
    assert output["results"] == [{"n": 0}, entry, {"n": 2}]
    assert (output["succeeded"], output["failed"]) == (2, 1)
    with pytest.raises(join.TaskFailed, match="1 of 3 tasks failed; the first is task 1: ServiceError: no; "):
        joined(3)
    assert json.loads(lines(aws)[1]) == entry


@pytest.mark.parametrize(
    "result", ["x" * (MAX_RESULT_BYTES - 2), {"id": 12345678901234567890}], ids=["large", "many digits"]
)
def test_results_that_the_machine_cannot_hold_are_only_in_s3(
    aws: FakeAws, workers: Workers, result: Json
) -> None:
    workers.service = lambda _: result
    workers.deliver(*(message(number) for number in range(10)))

    output = joined(10)

    assert (output["results"], output["succeeded"]) == (None, 10)
    assert [json.loads(line) for line in lines(aws)] == [result] * 10


def test_a_redrive_raises_redriven() -> None:
    with pytest.raises(join.Redriven, match="e/0 was redriven"):
        joined(1, round_="e/1")


def test_a_task_without_an_outcome_fails_the_run(aws: FakeAws) -> None:
    tasks.claim(task(), lease(aws), last=False)

    with pytest.raises(ResultError, match="task 0 of r has no outcome"):
        joined(1)
