"""Teachers with addresses, keys and ways of their own."""

import asyncio

import pytest

from distill_jax.errors import UserError
from distill_jax.teacher.asking.exchange import Repeating, Request
from distill_jax.teacher.transports import teachers
from distill_jax.teacher.transports.config import TeacherConfig

_CLIENT = TeacherConfig(
  "https://one/v1",
  max_concurrency=3,
  extra_headers={"X-Key": "$ONE"},
  extra_query={"v": "1"},
)
_OWN = {
  "model": "b",
  "base_url": "https://two/v1",
  "api_key_variable": "TWO_KEY",
  "temperature": None,
  "extra_parameters": {"reasoning_effort": "low"},
}


def test_names_are_asked_as_the_settings_say():
  for given in ("a", ["a"], ("a",)):
    assert teachers.read_teachers(given, _CLIENT) == (
      teachers.Teacher("a", _CLIENT, {}),
    )


def test_a_teacher_of_its_own():
  first, second = teachers.read_teachers(["a", _OWN], _CLIENT)
  assert first.client == _CLIENT
  assert second.client.base_url == "https://two/v1"
  assert second.client.api_key_variable == "TWO_KEY"
  assert second.client.max_concurrency == 3
  # What is for the one server does not go to the other.
  assert second.client.extra_headers == second.client.extra_query == {}
  assert second.own == {
    "temperature": None,
    "extra_parameters": {"reasoning_effort": "low"},
  }
  assert teachers.group_clients([first, second, first]) == [
    (_CLIENT, ["a", "a"]),
    (second.client, ["b"]),
  ]


@pytest.mark.parametrize(
  "given, told",
  [
    (["a", 5], "holds what is no teacher"),
    ({"base_url": "https://two/v1"}, "holds what is no teacher"),
    ({"model": "b", "temprature": 1}, "'temprature' of 'b' is unknown"),
    ({"model": "b", "base_url": "https://two/v1"}, "no api_key_variable"),
    (
      {"model": "b", "base_url": "two", "api_key_variable": None},
      "'b': TEACHER_BASE_URL is not an address",
    ),
  ],
)
def test_entries_that_cannot_be(given, told):
  with pytest.raises(UserError, match=told):
    teachers.read_teachers(given, _CLIENT)


def test_all_teachers_are_told_whom_to_ask_before_a_repetition():
  class Transport:
    repeat_fn = None

  one, two, repeat_fn = Transport(), Transport(), lambda request: None
  transport = teachers.RoutingTransport({"a": one, "b": two, "c": object()})
  assert isinstance(transport, Repeating)
  transport.repeat_fn = repeat_fn
  assert one.repeat_fn is two.repeat_fn is repeat_fn


def test_each_request_goes_to_its_teacher():
  class Transport:
    def __init__(self):
      self.sent, self.num_closed = [], 0

    async def send(self, request):
      self.sent.append(request.model)

    async def close(self):
      self.num_closed += 1

  one, two = Transport(), Transport()

  async def run():
    transport = teachers.RoutingTransport({"a": one, "b": two, "c": one})
    for model in "abc":
      await transport.send(Request(model, "chat", "?", {}))
    await transport.close()

  asyncio.run(run())
  assert (one.sent, two.sent) == (["a", "c"], ["b"])
  assert one.num_closed == two.num_closed == 1
