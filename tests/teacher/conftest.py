"""A clock that stands, and no key in the environment, for all teacher tests."""

import pytest
from fake_time import FakeTime


@pytest.fixture
def fake_time():
  """Seconds that pass only while someone sleeps."""
  return FakeTime()


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
  """Forgets the developer's own key."""
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
