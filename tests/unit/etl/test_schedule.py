"""The next off-peak hour, also on days when clocks change."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.schedule import next_off_peak

ZONES = sorted(available_timezones() - {"localtime", "Factory"})


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "hour", "now", "expected"),
    [
        ("UTC", 3, "2026-11-22 02:59:59", "2026-11-22 03:00"),
        ("UTC", 3, "2026-11-22 04:00", "2026-11-23 03:00"),
        ("UTC", 3, "2026-11-22 03:30", "2026-11-22 03:30"),  # it is that hour now
        ("UTC", 0, "2026-12-31 23:00", "2027-01-01 00:00"),
        ("Asia/Tokyo", 2, "2026-11-22 12:00", "2026-11-22 17:00"),
        ("Asia/Kathmandu", 2, "2026-11-22 12:00", "2026-11-22 20:15"),
        # Clocks skip 02:00 to 03:00: at the jump.
        ("America/New_York", 2, "2026-03-08 05:00", "2026-03-08 07:00"),
        ("America/New_York", 2, "2026-03-08 07:00:01", "2026-03-09 06:00"),
        ("Europe/Berlin", 2, "2026-03-28 23:00", "2026-03-29 01:00"),
        # Clocks show 01:00 to 02:00 twice: the first time, and while it is shown again, now.
        ("America/New_York", 1, "2026-11-01 04:00", "2026-11-01 05:00"),
        ("America/New_York", 1, "2026-11-01 06:30", "2026-11-01 06:30"),
        ("America/New_York", 3, "2026-11-01 04:00", "2026-11-01 08:00"),
        # The day before each change, and a change of half an hour.
        ("Europe/Berlin", 5, "2026-03-28 05:00", "2026-03-29 03:00"),
        ("Australia/Lord_Howe", 2, "2026-10-03 12:00", "2026-10-03 15:30"),
        # A whole day that Samoa skipped.
        ("Pacific/Apia", 2, "2011-12-30 09:00", "2011-12-30 12:00"),
    ],
)
def test_the_hour_begins_when_clocks_show_it(zone: str, hour: int, now: str, expected: str) -> None:
    assert next_off_peak(utc(now), hour, ZoneInfo(zone)) == utc(expected)


@given(
    st.sampled_from(ZONES),
    st.integers(0, 23),
    st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)).map(
        lambda moment: moment.replace(second=0, microsecond=0)
    ),
)
def test_no_earlier_moment_shows_the_hour(name: str, hour: int, moment: datetime) -> None:
    now, zone = moment.replace(tzinfo=UTC), ZoneInfo(name)

    start = next_off_peak(now, hour, zone)

    assert now <= start <= now + timedelta(hours=49)
    step = now
    while step < start:
        assert step.astimezone(zone).hour != hour
        step += timedelta(minutes=15)
    shown = start.astimezone(zone)
    before = (start - timedelta(seconds=1)).astimezone(zone)
    skipped = shown.utcoffset() != before.utcoffset() and before.hour < hour <= shown.hour
    assert shown.hour == hour or skipped
