"""Bodies and statuses, one by one."""

import datetime
import json

import pytest
from fault_server import (
  HTML_PAGE,
  LLAMA_CPP_CONTEXT_ERROR,
  OPENAI_CONTEXT_ERROR,
)

from distill_jax.teacher.reading import replies

NOW = datetime.datetime(2030, 1, 1, 12, 0, 0, tzinfo=datetime.UTC)


def _chat(content, **choice):
  message = {"role": "assistant", "content": content}
  return {"choices": [{"message": message, **choice}]}


def _read(body, endpoint="chat"):
  return replies.read_answer(json.dumps(body).encode(), endpoint)


def test_a_chat_answer():
  body = _chat("So the answer is 3.", finish_reason="stop") | {
    "model": "m-1",
    "usage": {"prompt_tokens": 9, "completion_tokens": 6},
  }
  assert _read(body) == replies.Answer(
    "So the answer is 3.", "stop", 9, 6, "m-1"
  )


def test_a_completion_answer():
  body = {"choices": [{"text": " 3.", "finish_reason": "length"}]}
  assert _read(body, "completions") == replies.Answer(
    " 3.", "length", None, None, None
  )


def test_text_is_kept_as_it_is():
  text = " \t\n<think>{{x}} %s \u2028 \x00 日本 😀\r\n "
  assert _read(_chat(text)).text == text


def test_half_a_surrogate_pair_becomes_a_character_utf8_has():
  answer = _read(_chat("a\ud800b"))
  assert answer.text == "a\ufffdb"
  answer.text.encode()
  assert _read(_chat("😀")).text == "😀"  # JSON spells it as a pair.


@pytest.mark.parametrize(
  "fields",
  [
    {"usage": None, "model": 7},
    {"usage": [], "model": None},
    {"usage": {"prompt_tokens": "many", "completion_tokens": 1.5}},
    {"usage": {"prompt_tokens": True, "completion_tokens": -1}},
    {"usage": {"prompt_tokens": 1e300, "completion_tokens": float("inf")}},
    {"usage": {"prompt_tokens": 10**400, "completion_tokens": "9" * 400}},
    {"choices": [{"message": {"content": "x"}, "finish_reason": 5}]},
  ],
  ids=str,
)
def test_odd_side_fields_are_none(fields):
  assert _read(_chat("x") | fields) == replies.Answer(
    "x", None, None, None, None
  )


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"null",
    b"[]",
    b"7",
    b'"text"',
    b"{}",
    b'{"choices": null}',
    b'{"choices": []}',
    b'{"choices": {}, "usage": {"prompt_tokens": 3}}',
    b'{"choices": ["x"]}',
    b'{"choices": [{}]}',
    b'{"choices": [{"message": "x"}]}',
    b'{"choices": [{"message": {"content": "trunc',
    b'{"choices": [{"message": {"content": 5}}]}',
    b"\xff\xfe{}",
    HTML_PAGE,
    b"[" * 100_000,
    b'{"choices": ' + b"9" * 5000 + b"}",
    b"data: {}\n\ndata: [DONE]\n",
  ],
  ids=lambda content: repr(content[:30]),
)
def test_a_body_that_is_no_answer_is_kept(content):
  answer = replies.read_answer(content, "chat")
  assert (answer.status, answer.text) == ("unreadable", "")
  assert len(answer.raw) < 17_000
  answer.raw.encode()


@pytest.mark.parametrize(
  ("error", "kind", "is_final"),
  [
    ({"message": "x", "code": 503}, "server_error", False),
    ({"message": "x", "code": "429"}, "rate_limited", False),
    ({"message": "x", "code": "insufficient_quota"}, "rejected", True),
    ({"message": "x", "code": 400}, "rejected", True),
  ],
  ids=str,
)
def test_an_error_that_came_as_a_success_is_one(error, kind, is_final):
  failure = _read({"error": error})
  assert (failure.kind, failure.is_final) == (kind, is_final)


@pytest.mark.parametrize(
  "error", ["oops", {"message": "overloaded"}, {"message": "x", "code": 7}]
)
def test_an_error_without_a_status_is_unreadable(error):
  answer = _read({"error": error})
  assert answer.status == "unreadable" and json.dumps(error) in answer.raw


