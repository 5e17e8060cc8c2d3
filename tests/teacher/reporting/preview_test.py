"""What is shown before anything is sent."""

import pytest

from distill_jax.errors import UserError
from distill_jax.teacher.asking import prices
from distill_jax.teacher.asking.exchange import Request
from distill_jax.teacher.reporting import preview

_COUNTER = prices.TokenCounter("words", lambda text: len(text.split()))


def _make_request(prompt, max_tokens=100, model="m"):
  parameters = {"temperature": 0.5, "max_tokens": max_tokens, "stop": ["\nQ:"]}
  return Request(model, "chat", prompt, parameters)


def test_estimate():
  requests = [
    _make_request("one two three"),
    _make_request([{"role": "user", "content": "four five"}], max_tokens=50),
  ]
  table = prices.PriceTable("EUR", {"m": prices.Price(1e6, 2e6)}, "p.toml")
  total = preview.estimate(requests, _COUNTER, table)
  assert total == preview.Estimate(2, 5, 150, 5.0 + 300.0)
  assert preview.estimate(requests, _COUNTER, None).cost is None
  assert preview.estimate([], _COUNTER, table) == preview.Estimate(cost=0.0)


def test_a_model_without_price():
  table = prices.PriceTable("EUR", {}, "p.toml")
  with pytest.raises(UserError, match="no price of 'm'"):
    preview.estimate([_make_request("a")], _COUNTER, table)


def test_requests_as_they_are_printed():
  chat = [
    {"role": "system", "content": "Solve."},
    {"role": "user", "content": "Q: 2?\n\x1b[2J"},
  ]
  assert preview.show_request(_make_request(chat)) == (
    "m, chat: temperature=0.5, max_tokens=100, stop=['\\nQ:']\n"
    "[system]\nSolve.\n[user]\nQ: 2?\n\\x1b[2J"
  )
  assert preview.show_request(_make_request("Q: 2?")).endswith("\nQ: 2?")


@pytest.mark.parametrize(
  "text, shown",
  [
    ("line\nline", "line\nline"),
    ("é ß 漢", "é ß 漢"),
    ("\r\t\0\x07", r"\r\t\x00\x07"),
    ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
    ("\u202eevil\u200b", r"\u202eevil\u200b"),
    ("\x9b31m", r"\x9b31m"),
  ],
)
def test_controls_are_shown_and_not_sent(text, shown):
  assert preview.escape_controls(text) == shown
