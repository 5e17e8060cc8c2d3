"""What the lines of a journal cost."""

import pytest

from distill_jax.teacher.asking import journal, ledger, prices
from distill_jax.teacher.asking.exchange import Request, Response, TeacherError

TABLE = prices.PriceTable("EUR", {"m": prices.Price(1e6, 2e6)}, "p.toml")


def make_request(text="?", model="m", address="http://a", **parameters):
  parameters = {"temperature": 0.0, "max_tokens": 50} | parameters
  return Request(
    model, "completions", text, parameters, address=address, prompt_name="svamp"
  )


def make_response(prompt_tokens=10, completion_tokens=5, model="m", **fields):
  return Response(
    "yes", "stop", prompt_tokens, completion_tokens, model, 0.1, 1, **fields
  )


@pytest.fixture(name="own")
def fixture_own(tmp_path):
  with journal.Journal(tmp_path / "journal.jsonl") as own:
    yield own


def ask(own, request, outcome=None):
  own.append_request(request.key, request, "q")
  if isinstance(outcome, Response):
    own.append_response(request.key, outcome)
  elif isinstance(outcome, str):
    error = TeacherError("no", kind=outcome, is_final=True, num_attempts=1)
    own.append_failure(request.key, error)


def summarize(own, table=TABLE, num_records=None):
  """Returns the summary, which reading the file again must give too."""
  summary = ledger.summarize([own.ledger], table, num_records)
  with journal.JournalReader(own.path) as reader:
    assert ledger.summarize([reader.ledger], table, num_records) == summary
  return summary


def test_nothing():
  summary = ledger.summarize([], None, None)
  assert summary["num_requests"] == summary["prompt_tokens"] == 0
  assert summary["cost"] is None and summary["settings"] == []
  assert "0 answers" in ledger.describe(summary)[0]


def test_tokens_cost_and_what_records_take(own):
  for seed in range(4):
    ask(own, make_request(seed=seed), make_response())
  summary = summarize(own, num_records=2)
  assert (summary["prompt_tokens"], summary["completion_tokens"]) == (40, 20)
  assert summary["cost"] == 40 * 1 + 20 * 2
  # Filters dropped half of what was paid.
  assert summary["cost_per_record"] == 40
  assert summary["tokens_per_record"] == 30
  assert len(summary["settings"]) == 1
  said = "\n".join(ledger.describe(summary))
  assert "4 answers, tokens: 40 in, 20 out; cost: 80 EUR" in said
  assert "for each of 2 records: 40 EUR, 30 tokens" in said


def test_settings_are_told_apart(own):
  ask(own, make_request(), make_response())
  ask(own, make_request(temperature=0.5), make_response(20, 6))
  ask(own, make_request(address="http://b"), make_response(1, 1))
  ask(own, make_request(model="other"), make_response(3, 3))
  summary = summarize(own)
  assert [
    (row["model"], row["address"], row["parameters"]["temperature"])
    for row in summary["settings"]
  ] == [
    ("m", "http://a", 0.5),
    ("m", "http://a", 0.0),
    ("other", "http://a", 0.0),
    ("m", "http://b", 0.0),
  ]
  assert summary["settings"][0]["cost"] == 32
  assert summary["settings"][2]["cost"] is None
  assert summary["models_without_price"] == ["other"]
  said = "\n".join(ledger.describe(summary))
  assert "without that of 'other', which PRICE_TABLE lacks" in said
  assert "'m', prompt svamp, max_tokens 50, temperature 0.5, at" in said


def test_what_is_cached_and_what_is_reasoning(own):
  details = {"cached_tokens": 8, "reasoning_tokens": 3}
  ask(own, make_request(), make_response(**details))
  # A server that says more than there is.
  ask(own, make_request("a"), make_response(cached_tokens=999))
  table = prices.PriceTable(
    "EUR", {"m": prices.Price(1e6, 2e6, cached=5e5, reasoning=3e6)}, "p.toml"
  )
  summary = summarize(own, table)
  assert (summary["cached_tokens"], summary["reasoning_tokens"]) == (18, 3)
  assert summary["cost"] == pytest.approx(2 * 1 + 18 * 0.5 + 7 * 2 + 3 * 3)
  said = ledger.describe(summary)[0]
  assert "20 (18 cached) in, 10 (3 reasoning) out" in said
  assert summarize(own)["cost"] == 20 * 1 + 10 * 2