@pytest.mark.parametrize("code", [None, 502])
@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 9}])
def test_an_error_behind_a_part_of_an_answer_is_unreadable(code, usage):
  chunks = [
    {"choices": [{"delta": {"content": "The answer is 3"}}], "usage": usage},
    {"error": {"message": "boom", "code": code}},
  ]
  stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
  answer = replies.read_answer(f"{stream}data: [DONE]\n\n".encode(), "chat")
  assert (answer.status, answer.text) == ("unreadable", "")
  assert "The answer is 3" in answer.raw
  assert answer.prompt_tokens == (9 if usage else None)


def test_whole_floats_and_digits_are_counts():
  usage = {"prompt_tokens": 11.0, "completion_tokens": "7"}
  answer = _read(_chat("x") | {"usage": usage})
  assert (answer.prompt_tokens, answer.completion_tokens) == (11, 7)


@pytest.mark.parametrize("num_digits", [400, 5000])
def test_a_long_number_spoils_no_answer(num_digits):
  text = json.dumps(_chat("x") | {"usage": {"prompt_tokens": 5}})
  text = text.replace("5}", "9" * num_digits + "}")
  answer = replies.read_answer(text.encode(), "chat")
  assert (answer.text, answer.prompt_tokens) == ("x", None)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_details", "x"])
@pytest.mark.parametrize("form", ["[%s]", '{"text": %s}'])
def test_deep_nesting_spoils_no_answer(name, form):
  begin, end = form.split("%s")
  deep = json.loads(begin * 900 + '"y"' + end * 900)
  body = _chat("x")
  body["choices"][0]["message"][name] = deep
  content = json.dumps(body).encode()
  assert replies.read_answer(content, "chat").text == "x"
  assert replies.read_answer_object(body, "chat").text == "x"
  error = json.dumps({"error": {"message": deep, "details": deep}}).encode()
  assert replies.read_error(400, error).kind == "rejected"


def test_of_several_choices_the_first_by_index():
  body = {
    "choices": [
      {"index": 1, "message": {"content": "7"}},
      {"index": 0, "message": {"content": "3"}},
    ]
  }
  assert _read(body).text == "3"
  assert _read({"choices": body["choices"][:1]}).text == "7"


@pytest.mark.parametrize(
  ("finish_reason", "status"),
  [
    ("SAFETY", "filtered"),
    ("content-filter", "filtered"),
    ("contentFilter", "filtered"),
    ("refusal", "refused"),
    ("stop", "empty"),
  ],
)
def test_why_a_choice_has_no_text(finish_reason, status):
  answer = _read(_chat(None, finish_reason=finish_reason))
  assert answer.status == status


def test_bytes_that_are_no_text_spoil_no_answer():
  content = b'{"choices": [{"message": {"content": "a \xff b"}}]}'
  assert replies.read_answer(content, "chat").text == "a \ufffd b"


_USAGE = {
  "prompt_tokens": 9,
  "completion_tokens": 6,
  "prompt_tokens_details": {"cached_tokens": 4},
  "completion_tokens_details": {"reasoning_tokens": 5},
}


@pytest.mark.parametrize(
  ("message", "finish_reason", "status"),
  [
    ({"content": None}, "stop", "empty"),
    ({"content": ""}, "length", "empty"),
    ({"content": " \n"}, "stop", "empty"),
    ({}, "stop", "empty"),
    ({"content": []}, "stop", "empty"),
    ({"content": None, "refusal": "I will\nnot"}, "stop", "refused"),
    ({"content": [{"type": "refusal", "refusal": "no"}]}, "stop", "refused"),
    ({"content": None}, "content_filter", "filtered"),
    ({"content": None, "tool_calls": [{"id": "1"}]}, "x", "tool_calls"),
    ({"content": None, "function_call": {"name": "f"}}, "x", "tool_calls"),
    ({"content": "", "reasoning_content": "hm"}, "length", "reasoning_only"),
    ({"content": None, "reasoning": "hm"}, "length", "reasoning_only"),
    (
      {"content": [{"type": "thinking", "thinking": [{"text": "hm"}]}]},
      "length",
      "reasoning_only",
    ),
  ],
  ids=str,
)
def test_a_choice_without_text_was_paid_for(message, finish_reason, status):
  choice = {"message": message, "finish_reason": finish_reason}
  answer = _read({"choices": [choice], "usage": _USAGE, "model": "m-1"})
  assert answer.status == status and not answer.text.strip()
  assert (answer.prompt_tokens, answer.completion_tokens) == (9, 6)
  assert (answer.cached_tokens, answer.reasoning_tokens) == (4, 5)
  assert (answer.finish_reason, answer.model) == (finish_reason, "m-1")
  assert json.loads(answer.raw)["choices"] == [choice]
  assert answer.reasoning == ("hm" if status == "reasoning_only" else None)


