"""Tests of teacher/reading/retry_after.py."""

import datetime

import pytest

from distill_jax.teacher.reading import retry_after

NOW = datetime.datetime(2030, 1, 1, 12, 0, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
  ("headers", "seconds"),
  [
    ({}, None),
    ({"retry-after": "3"}, 3),
    ({"retry-after": "0.5"}, 0.5),
    ({"retry-after": "0"}, 0),
    ({"retry-after": "-1"}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "inf"}, None),
    ({"retry-after": "soon"}, None),
    ({"retry-after": ""}, None),
    ({"retry-after": "Tue, 01 Jan 2030 12:00:07 GMT"}, 7),
    ({"retry-after": "Tue, 01 Jan 2030 11:59:00 GMT"}, 0),
    ({"retry-after": "Tue, 99 Jan 2030 11:59:00 GMT"}, None),
    ({"retry-after-ms": "1500"}, 1.5),
    ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
    ({"retry-after-ms": "x", "retry-after": "2"}, 2),
  ],
  ids=str,
)
def test_seconds_to_wait(headers, seconds):
  assert retry_after.get_seconds(headers, NOW) == seconds


def test_a_date_is_measured_by_the_clock_it_comes_from():
  headers = {
    "date": "Tue, 01 Jan 2030 15:00:00 GMT",
    "retry-after": "Tue, 01 Jan 2030 15:00:05 GMT",
  }
  assert retry_after.get_seconds(headers, NOW) == 5
