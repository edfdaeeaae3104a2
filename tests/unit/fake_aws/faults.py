"""What goes wrong at a call to AWS: errors, lost answers, and the end of the process that calls."""

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Literal, NamedTuple

from botocore.exceptions import ClientError

Moment = Literal["before", "after"]


class AwsError(Exception):
    """What a fake service answers instead of a result; its client raises it as botocore does.

    `members`: what the response has beside the code and the message.
    """

    def __init__(self, code: str, message: str = "from the fake", **members: Any) -> None:
        super().__init__(message)
        self.code = code
        self.members = members

    def response(self) -> Any:
        """As a ClientError has it."""
        return {"Error": {"Code": self.code, "Message": str(self)}, **self.members}


class ProcessDied(BaseException):
    """The process ended. Nothing catches it, as nothing catches the end of a process."""


class Call(NamedTuple):
    """One call. `service` and `operation`: as boto3 names them, such as "dynamodb" and "put_item"."""

    service: str
    operation: str
    parameters: dict[str, Any]


@dataclass
class Death:
    """The end of the process at one of its calls to AWS, before or after that is carried out.

    `call`: its number, from 1 where the `with` block begins. The block ends with the process; `happened` says
    whether the process came to that call. The process's other threads get no further either.
    """

    call: int
    moment: Moment
    happened: bool = False
    _faults: "Faults | None" = None
    _calls: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> "Death":
        assert self._faults
        assert self._faults.death is None
        self._faults.death = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        assert self._faults
        self._faults.death = None
        return isinstance(error, ProcessDied)

    def carry_out(self, action: Callable[[], Any]) -> Any:
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
    """What is planned to go wrong, by operation, and all calls so far."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.death: Death | None = None
        self._errors: dict[str, list[Exception]] = {}
        self._lost: dict[str, int] = {}
        self._meanwhile: dict[str, list[Callable[[], Any]]] = {}
        self._lock = threading.Lock()

    def operations(self) -> list[str]:
        """The operations of all calls so far, in their order."""
        return [call.operation for call in self.calls]

    def fail(self, operation: str, error: str | Exception, *, times: int = 1) -> None:
        """The next calls answer this error code, or raise this error of the network; nothing is done."""
        planned = AwsError(error) if isinstance(error, str) else error
        self._errors.setdefault(operation, []).extend([planned] * times)

    def lose_answer(self, operation: str, *, times: int = 1) -> None:
        """The next calls are carried out, and again: the SDK repeats a call whose answer was lost."""
        self._lost[operation] = self._lost.get(operation, 0) + times

    def meanwhile(self, operation: str, action: Callable[[], Any]) -> None:
        """Another process does this just before the next call is carried out."""
        self._meanwhile.setdefault(operation, []).append(action)

    def death_at(self, call: int, moment: Moment) -> Death:
        """For a `with` block: the process dies at the block's call of this number, from 1."""
        return Death(call, moment, _faults=self)

    def each_death(self) -> Iterator[Death]:
        """A death before the first call and one after it, then at the second call, up to the last.

        Each is for a `with` block, in which the same is to be called. Ends after the first that did not
        happen: the process came to its end before that call.
        """
        moments: tuple[Moment, ...] = ("before", "after")
        for call, moment in ((call, moment) for call in itertools.count(1) for moment in moments):
            death = self.death_at(call, moment)
            yield death
            if not death.happened:
                return

    def carry_out(self, call: Call, action: Callable[[], Any]) -> Any:
        """What a call answers, with what was planned for it."""
        answer = partial(self._answer, call, action)
        return self.death.carry_out(answer) if self.death else answer()

    def _answer(self, call: Call, action: Callable[[], Any]) -> Any:
        with self._lock:
            self.calls.append(call)
            errors = self._errors.get(call.operation)
            error = errors.pop(0) if errors else None
            is_lost = error is None and self._lost.get(call.operation, 0) > 0
            if is_lost:
                self._lost[call.operation] -= 1
            actions = self._meanwhile.pop(call.operation, [])
        for each in actions:
            each()
        if error is not None:
            raise error
        if is_lost:
            action()
        return action()


def client_error(code: str, operation: str) -> ClientError:
    """What boto3 raises for an error code that AWS's model of the service does not have."""
    return ClientError(AwsError(code).response(), operation)
