"""The journal's lines, its index, its damage, and who may write it."""

import contextlib
import dataclasses
import json

import pytest

from distill_jax.errors import UserError
from distill_jax.teacher.asking import journal
from distill_jax.teacher.asking.exchange import Request, Response, TeacherError
from distill_jax.teacher.reading import redaction


def make_request(text, sample_index=0):
  prompt = [{"role": "user", "content": text}]
  return Request("m", "chat", prompt, {"temperature": 0.5}, sample_index)


def keyed(text):
  request = make_request(text)
  return request.key, request


def make_response(text):
  return Response(text, "stop", 11, 7, "m-1", 0.25, 2)


def make_error(is_final, kind="server_error"):
  return TeacherError("HTTP 500", kind=kind, is_final=is_final, num_attempts=3)


def _read_lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(name="path")
def fixture_path(tmp_path):
  return tmp_path / "folder" / "journal.jsonl"


def test_a_line_a_request_and_a_line_an_answer(path):
  request = make_request("2 + 2?\n\x1b \ud800 é")
  with journal.Journal(path) as writer:
    writer.append_request(request.key, request, "q1")
    writer.append_response(request.key, make_response("4"))
  asked, answered = _read_lines(path)
  assert asked.pop("time") <= answered.pop("time")
  assert asked == {
    "event": "request",
    "key": request.key,
    "model": "m",
    "endpoint": "chat",
    "prompt": request.prompt,
    "parameters": {"temperature": 0.5},
    "sample_index": 0,
    "question": "q1",
    "attempt": 1,
  }
  assert answered == {
    "event": "response",
    "key": request.key,
    "text": "4",
    "finish_reason": "stop",
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "model": "m-1",
    "latency_seconds": 0.25,
    "num_attempts": 2,
    "status": "answered",
  }


def test_answers_are_found_at_once_and_later(path):
  requests = [make_request(f"{i}?") for i in range(5)]
  with journal.Journal(path) as writer:
    for i, request in enumerate(requests[:3]):
      writer.append_request(request.key, request, "q")
      writer.append_response(request.key, make_response(f"text {i}"))
    assert writer.read_response(requests[1].key).text == "text 1"
  with journal.JournalReader(path) as reader:
    for i, request in enumerate(requests[:3]):
      assert reader.has_response(request.key)
      assert reader.read_response(request.key) == make_response(f"text {i}")
    assert not reader.has_response(requests[3].key)
    assert reader.read_response(requests[3].key) is None


def test_failures(path):
  final, passing, asked = (make_request(f"{i}?") for i in range(3))
  with journal.Journal(path) as writer:
    writer.append_request(final.key, final, "q")
    writer.append_failure(final.key, make_error(True, "too_large"))
    writer.append_request(passing.key, passing, "q")
    writer.append_failure(passing.key, make_error(False))
    writer.append_request(asked.key, asked, "q")
  with journal.JournalReader(path) as reader:
    assert reader.has_final_failure(final.key)
    assert not reader.has_final_failure(passing.key)
    expected = journal.Failure("too_large", "HTTP 500", True, 3)
    assert reader.read_failure(final.key) == expected
    assert reader.read_failure(passing.key).is_final is False
    assert reader.read_failure(asked.key) is None
    assert [reader.get_num_asked(r.key) for r in (passing, asked)] == [1, 1]


def test_an_answer_outdoes_a_failure_and_the_first_counts(path):
  request = make_request("?")
  with journal.Journal(path) as writer:
    writer.append_failure(request.key, make_error(True))
    writer.append_response(request.key, make_response("first"))
    writer.append_response(request.key, make_response("second"))
    writer.append_failure(request.key, make_error(True))
  with journal.JournalReader(path) as reader:
    assert not reader.has_final_failure(request.key)
    assert reader.read_failure(request.key) is None
    assert reader.read_response(request.key).text == "first"


def _textless(status):
  return dataclasses.replace(make_response(""), status=status, raw="{}")


