"""Whether one more request may be sent."""

import pytest

from distill_jax.errors import UserError
from distill_jax.teacher.asking import journal, prices
from distill_jax.teacher.asking.budget import Budget
from distill_jax.teacher.asking.exchange import Request, Response, TeacherError

TABLE = prices.PriceTable("EUR", {"m": prices.Price(1e6, 2e6)}, "p.toml")


def make_request(text="x" * 100, model="m", max_tokens=50):
  return Request(model, "completions", text, {"max_tokens": max_tokens})


def make_response(prompt_tokens=20, completion_tokens=5):
  return Response("yes", "stop", prompt_tokens, completion_tokens, "m", 0.1, 1)


@pytest.fixture(name="own")
def fixture_own(tmp_path):
  with journal.Journal(tmp_path / "journal.jsonl") as own:
    yield own


def make_budget(own, max_cost=None, max_total_tokens=None, table=TABLE):
  return Budget([own.ledger], table, max_cost, max_total_tokens)


def find_most(own):
  """Returns the tokens that a request needs beside what there is."""
  return next(
    most
    for most in range(10_000)
    if make_budget(own, None, most).admits(make_request("y" * 100))
  )


def test_a_first_request_counts_a_token_for_each_byte(own):
  assert find_most(own) == 100 + 50
  assert not make_budget(own, 100 + 2 * 50 - 1).admits(make_request())
  assert make_budget(own, 100 + 2 * 50).admits(make_request())


def test_what_was_counted_teaches_what_prompts_take(own):
  request = make_request()
  own.append_request(request.key, request, "q")
  own.append_response(request.key, make_response())
  # 25 were paid; a prompt is taken for 1.25 times what one was.
  assert find_most(own) == 25 + 25 + 50


def test_what_is_under_way_counts_for_the_most_it_can_be(own):
  for number in range(3):
    request = make_request(f"{number}" * 100)
    own.append_request(request.key, request, "q")
  assert find_most(own) == 3 * 150 + 150
  # What was asked before a kill may be charged as well.
  own.append_request(request.key, request, "q")
  assert find_most(own) == 4 * 150 + 150
  own.append_response(request.key, make_response())
  assert find_most(own) == 3 * (25 + 50) + 25 + 75


def test_what_nobody_counted_counts_for_the_most_it_can_be(own):
  for number, outcome in enumerate(("none", "timeout", "rejected")):
    request = make_request(f"{number}" * 100)
    own.append_request(request.key, request, "q")
    if outcome == "none":
      own.append_response(request.key, make_response(None, None))
    else:
      error = TeacherError("", kind=outcome, is_final=True, num_attempts=1)
      own.append_failure(request.key, error)
  assert find_most(own) == 2 * 150 + 150


def test_answers_beyond_their_limit_are_learned(own):
  request = make_request()
  own.append_request(request.key, request, "q")
  own.append_response(request.key, make_response(20, 500))
  assert find_most(own) == 520 + 25 + 500
  other = make_request("other")
  for _ in range(2):
    own.append_request(other.key, other, "q")
  # Attempts that may be charged can be as long.
  assert find_most(own) >= 520 + 25 + 500 + 2 * 500


def test_a_dearer_price_of_reasoning_counts(own):
  table = prices.PriceTable(
    "EUR", {"m": prices.Price(1e6, 2e6, reasoning=4e6)}, "p.toml"
  )
  assert not make_budget(own, 299, table=table).admits(make_request())
  assert make_budget(own, 300, table=table).admits(make_request())


def test_a_cost_that_cannot_be_told(own):
  with pytest.raises(UserError, match="MAX_COST is 3, .* Give PRICE_TABLE"):
    make_budget(own, 3.0, table=None)
  request = make_request(model="other")
  own.append_request(request.key, request, "q")
  with pytest.raises(UserError, match="no price of 'other'"):
    make_budget(own, 3.0)
  make_budget(own, None, 3)
