"""Doubts of one model and of several; whole runs, in labelling_test.py."""

import asyncio

import pytest

from distill_jax.errors import UserError
from distill_jax.teacher.asking import journal, standings
from distill_jax.teacher.asking.exchange import Request, Response, TeacherError

ERROR = TeacherError(
  "HTTP 403", kind="unauthorized", is_final=True, num_attempts=2, advice="Look."
)


PLAIN = TeacherError(
  "HTTP 400", kind="rejected", is_final=True, num_attempts=1, is_refusal=True
)
ACCOUNT = TeacherError(
  "HTTP 400: no credit",
  kind="rejected",
  is_final=True,
  num_attempts=1,
  advice="Pay.",
  is_about_account=True,
)


def make_request(text, model="m", endpoint="completions"):
  return Request(model, endpoint, text, {})


def make_doubt(text, was_refused_before=False, error=ERROR):
  key = make_request(text).key
  return standings.Doubt(key, f"id {text}", error, was_refused_before)


@pytest.fixture(name="own")
def fixture_own(tmp_path):
  with journal.Journal(tmp_path / "journal.jsonl") as own:
    yield own


@pytest.fixture(name="made")
def fixture_made(own):
  return standings.Standings(own, journal.Answers([own]), 2, 4)


def test_each_model_and_endpoint_stands_by_itself(made):
  first = made.get(make_request("a"))
  assert made.get(make_request("b")) is first
  assert made.get(make_request("a", model="n")) is not first
  assert made.get(make_request("a", endpoint="chat")) is not first


def test_a_doubt_is_open_until_an_answer_comes(own, made):
  standing, doubt = made.get(make_request("a")), make_doubt("a")
  made.note_doubt(standing, doubt)
  assert own.read_failure(doubt.key) == journal.Failure(
    "unauthorized", "Question 'id a': HTTP 403", False, 2
  )
  assert made.note_answer(standing) == 1
  assert own.has_final_failure(doubt.key)
  assert made.note_answer(standing) == made.settle_all() == 0


@pytest.mark.parametrize("is_answered, most", [(False, 2), (True, 4)])
def test_too_many(made, is_answered, most):
  standing = made.get(make_request("a"))
  if is_answered:
    made.note_answer(standing)
  for number in range(most - 1):
    made.note_doubt(standing, make_doubt(str(number)))
    asyncio.run(made.wait_for_answer(standing))
  made.note_doubt(standing, make_doubt("last"))
  with pytest.raises(UserError, match="Look. So ended question 'id 0', 'id"):
    asyncio.run(made.wait_for_answer(standing))


@pytest.mark.parametrize("is_answered", [False, True])
def test_what_is_under_way_is_waited_for(made, is_answered):
  async def run():
    standing = made.get(make_request("a"))
    standing.begin()
    for number in range(3):
      made.note_doubt(standing, make_doubt(str(number)))
    waiting = asyncio.create_task(made.wait_for_answer(standing))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    standing.end()
    if is_answered:
      made.note_answer(standing)
    await waiting

  if is_answered:
    asyncio.run(run())
  else:
    with pytest.raises(UserError, match="nothing was answered in this run"):
      asyncio.run(run())


@pytest.mark.parametrize("has_answers", [False, True])
@pytest.mark.parametrize("was_refused_before", [False, True])
def test_the_end_of_a_run(own, made, has_answers, was_refused_before):
  if has_answers:
    key = make_request("other").key
    own.append_response(key, Response("3", None, 1, 1, "m", 0.1, 1))
  made.note_doubt(
    made.get(make_request("a")), make_doubt("a", was_refused_before)
  )
  if has_answers and was_refused_before:
    assert made.settle_all() == 1
    return
  with pytest.raises(UserError, match="'id a'") as caught:
    made.settle_all()
  assert ("counts them as failed" in str(caught.value)) == has_answers


@pytest.mark.parametrize("is_answered", [False, True])
def test_many_plain_refusals_in_a_row_end_a_run(own, made, is_answered):
  standing = made.get(make_request("a"))
  if is_answered:
    made.note_answer(standing)
  for number in range(3):
    made.note_doubt(standing, make_doubt(str(number), error=PLAIN))
    asyncio.run(made.wait_for_answer(standing))
  made.note_doubt(standing, make_doubt("last", error=PLAIN))
  with pytest.raises(UserError, match="one request after the other: HTTP 400"):
    asyncio.run(made.wait_for_answer(standing))
  assert not own.has_final_failure(make_request("last").key)


def test_plain_refusals_that_come_again_end_no_run(made):
  standing = made.get(make_request("a"))
  for number in range(9):
    made.note_doubt(standing, make_doubt(str(number), True, PLAIN))
    asyncio.run(made.wait_for_answer(standing))


def test_a_few_plain_refusals_are_failures_at_the_end(own, made):
  doubt = make_doubt("a", error=PLAIN)
  made.note_doubt(made.get(make_request("a")), doubt)
  assert made.settle_all() == 1
  assert own.has_final_failure(doubt.key)


@pytest.mark.parametrize("num_doubts", [1, 2])
def test_an_account_whose_credit_goes_at_the_end(own, made, num_doubts):
  standing = made.get(make_request("a"))
  made.note_answer(standing)
  for number in range(num_doubts):
    made.note_doubt(standing, make_doubt(str(number), error=ACCOUNT))
  if num_doubts == 1:
    assert made.settle_all() == 1
    return
  with pytest.raises(UserError, match="Pay. So ended question 'id 0', 'id 1'"):
    made.settle_all()
  assert not own.has_final_failure(make_request("0").key)