def test_an_answer_without_text_is_a_failure_that_was_paid_for(path):
  key, request = keyed("?")
  with journal.Journal(path) as writer:
    writer.append_request(key, request, "q")
    writer.append_response(key, _textless("refused"))
  with journal.Journal(path) as reader:
    assert not reader.has_response(key) and reader.has_final_failure(key)
    assert reader.read_response(key) == _textless("refused")
    assert list(reader.list_keys()) == [key]
    assert not reader.has_any_response()
    # Asked again, a text outdoes it.
    reader.append_response(key, make_response("4"))
    assert reader.has_response(key) and not reader.has_final_failure(key)
    assert reader.read_response(key).text == "4"
    assert list(reader.list_keys()) == [key]


def test_one_that_cannot_be_read_is_final_the_second_time(path):
  key, _ = keyed("?")
  with journal.Journal(path) as writer:
    writer.append_response(key, _textless("unreadable"))
    assert not writer.has_final_failure(key)
    assert writer.read_response(key) is None and not list(writer.list_keys())
  with journal.Journal(path) as writer:
    writer.append_response(key, _textless("unreadable"))
    assert writer.has_final_failure(key)
    assert writer.read_response(key).status == "unreadable"
    assert list(writer.list_keys()) == [key]


def test_a_text_in_any_journal_outdoes_what_has_none(path, tmp_path):
  key, _ = keyed("?")
  other_path = tmp_path / "other.jsonl"
  with journal.Journal(path) as own, journal.Journal(other_path) as other:
    own.append_response(key, _textless("empty"))
    answers = journal.Answers([own, other])
    assert answers.read_response(key).status == "empty"
    other.append_response(key, make_response("4"))
    assert answers.read_response(key).text == "4"
    assert answers.has_response(key) and not answers.has_final_failure(key)
    assert answers.has_any_response()


def test_lines_of_earlier_versions_are_answers(path):
  key, _ = keyed("?")
  with journal.Journal(path) as writer:
    writer.append_response(key, make_response("4"))
  (line,) = _read_lines(path)
  del line["status"]
  path.write_text(json.dumps(line) + "\n")
  with journal.JournalReader(path) as reader:
    assert reader.read_response(key) == make_response("4")


def test_a_line_is_without_secrets(path):
  redaction.add_secret("sk-journal-0123456789")
  spelled = "sk\\u002Djournal-0123456789"
  key, request = keyed(f"{spelled} or sk-journal-0123456789?")
  with journal.Journal(path) as writer:
    writer.append_request(key, request, spelled)
    response = dataclasses.replace(make_response(spelled), raw=spelled)
    writer.append_response(key, response)
    error = TeacherError(spelled, kind="x", is_final=True, num_attempts=1)
    writer.append_failure(key, error)
    assert writer.read_response(key).text == "[key]"
  assert "journal-0123" not in path.read_text()
  assert path.read_text().count("[key]") == 6


def test_keys_are_those_with_an_outcome(path):
  keys = []
  with journal.Journal(path) as writer:
    for error in (None, make_error(True), make_error(False), "none yet"):
      key, request = keyed(f"{len(keys)}?")
      keys.append(key)
      writer.append_request(key, request, "q")
      if error is None:
        writer.append_response(key, make_response("4"))
      elif isinstance(error, TeacherError):
        writer.append_failure(key, error)
    assert sorted(writer.list_keys()) == sorted(keys[:2])
    writer.append_response(keys[1], make_response("5"))
  with journal.JournalReader(path) as reader:
    assert sorted(reader.list_keys()) == sorted(keys[:2])


def test_attempts_are_counted_over_runs(path):
  request = make_request("?")
  for _ in range(3):
    with journal.Journal(path) as writer:
      writer.append_request(request.key, request, "q")
  assert [line["attempt"] for line in _read_lines(path)] == [1, 2, 3]


