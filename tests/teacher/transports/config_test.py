"""Addresses, limits and keys that can be, and those that cannot."""

import pytest

from distill_jax.errors import UserError
from distill_jax.teacher.transports import config

KEY = "sk-abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
  "base_url",
  [
    "http://127.0.0.1:8000/v1",
    "http://localhost:8000",
    "http://[::1]:8080/v1/",
    "https://api.openai.com/v1",
    "https://host/proxy/teacher/v1",
  ],
)
def test_addresses_that_can_be(base_url):
  assert config.TeacherConfig(base_url).base_url == base_url


@pytest.mark.parametrize(
  ("base_url", "problem"),
  [
    ("", "is not an address"),
    (None, "is not an address"),
    ("localhost:8000/v1", "is not an address"),
    ("ftp://host/v1", "is not an address"),
    ("http:///v1", "is not an address"),
    ("http://host:port/v1", "is not an address"),
    ("http://host/v1 ", "is not an address"),
    ("http://host/v1\r\nX-Header: 1", "is not an address"),
    ("https://user:secret-word@host/v1", "a password"),
    ("https://secret-word@host/v1", "a password"),
    ("https://host/v1?api_key=secret-word", "after '?'"),
    ("https://host/v1#secret-word", "after '?'"),
    ("https://host/v1/chat/completions", "names an endpoint"),
  ],
)
def test_addresses_that_cannot_be(base_url, problem):
  with pytest.raises(UserError) as caught:
    config.TeacherConfig(base_url)
  assert str(caught.value).startswith("TEACHER_BASE_URL ")
  assert problem in str(caught.value)
  assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize(
  "field",
  [
    "max_concurrency",
    "requests_per_minute",
    "tokens_per_minute",
    "timeout_seconds",
    "max_attempts",
    "first_delay_seconds",
    "retry_budget_seconds",
    "max_request_bytes",
    "max_prompt_tokens",
    "max_response_bytes",
  ],
)
@pytest.mark.parametrize(
  "value", [0, -1, True, "8", float("nan"), float("inf")], ids=str
)
def test_limits_that_cannot_be(field, value):
  with pytest.raises(UserError, match=f"^{field} is .*above 0"):
    config.TeacherConfig("http://localhost/v1", **{field: value})


@pytest.mark.parametrize("field", ["max_concurrency", "max_attempts"])
@pytest.mark.parametrize("value", [1.5, None])
def test_counts_are_whole_and_there(field, value):
  with pytest.raises(UserError, match="whole number"):
    config.TeacherConfig("http://localhost/v1", **{field: value})


def test_no_limit_is_none():
  made = config.TeacherConfig(
    "http://localhost/v1", requests_per_minute=None, tokens_per_minute=0.5
  )
  assert made.requests_per_minute is None


@pytest.mark.parametrize("name", [KEY, "AIzaSyD-0123456789", "", "A B", 5])
def test_a_key_given_as_the_name_is_not_repeated(name):
  with pytest.raises(UserError, match="TEACHER_API_KEY_VARIABLE") as caught:
    config.TeacherConfig("https://host/v1", api_key_variable=name)
  assert not name or str(name) not in str(caught.value)


def test_the_key_comes_from_the_named_variable(monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", "another")
  monkeypatch.setenv("MY_KEY", f"  {KEY}\n")
  made = config.TeacherConfig("https://host/v1", api_key_variable="MY_KEY")
  assert config.read_api_key(made) == KEY
  assert KEY not in repr(made)


@pytest.mark.parametrize(
  "host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]", "a.localhost"]
)
def test_a_local_server_needs_no_key(monkeypatch, host):
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  assert (
    config.read_api_key(config.TeacherConfig(f"http://{host}/v1")) == "none"
  )
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  assert config.read_api_key(config.TeacherConfig(f"http://{host}/v1")) == KEY


@pytest.mark.parametrize(
  "host", ["api.openai.com", "10.0.0.8", "localhost.evil.com", "127.0.0.1.x.y"]
)
@pytest.mark.parametrize("value", [None, "", "  "])
def test_any_other_needs_one(monkeypatch, host, value):
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  if value is not None:
    monkeypatch.setenv("OPENAI_API_KEY", value)
  made = config.TeacherConfig(f"https://{host}/v1")
  with pytest.raises(UserError, match="OPENAI_API_KEY is not set") as caught:
    config.read_api_key(made)
  assert host in str(caught.value)


@pytest.mark.parametrize("key", ["two words", "line\nend", "schlüssel", "a\0b"])
def test_a_key_that_no_header_takes_is_not_repeated(monkeypatch, key):
  # Set past the environment, which takes no NUL.
  monkeypatch.setattr(config.os, "environ", {"OPENAI_API_KEY": key})
  with pytest.raises(UserError, match="OPENAI_API_KEY holds blanks") as caught:
    config.read_api_key(config.TeacherConfig("https://host/v1"))
  assert key not in str(caught.value)


@pytest.mark.parametrize(
  ("base_url", "address"),
  [
    ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
    ("https://API.OpenAI.com:443/v1", "https://api.openai.com/v1"),
    ("http://[::1]:8080", "http://[::1]:8080"),
    ("https://user:secret@host/v1?key=secret#secret", "https://host/v1"),
  ],
)
def test_an_address_holds_no_secret(base_url, address):
  assert config.get_address(base_url) == address


def test_extra_headers_come_from_the_environment(monkeypatch):
  made = config.TeacherConfig(
    "https://host/v1",
    api_key_variable=None,
    extra_headers={"api-key": "$AZURE_KEY", "X-Team": "blue"},
    extra_query={"api-version": "2024-10-21"},
  )
  with pytest.raises(UserError, match="AZURE_KEY is not set, .*'api-key'"):
    config.read_extras(made.extra_headers)
  monkeypatch.setenv("AZURE_KEY", KEY)
  headers = config.read_extras(made.extra_headers)
  assert headers == {"api-key": KEY, "X-Team": "blue"}
  assert config.list_secrets(made) == [KEY]
  assert KEY not in repr(made)
  monkeypatch.setenv("AZURE_KEY", "line\nend")
  with pytest.raises(UserError, match="AZURE_KEY holds blanks"):
    config.read_extras(made.extra_headers)


@pytest.mark.parametrize(
  ("headers", "told"),
  [
    ({"api-key": KEY}, "'api-key' looks like a key"),
    ({"Authorization": f"Bearer {KEY}"}, "'Authorization' looks like a key"),
    ({"X-Auth-Token": KEY}, "looks like a key"),
    ({"a": f"${KEY}"}, "no name of an environment variable"),
    ({"a": "line\r\nend"}, "the value of 'a' is no plain text"),
    ({"a": 5}, "the value of 'a' is no plain text"),
    ({"a b": "c"}, "'a b' is no name"),
    ([KEY], "is no mapping"),
    (None, "is no mapping"),
  ],
)
def test_headers_that_cannot_be_are_not_repeated(headers, told):
  for field, macro in (
    ("extra_headers", "EXTRA_HEADERS"),
    ("extra_query", "EXTRA_QUERY"),
  ):
    with pytest.raises(UserError, match=macro) as caught:
      config.TeacherConfig("https://host/v1", **{field: headers})
    assert told in str(caught.value)
    assert KEY not in str(caught.value)
