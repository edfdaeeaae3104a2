"""Faults at calls to AWS: errors, lost responses, and the end of the process that calls."""

import itertools
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Literal, NamedTuple

from botocore.exceptions import ClientError

Moment = Literal["before", "after"]
MOMENTS: tuple[Moment, ...] = ("before", "after")

# A call: of a fake service's method, with the call's parameters.
Action = Callable[..., Any]
# What a call does instead of its action, which is passed to it.
Plan = Callable[[Action], Any]


class AwsError(Exception):
    """What a fake service answers instead of a result; its client raises it as botocore does.

    `members`: what the response has besides the code and the message.
    """

    def __init__(self, code: str, message: str = "from the fake", **members: Any) -> None:
        super().__init__(message)
        self.code = code
        self.members = members

    def response(self) -> Any:
        """The response in a ClientError."""
        return {"Error": {"Code": self.code, "Message": str(self)}, **self.members}


class ProcessDied(BaseException):
    """The process ended. Nothing catches it, as nothing catches the end of a process."""


class Call(NamedTuple):
    """One call. `service` and `operation`: as boto3 names them, such as "dynamodb" and "put_item"."""

    service: str
    operation: str
    parameters: dict[str, Any]


class Death:
    """The end of the process at one of its calls to AWS, before or after that is carried out.

    For a `with` block, which ends with the process. `call`: its number, from 1 where the block begins.
    `happened`: whether the process made that call. Its other threads make no further calls either.
    """

    def __init__(self, faults: "Faults", call: int, moment: Moment) -> None:
        self.call, self.moment, self.happened = call, moment, False
        self._faults = faults
        self._calls = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._faults.death = self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._faults.death = None
        return isinstance(error, ProcessDied)

    def carry_out(self, action: Action) -> Any:
        """Carries a call out, unless the process dies before."""
        with self._lock:
            self._calls += 1
            is_last = self._calls == self.call
            self.happened = self.happened or (is_last and self.moment == "before")
            if self.happened:
                raise ProcessDied
        try:
            return action()
        finally:
            if is_last:
                self.happened = True
            if self.happened:
                raise ProcessDied


class Faults:
    """All calls so far, and the faults planned for the next ones, by operation.

    Each plan is for one call; several for one operation are for consecutive calls.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.death: Death | None = None
        self._plans: defaultdict[str, deque[Plan]] = defaultdict(deque)
        self._lock = threading.Lock()

    def operations(self) -> list[str]:
        """The operations of all calls so far, in their order."""
        return [call.operation for call in self.calls]

    def fail(self, operation: str, error: str | Exception, *, times: int = 1) -> None:
        """The next calls answer this error code, or raise this error of the network; nothing is done."""

        def plan(_action: Action) -> Any:
            raise AwsError(error) if isinstance(error, str) else error

        self._plans[operation].extend([plan] * times)

    def lose_answer(self, operation: str, error: Exception | None = None) -> None:
        """The next call is carried out, but its answer is lost.

        The SDK retries it, and the second answer arrives; or it fails with this error of the network.
        """

        def plan(action: Action) -> Any:
            action()
            if error is not None:
                raise error
            return action()

        self._plans[operation].append(plan)

    def leave_unprocessed(self, operation: str, requests: int, *, times: int = 1) -> None:
        """The next calls, which are batches of DynamoDB's, leave their last so many requests unprocessed."""

        def plan(action: Action) -> Any:
            return action(unprocessed=requests)

        self._plans[operation].extend([plan] * times)

    def meanwhile(self, operation: str, other: Action) -> None:
        """Another process does this just before the next call is carried out."""

        def plan(action: Action) -> Any:
            other()
            return action()

        self._plans[operation].append(plan)

    def each_death(self) -> Iterator[Death]:
        """A death before the first call and one after it, then at the second call, up to the last.

        Each is for a `with` block that makes the same calls. Ends after the first death that did not happen,
        because the block made fewer calls.
        """
        for call in itertools.count(1):
            for moment in MOMENTS:
                death = Death(self, call, moment)
                yield death
                if not death.happened:
                    return

    def carry_out(self, call: Call, action: Action) -> Any:
        """What a call answers, with what was planned for it."""
        answer = partial(self._answer, call, action)
        return self.death.carry_out(answer) if self.death else answer()

    def _answer(self, call: Call, action: Action) -> Any:
        with self._lock:
            self.calls.append(call)
            plans = self._plans[call.operation]
            plan = plans.popleft() if plans else None
        return plan(action) if plan else action()


def client_error(code: str, operation: str) -> ClientError:
    """What boto3 raises for an error code that AWS's model of the service does not have."""
    return ClientError(AwsError(code).response(), operation)
