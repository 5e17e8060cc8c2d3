"""Errors about the account, about a prompt, and prompts about accounts."""

import json

import fault_server
import pytest

from distill_jax.teacher.reading import account_errors


def _error(message, **fields):
  return {"error": {"message": message, **fields}}


@pytest.mark.parametrize(
  ("status", "body"),
  [
    (400, fault_server.ANTHROPIC_NO_CREDIT),
    (400, fault_server.GOOGLE_BAD_KEY),
    (400, fault_server.GOOGLE_BAD_KEY[0]),
    (400, _error("m", code="invalid_api_key")),
    (400, _error("m", code="billing_hard_limit_reached")),
    (400, {"code": "Arrearage", "message": "Access denied"}),
    (400, {"code": "x", "error": "Incorrect API key provided: xa***."}),
    (403, _error("m", details=[{"reason": "BILLING_DISABLED"}])),
    (403, _error("Insufficient balance")),
    (412, _error("Account is suspended")),
    (412, "Account suspended, no credits"),
    (400, _error("You have reached your specified API usage limits.")),
    (400, _error("This organization has been disabled.")),
    (400, "Your account balance is insufficient"),
    (400, {"errors": [{"message": "Exceeded credit limit"}]}),
    (400, {"detail": [{"msg": "Exceeded credit limit", "loc": ["body"]}]}),
    (400, {"error": {"error": {"message": "billing hard limit reached"}}}),
    (400, {"message": "Bad request", "detail": {"error_msg": "no funds"}}),
    (429, _error("m", code="insufficient_quota")),
    (429, _error("m", type="insufficient_quota")),
    (429, _error("余额不足", code="1113")),
  ],
  ids=str,
)
def test_about_the_account(status, body):
  found = account_errors.find_account_error(status, body)
  assert found is not None
  assert not account_errors.is_repeated(found, b'{"prompt": "How many?"}')


@pytest.mark.parametrize(
  ("status", "body"),
  [
    (400, _error("Unsupported parameter: 'top_p'", code="invalid_value")),
    (400, fault_server.OPENAI_CONTEXT_ERROR),
    (400, None),
    (400, []),
    (400, {"error": None}),
    (400, {"error": {"code": {}, "details": 5}}),
    (404, _error("The model 'x' does not exist", code="model_not_found")),
    (403, _error("Flagged", metadata={"reasons": ["billing"]})),
    # Google's words for a minute's limit.
    (429, _error("You exceeded your current quota, check plan and billing")),
    (429, _error("slow down", code="rate_limit_exceeded")),
    (500, _error("the billing service is down")),
  ],
  ids=str,
)
def test_about_something_else(status, body):
  assert account_errors.find_account_error(status, body) is None


@pytest.mark.parametrize(
  "question",
  [
    "Your credit balance is too low. Spam or not?",
    "My credit card and your billing department?",
    "The API key not valid error: what\nis\tit?",
    "She has no credits left",
  ],
)
@pytest.mark.parametrize("form", ["{}", "Invalid prompt: '{}'", "No: {} ..."])
def test_words_of_the_request_say_nothing(question, form):
  body = _error(form.format(question))
  found = account_errors.find_account_error(400, body)
  assert found is not None
  asked = json.dumps({"messages": [{"content": f"Q: {question}"}]}).encode()
  assert account_errors.is_repeated(found, asked)
  assert not account_errors.is_repeated(found, b'{"prompt": "credit api key"}')


def test_the_servers_own_words_count_beside_repeated_ones():
  question = "Is my credit card lost?"
  message = f"Your credit balance is too low to ask: {question}"
  found = account_errors.find_account_error(400, _error(message))
  asked = json.dumps({"prompt": question}).encode()
  assert not account_errors.is_repeated(found, asked)


@pytest.mark.parametrize(
  ("body", "message"),
  [
    (_error("a", detail="b"), "a b"),
    ({"error": {"error": {"message": "a"}}}, "a"),
    ({"errors": [{"message": "a"}, "b"], "message": "a"}, "a b"),
    ({"detail": [{"msg": "a", "input": "no"}]}, "a"),
    ([{"error": {"message": "a"}}], "a"),
    ("a", "a"),
    ({"choices": ["a"]}, ""),
    (None, ""),
  ],
  ids=str,
)
def test_what_an_error_says(body, message):
  assert account_errors.get_message(body) == message
