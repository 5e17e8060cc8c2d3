"""Secrets in every spelling, and texts that hold none."""

import base64
import html
import json
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.teacher.reading import redaction

KEY = "sk-Proj/9+x_A0123456789=="
redaction.add_secret(KEY)


def _escape(text, form):
  return "".join(form.format(ord(letter)) for letter in text)


_SPELLED = {
  "plain": KEY,
  "slashes": KEY.replace("/", r"\/"),
  "JSON": _escape(KEY, r"\u{:04x}"),
  "JSON, capitals": _escape(KEY, r"\u{:04X}"),
  "JSON in JSON": json.dumps(json.dumps(_escape(KEY, r"\u{:04x}"))),
  "mixed": "\\u0073k%2dProj\\/9&#43;x_A0123456789%253d=",
  "URL": urllib.parse.quote(KEY, safe=""),
  "URL of URL": urllib.parse.quote(urllib.parse.quote(KEY, safe="")),
  "HTML": _escape(KEY, "&#{};"),
  "HTML, hex": html.escape(_escape(KEY, "&#x{:X};")),
  "hex": KEY.encode().hex(),
}


@pytest.mark.parametrize("spelled", _SPELLED.values(), ids=_SPELLED)
def test_a_secret_is_found(spelled):
  assert redaction.redact(f"a {spelled} b").strip('"a b\\') == "[key]"
  assert redaction.redact(spelled.encode()).strip(b'"\\') == b"[key]"


@pytest.mark.parametrize("before", ["", "a", "Bearer ", "api:", "user:x "])
@pytest.mark.parametrize(
  "encode_fn", [base64.b64encode, base64.urlsafe_b64encode]
)
def test_a_secret_inside_base64_is_found(before, encode_fn):
  letters = encode_fn(f"{before}{KEY} and".encode()).decode()
  found = redaction.redact(letters)
  start, _, end = found.partition("[key]")
  assert end != letters
  padded = start + "=" * (-len(start) % 4)
  assert base64.urlsafe_b64decode(padded) in before.encode() + KEY[:3].encode()


def test_all_of_an_object_is_looked_at():
  value = {"a": [KEY, {KEY: (KEY, 1, None, True)}]}
  expected = {"a": ["[key]", {"[key]": ["[key]", 1, None, True]}]}
  assert redaction.redact(value) == expected


def test_several_secrets_and_the_longest_first():
  redaction.add_secret(KEY + "-more")
  redaction.add_secret("another-secret-0")
  assert redaction.redact(f"{KEY}-more {KEY}") == "[key] [key]"
  assert redaction.redact("another-secret-0") == "[key]"


def test_words_are_no_secrets():
  redaction.add_secret("none")
  assert redaction.redact("There are none.") == "There are none."
  assert not redaction.is_secret("none")


@given(st.text() | st.sampled_from(["\\" * 5000, "%25" * 3000, "&amp;" * 3000]))
def test_other_texts_are_left_alone(text):
  assert redaction.redact(text) == text
  assert redaction.redact(text.encode("utf-8", "surrogatepass")) == text.encode(
    "utf-8", "surrogatepass"
  )


@given(st.text())
def test_what_was_json_still_is(text):
  body = json.dumps({"a": text + KEY, KEY: text})
  assert KEY not in json.dumps(json.loads(redaction.redact(body)))