def test_what_nobody_counted_is_named(own):
  ask(own, make_request("a"), make_response(None, None))
  ask(own, make_request("b"), make_response(10, None))
  for number, kind in enumerate(("timeout", "connection", "bad_response")):
    ask(own, make_request(f"c{number}"), kind)
  # These cost nothing.
  ask(own, make_request("d"), "rejected")
  ask(own, make_request("e"), "rate_limited")
  ask(own, make_request("f"))
  summary = summarize(own)
  assert summary["num_uncounted_responses"] == 2
  assert summary["num_unknown"] == 4
  assert summary["prompt_tokens"] == 10
  said = "\n".join(ledger.describe(summary))
  assert "not in it: 2 answers whose tokens the server did not count" in said
  assert "not in it: 4 attempts that may be charged" in said


def test_a_request_that_is_asked_again_after_a_kill(own):
  ask(own, make_request())
  assert summarize(own)["num_unknown"] == 1
  ask(own, make_request(), make_response())
  summary = summarize(own)
  assert (summary["num_unknown"], summary["num_requests"]) == (1, 2)
  assert summary["num_responses"] == 1


def test_each_attempt_that_may_be_charged_counts(own):
  request = make_request("four")
  for _ in range(2):
    ask(own, request)
  ask(own, request, make_response())
  (account,) = own.ledger.accounts.values()
  assert account.num_unknown == 2
  assert account.uncounted_bytes == 2 * len("four")
  assert account.uncounted_completion_tokens == 2 * 50
  assert (account.num_open, account.num_requests) == (0, 3)


def test_what_was_counted_before_there_was_a_bound(own):
  request = make_request()
  ask(own, request, make_response(10, 5))
  line = own.path.read_text().replace(
    '"prompt_tokens": 10', f'"prompt_tokens": {10**400}'
  )
  own.path.write_text(line)
  with journal.JournalReader(own.path) as reader:
    summary = ledger.summarize([reader.ledger], TABLE, None)
    assert reader.read_response(request.key).prompt_tokens is None
  assert (summary["prompt_tokens"], summary["completion_tokens"]) == (0, 5)
  assert summary["num_uncounted_responses"] == 1


def test_a_refusal_of_two_lines_counts_once(own):
  request = make_request()
  ask(own, request, "rejected")
  error = TeacherError("no", kind="rejected", is_final=True, num_attempts=1)
  own.append_failure(request.key, error)
  summary = summarize(own)
  assert (summary["num_requests"], summary["num_failures"]) == (1, 1)
  assert summary["num_unknown"] == 0
  assert len(summary["settings"]) == 1
  assert summary["models_without_price"] == []


@pytest.mark.parametrize("status", ["refused", "unreadable"])
def test_answers_without_text_are_paid(own, status):
  ask(own, make_request(), make_response(status=status, raw="{"))
  nobody_knows = make_response(None, None, status="unreadable", raw="{")
  ask(own, make_request("2"), nobody_knows)
  ask(own, make_request("2"), nobody_knows)
  summary = summarize(own)
  assert (summary["prompt_tokens"], summary["completion_tokens"]) == (10, 5)
  assert summary["num_responses"] == 3
  assert summary["num_uncounted_responses"] == 2
  assert summary["num_unknown"] == 0


def test_models_that_answered_in_anothers_name(own):
  for number in range(3):
    ask(own, make_request(f"{number}"), make_response())
  ask(own, make_request("a"), make_response(model="m-2024-08-06"))
  ask(own, make_request("b"), make_response(model="\x1b[2Jcheap"))
  summary = summarize(own)
  assert summary["served_models"] == {
    "m": {"m": 3, "m-2024-08-06": 1, "\x1b[2Jcheap": 1}
  }
  said = ledger.describe(summary)[-1]
  assert said.startswith("model 'm' was asked, and the server says: ")
  assert "'m-2024-08-06' 1 times" in said and "\x1b" not in said


def test_a_server_that_invents_names(own):
  for number in range(50):
    ask(own, make_request(f"{number}"), make_response(model=f"x{number}"))
  served = summarize(own)["served_models"]["m"]
  assert len(served) == 21 and served[ledger.OTHER_MODELS] == 30


def test_a_journal_of_an_older_version(own):
  """Neither address nor prompt; answers without their requests."""
  request = make_request(address=None)
  ask(own, request, make_response())
  own.append_response(make_request("b").key, make_response(7, 1))
  summary = summarize(own)
  assert summary["prompt_tokens"] == 17
  assert {row["model"] for row in summary["settings"]} == {"m"}
  assert {row["address"] for row in summary["settings"]} == {None}


def test_journals_add_up(own, tmp_path):
  ask(own, make_request("a"), make_response())
  with journal.Journal(tmp_path / "other" / "journal.jsonl") as other:
    ask(other, make_request("b"), make_response())
    summary = ledger.summarize([own.ledger, other.ledger], TABLE, None)
  assert summary["num_responses"] == 2
  assert len(summary["settings"]) == 1
