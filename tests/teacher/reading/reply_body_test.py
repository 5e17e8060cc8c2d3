"""Bodies in every wrapping."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.teacher.reading import reply_body

BODY = {"choices": [{"message": {"content": "é 3"}}], "usage": {"n": 1}}
TEXT = json.dumps(BODY, ensure_ascii=False)


@pytest.mark.parametrize(
  "content",
  [
    TEXT.encode(),
    TEXT.encode("utf-8-sig"),
    TEXT.encode("utf-16"),
    TEXT.encode("utf-16-le"),
    TEXT.encode("utf-32"),
    b"\r\n\n  " + TEXT.encode() + b"\n\n\0",
    b": OPENROUTER PROCESSING\n\n: again\n\n" + TEXT.encode(),
    json.dumps(TEXT).encode(),
    json.dumps([BODY]).encode(),
    f"data: {TEXT}\n\ndata: [DONE]\n\n".encode(),
    f"event: x\r\nid: 1\r\ndata:{TEXT}\r\n\r\n".encode(),
    ("data: " + json.dumps(BODY, indent=1).replace("\n", "\ndata: ")).encode(),
  ],
  ids=lambda content: repr(content[:12]),
)
def test_the_object_is_found(content):
  assert reply_body.read_object(reply_body.decode(content)) == BODY


def _chunk(**delta):
  finish_reason = delta.pop("finish_reason", None)
  choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
  return {"model": "m", "choices": [choice], "usage": None}


CHUNKS = [
  _chunk(role="assistant", reasoning_content="h"),
  _chunk(reasoning_content="m"),
  _chunk(content="So "),
  _chunk(content="3.", finish_reason="stop"),
  {"model": "m", "choices": [], "usage": {"prompt_tokens": 5}},
]


def _write_events(chunks, end="data: [DONE]\n\n"):
  return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end


@pytest.mark.parametrize(
  "text",
  [
    _write_events(CHUNKS),
    _write_events(CHUNKS, ""),
    "\n".join(map(json.dumps, CHUNKS)),
    json.dumps(CHUNKS),
  ],
  ids=["events", "no end", "lines", "list"],
)
def test_a_stream_is_put_together(text):
  body = reply_body.read_object(text)
  assert body["choices"] == [
    {
      "message": {"reasoning_content": "hm", "content": "So 3."},
      "finish_reason": "stop",
    }
  ]
  assert (body["model"], body["usage"]) == ("m", {"prompt_tokens": 5})


def test_a_stream_of_completions():
  chunks = [
    {"choices": [{"text": text, "finish_reason": reason}]}
    for text, reason in ((" 3", None), (".", "stop"))
  ]
  body = reply_body.read_object(_write_events(chunks))
  assert body["choices"][0]["text"] == " 3."


@pytest.mark.parametrize(
  "text",
  [
    _write_events(CHUNKS[:3], ""),
    _write_events(CHUNKS)[:-130],
    _write_events([{"choices": [{"text": "a"}]}], ""),
    _write_events(CHUNKS[:2]) + "data: {oops\n\n",
    TEXT[:-9],
    "<html>",
    "",
    "data:",
    "[]",
    "[[]]",
    "7",
    "[" * 100_000,
  ],
  ids=lambda text: repr(text[:20] + text[-9:]),
)
def test_what_is_broken_off_or_none_is_not_read(text):
  assert reply_body.read_object(text) is None


def test_an_error_within_a_stream():
  chunks = [*CHUNKS[:2], {"error": {"message": "overloaded"}}]
  body = reply_body.read_object(_write_events(chunks))
  assert body["error"] == {"message": "overloaded"}


_ANSWERS = [
  {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
  for text in ("3", "4")
]
_TEXTS = [
  {"choices": [{"text": text, "finish_reason": "stop"}]} for text in ("3", "4")
]


@pytest.mark.parametrize("answers", [_ANSWERS, _TEXTS])
def test_two_answers_are_never_joined(answers):
  lines = "\n".join(map(json.dumps, answers))
  assert reply_body.read_object(lines) is None
  assert reply_body.read_object(json.dumps(answers)) is None
  assert reply_body.read_object(_write_events(answers)) is None


def test_an_answer_with_its_usage_behind_it():
  usage = {"choices": [], "usage": {"prompt_tokens": 3}}
  body = reply_body.read_object(_write_events([_ANSWERS[0], usage]))
  assert body == _ANSWERS[0] | {"usage": {"prompt_tokens": 3}}


@pytest.mark.parametrize(
  "form",
  [
    "event: message\ndata: {}\ndata: [DONE]\n",
    "data: {}\ndata:[DONE]",
    "{}\n<!-- served by x -->",
    "{}\n// [x]\n",
    "{}\n: done\n",
  ],
)
def test_answers_without_blank_lines_or_with_comments(form):
  text = json.dumps(_ANSWERS[0])
  found = reply_body.read_object(form.replace("{}", text))
  assert found == _ANSWERS[0]


def test_chunks_without_blank_lines():
  lines = _write_events(CHUNKS).replace("\n\n", "\n")
  expected = reply_body.read_object(_write_events(CHUNKS))
  assert expected is not None and reply_body.read_object(lines) == expected


@given(st.binary() | st.text().map(str.encode))
def test_nothing_raises(content):
  found = reply_body.read_object(reply_body.decode(content))
  assert found is None or isinstance(found, dict)


_JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.text(),
  lambda inner: (
    st.lists(inner)
    | st.dictionaries(
      st.sampled_from(["choices", "delta", "error", "usage", "content", "x"]),
      inner,
    )
  ),
)


@given(st.lists(_JSON))
def test_no_chunks_raise(chunks):
  found = reply_body.read_object(_write_events(chunks))
  assert found is None or isinstance(found, dict)