def test_cut_off_anywhere_the_last_line_is_repaired(path, caplog):
  first, last = make_request("1?"), make_request("2?")
  with journal.Journal(path) as writer:
    writer.append_response(first.key, make_response("one"))
    size = path.stat().st_size
    writer.append_response(last.key, make_response("two"))
  content = path.read_bytes()
  ends = [*range(size, len(content) - 1, 17), len(content) - 1]
  for end in ends:
    path.write_bytes(content[:end])
    with journal.JournalReader(path) as reader:  # As a dry run reads it.
      assert reader.has_response(first.key)
      assert not reader.has_response(last.key)
    assert path.read_bytes() == content[:end]
    with journal.Journal(path) as writer:
      assert writer.read_response(first.key).text == "one"
      is_whole = end == len(content) - 1  # It lacks the line break alone.
      assert writer.has_response(last.key) == is_whole
      if not is_whole:
        writer.append_response(last.key, make_response("two"))
      assert writer.read_response(last.key).text == "two"
    assert len(_read_lines(path)) == 2
  torn = path.with_name("journal.jsonl.torn").read_bytes().splitlines()
  assert torn == [content[size:end] for end in ends[1:-1]]


@pytest.mark.parametrize("damaged", ["{", "", "\0\0\0"])
def test_damage_before_the_end_is_named_and_not_passed_over(path, damaged):
  request = make_request("?")
  with journal.Journal(path) as writer:
    writer.append_response(request.key, make_response("one"))
  content = path.read_text() + damaged + "\n" + path.read_text()
  path.write_text(content)
  for opened in (journal.Journal, journal.JournalReader):
    with pytest.raises(UserError, match=f"{path}:2: the line is damaged"):
      opened(path)
  assert path.read_text() == content


def test_two_writers_are_refused_and_readers_are_not(path):
  request = make_request("?")
  with journal.Journal(path) as writer:
    writer.append_response(request.key, make_response("one"))
    with pytest.raises(UserError, match="is in use by process"):
      journal.Journal(path)
    with journal.JournalReader(path) as reader:
      assert reader.has_response(request.key)
  journal.Journal(path).close()


def test_a_damaged_journal_gives_its_lock_up(path):
  path.parent.mkdir()
  path.write_text("{\n{}\n")
  for _ in range(2):
    with pytest.raises(UserError, match="damaged"):
      journal.Journal(path)


def test_what_is_not_synced_is_counted(path):
  with journal.Journal(path) as writer:
    assert writer.num_unsynced == 0
    writer.append_request(*keyed("?"), "q")
    writer.append_request(*keyed("!"), "q")
    assert writer.num_unsynced == 2
    writer.sync()
    assert writer.num_unsynced == 0


def test_no_room(path, monkeypatch):
  def refuse(descriptor, content):
    raise OSError(28, "No space left on device")

  with journal.Journal(path) as writer:
    monkeypatch.setattr(journal.append_file, "write_all", refuse)
    with pytest.raises(UserError, match="No space left on device.*is safe"):
      writer.append_request(*keyed("?"), "q")


def test_a_folder_in_its_place(path):
  path.mkdir(parents=True)
  with pytest.raises(UserError, match="cannot be opened: Is a directory"):
    journal.Journal(path)
  with pytest.raises(UserError, match="cannot be read: Is a directory"):
    journal.JournalReader(path)


def test_several_journals_answer_as_one(tmp_path):
  only_first, only_second, failed, mended = (
    make_request(f"{i}?") for i in range(4)
  )
  paths = [tmp_path / name / "journal.jsonl" for name in "ab"]
  with journal.Journal(paths[0]) as writer:
    writer.append_response(only_first.key, make_response("first"))
    writer.append_failure(failed.key, make_error(False))
    writer.append_failure(mended.key, make_error(True))
  with journal.Journal(paths[1]) as writer:
    writer.append_response(only_second.key, make_response("second"))
    writer.append_failure(failed.key, make_error(True))
    writer.append_response(mended.key, make_response("mended"))
  with contextlib.ExitStack() as stack:
    answers = journal.Answers(
      [stack.enter_context(journal.JournalReader(path)) for path in paths]
    )
    assert answers.read_response(only_first.key).text == "first"
    assert answers.read_response(only_second.key).text == "second"
    assert answers.read_response(mended.key).text == "mended"
    assert answers.read_response(failed.key) is None
    assert answers.has_final_failure(failed.key)
    assert not answers.has_final_failure(mended.key)
    assert answers.read_failure(failed.key).is_final
