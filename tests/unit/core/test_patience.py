"""Attempts again: how many, how long the pauses are, and what is raised in the end."""

import pytest

from core import deadline
from core.errors import RateLimited, ThrottleError, TransientError
from core.patience import ATTEMPTS, LONGEST_PAUSE_SECONDS, Patience, persist
from tests.unit.fake_aws import FakeAws, FakeContext, client_error


def test_a_transient_error_is_borne_some_times(aws: FakeAws) -> None:
    deadline.begin(FakeContext(280))
    patience, error = Patience(), TransientError("503")
    for _ in range(ATTEMPTS - 1):
        patience.bear(error)
    with pytest.raises(TransientError) as raised:
        patience.bear(error)
    assert raised.value is error
    assert 0 < aws.clock.now - 1000 < (ATTEMPTS - 1) * LONGEST_PAUSE_SECONDS


def test_throttles_are_borne_as_long_as_there_is_time(aws: FakeAws) -> None:
    deadline.begin(FakeContext(280))
    patience = Patience()

    def bear_all() -> None:
        while True:
            patience.bear(ThrottleError("429"))

    with pytest.raises(RateLimited, match="429"):
        bear_all()
    assert 200 < aws.clock.now - 1000 <= 275


def test_where_a_limit_paces_the_calls_throttles_need_no_pause(aws: FakeAws) -> None:
    deadline.begin(FakeContext(280))
    patience = Patience()
    for _ in range(100):
        patience.bear(ThrottleError("429"), is_paced=True)
    assert aws.clock.now == 1000


def test_without_time_the_first_error_is_raised(aws: FakeAws) -> None:
    deadline.begin(FakeContext(0.001))
    with pytest.raises(TransientError, match="503"):
        Patience().bear(TransientError("503"))


def test_storing_is_repeated(aws: FakeAws) -> None:
    deadline.begin(FakeContext(280))
    answers = iter(
        [client_error("SlowDown", "put_object"), client_error("InternalError", "put_object"), None]
    )

    def store() -> str:
        error = next(answers)
        if error:
            raise error
        return "stored"

    assert persist(store) == "stored"


def test_storing_that_is_denied_is_not_repeated(aws: FakeAws) -> None:
    attempts: list[None] = []

    def store() -> None:
        attempts.append(None)
        raise client_error("AccessDenied", "put_object")

    with pytest.raises(Exception, match="AccessDenied"):
        persist(store)
    assert len(attempts) == 1


def test_storing_that_is_never_possible_raises_the_service_s_error(aws: FakeAws) -> None:
    deadline.begin(FakeContext(280))

    def store() -> None:
        raise client_error("InternalError", "put_object")

    with pytest.raises(Exception, match="InternalError") as raised:
        persist(store)
    assert not isinstance(raised.value, TransientError)