def test_usage_without_choice_was_paid_for():
  answer = _read({"choices": [], "usage": _USAGE})
  assert (answer.status, answer.completion_tokens) == ("empty", 6)


@pytest.mark.parametrize(
  "content",
  [
    [{"type": "text", "text": "So "}, {"type": "text", "text": "3."}],
    [{"type": "output_text", "text": {"value": "So 3."}}],
    ["So ", "3."],
    {"type": "text", "text": "So 3."},
    [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "So 3."}],
  ],
  ids=str,
)
def test_parts_are_an_answer(content):
  answer = _read(_chat(content))
  assert (answer.text, answer.status, answer.raw) == ("So 3.", "answered", None)


@pytest.mark.parametrize(
  "usage",
  [
    {"input_tokens": 9, "output_tokens": 6, "cache_read_input_tokens": 4},
    {
      "prompt_tokens": 9,
      "completion_tokens": 6,
      "prompt_cache_hit_tokens": 4,
    },
  ],
  ids=str,
)
def test_usage_by_other_names(usage):
  answer = _read(_chat("x") | {"usage": usage})
  assert (answer.prompt_tokens, answer.completion_tokens) == (9, 6)
  assert answer.cached_tokens == 4


def test_reasoning_beside_an_answer_is_kept_beside_it():
  body = _chat("3")
  body["choices"][0]["message"]["reasoning_content"] = "It is 4."
  answer = _read(body)
  assert (answer.text, answer.reasoning) == ("3", "It is 4.")


@pytest.mark.parametrize(
  ("status", "kind", "is_final", "has_hint"),
  [
    (302, "rejected", True, True),
    (400, "rejected", True, False),
    (401, "unauthorized", True, True),
    (402, "rejected", True, True),
    (403, "unauthorized", True, True),
    (404, "rejected", True, True),
    (405, "rejected", True, True),
    (408, "timeout", False, False),
    (409, "server_error", False, False),
    (413, "too_large", True, False),
    (422, "rejected", True, False),
    (425, "server_error", False, False),
    (429, "rate_limited", False, False),
    (451, "rejected", True, False),
    (500, "server_error", False, False),
    (502, "server_error", False, False),
    (503, "server_error", False, False),
    (504, "timeout", False, False),
    (529, "server_error", False, False),
  ],
)
@pytest.mark.parametrize(
  "content",
  [b"", HTML_PAGE, b'{"error": {"message": "m"}}', b"\xff", b"[" * 9999],
)
def test_statuses(status, kind, is_final, has_hint, content):
  failure = replies.read_error(status, content, 3.0)
  assert (failure.kind, failure.is_final) == (kind, is_final)
  assert (failure.hint is not None) == has_hint
  assert failure.retry_after_seconds == (None if is_final else 3.0)
  assert failure.message.startswith(f"HTTP {status}")


@pytest.mark.parametrize(
  "body",
  [
    LLAMA_CPP_CONTEXT_ERROR,
    OPENAI_CONTEXT_ERROR,
    {"object": "error", "message": "maximum context length is 2048", "code": 4},
    {"error": "prompt exceeds context_length"},
    {"error": {"code": "context_length_exceeded", "message": None}},
  ],
  ids=str,
)
def test_a_prompt_beyond_the_context_is_too_large(body):
  failure = replies.read_error(400, json.dumps(body).encode())
  assert (failure.kind, failure.is_final) == ("too_large", True)
  assert failure.hint is None


def test_no_credit_is_for_the_user_though_it_is_a_429():
  body = {"error": {"message": "quota", "code": "insufficient_quota"}}
  failure = replies.read_error(429, json.dumps(body).encode())
  assert failure.is_final and failure.hint


def test_a_403_about_one_prompt_stops_only_that():
  body = {"error": {"message": "Your input was flagged by moderation"}}
  failure = replies.read_error(403, json.dumps(body).encode())
  assert (failure.kind, failure.is_final) == ("rejected", True)
  assert failure.hint is None


def test_a_prompt_that_is_repeated_cannot_stop_the_run():
  body = {"error": {"message": "bad: insufficient_quota moderation 401"}}
  failure = replies.read_error(400, json.dumps(body).encode())
  assert (failure.kind, failure.hint) == ("rejected", None)


def test_quotations_are_short_and_harmless():
  quoted = replies.quote("\x1b[2J secret\nline " * 10_000)
  assert len(quoted) < 900 and quoted.isprintable() and quoted.isascii()
  assert replies.quote("two\n lines") == "'two lines'"
