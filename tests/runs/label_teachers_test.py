"""Addresses, providers and files of questions, from end to end."""

import gzip
import json
import logging

import billing_teacher
import fault_server
import pytest

from distill_jax.data import records
from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.runs import label
from distill_jax.teacher.asking import exchange
from distill_jax.teacher.prompting import template_files, variants

# How keys of the default settings begin, since the first version.
_KEYS = {
  ("svamp", "chat"): "37fc248a0531ce0b",
  ("svamp", "completions"): "4c257ee0f89a829e",
  ("anli1", "chat"): "66c3f5f49bf85368",
  ("anli1", "completions"): "8f479c6cfad1f74d",
  ("esnli", "chat"): "aaa5d178c9006b8d",
  ("esnli", "completions"): "5f163a76bc4cf7d9",
  ("cqa", "chat"): "116e8b5285f7ac70",
  ("cqa", "completions"): "ba8e63aa1422b82a",
  ("asdiv", "chat"): "ee9b64f6b7646b65",
  ("asdiv", "completions"): "6c19029f93b55ffb",
  ("word_problems", "chat"): "cdcb220a8390d9de",
  ("word_problems", "completions"): "db7b4a91aecdbf31",
}
_INPUTS = {
  "anli1": "A man sits.</s>He sits.",
  "esnli": "A man sits.</s>He sits.",
  "cqa": "Where?\nAnswer Choices:\n(a) x\n(b) y",
}


def _make_variant(prompt="svamp", **fields):
  template = template_files.load_template(prompt)
  return variants.Variant(template, **({"models": ("m",)} | fields))


# --- Keys -------------------------------------------------------------------


@pytest.mark.parametrize("prompt, endpoint", _KEYS)
def test_what_was_asked_by_older_versions_is_not_asked_again(prompt, endpoint):
  variant = _make_variant(
    prompt, endpoint=endpoint, addresses={"m": "https://host/v1"}
  )
  text = _INPUTS.get(prompt, "Ann has 1 and 2\nHow many?")
  (request,) = variants.make_requests(variant, Record("a", text))
  assert request.key.startswith(_KEYS[prompt, endpoint])


def test_settings_that_were_there_keep_their_keys():
  variant = _make_variant(
    temperature=0.5,
    top_p=0.9,
    seed=None,
    num_samples=2,
    max_tokens=9,
    max_tokens_field="max_completion_tokens",
  )
  question = Record("a", "Ann has 1 and 2\nHow many?")
  requests = variants.make_requests(variant, question)
  assert [request.key[:16] for request in requests] == [
    "06a1c05bf9744475",
    "857c16b9e2eb4eeb",
  ]


def test_each_new_setting_is_another_request():
  question = Record("a", "Ann has 1 and 2\nHow many?")
  keys = [
    variants.make_requests(_make_variant(**fields), question)[0].key
    for fields in (
      {},
      {"temperature": None},
      {"send_stop": False},
      {"extra_parameters": {"reasoning_effort": "low"}},
      {"extra_parameters": {"reasoning_effort": "high"}},
    )
  ]
  assert len(set(keys)) == 5
  # These read answers, and ask nothing else.
  same = _make_variant(rationale_from="reasoning", addresses={"m": "http://a"})
  assert variants.make_requests(same, question)[0].key == keys[0]


# --- Providers --------------------------------------------------------------


def _refuse(received, names):
  for name in names:
    if name in received.json:
      return fault_server.status(400, f"Unsupported parameter: {name!r}")
  return None


def _reason(received):
  """As a reasoning model of OpenAI's; runs on where nothing stops it."""
  refused = _refuse(received, ("temperature", "stop", "max_tokens"))
  if refused is not None:
    return refused
  first = billing_teacher.get_number(received)
  right = f"The answer is ({first} + {first + 1})."
  return fault_server.answer(
    f"{right}\nQ: 1 and 1?\nThe answer is (1 + 1).",
    reasoning_content=f"There are {first}.",
  )(received)


@pytest.mark.parametrize("source", ["answer", "reasoning"])
def test_a_reasoning_model(tmp_path, source):
  billing_teacher.write_sums(tmp_path, range(3))
  with fault_server.FaultServer(answer=_reason) as server:
    settings = billing_teacher.make_settings(
      server,
      tmp_path,
      temperature=None,
      send_stop=False,
      max_tokens=2000,
      max_tokens_field="max_completion_tokens",
      extra_parameters={"reasoning_effort": "low"},
      rationale_from=source,
    )
    assert label.run(settings) == 0
    assert server.received[0].json["reasoning_effort"] == "low"
    assert server.received[0].json["max_completion_tokens"] == 2000
  written = list(records.read_records(tmp_path / "out" / "records.jsonl"))
  assert [r.teacher_label for r in written] == ["(0 + 1)", "(1 + 2)", "(2 + 3)"]
  found = [(record.rationale, record.status) for record in written]
  if source == "reasoning":
    assert found == [(f"There are {i}.", "ok") for i in range(3)]
  else:
    assert found == [(None, "empty_rationale")] * 3


def test_reasoning_inside_the_answer():
  variant = _make_variant(rationale_from="reasoning")
  text = "<think>\nFirst 1.\n</think>The answer is (1 + 2)."
  response = exchange.Response(text, "stop", 1, 1, "m", 0.1, 1)
  parsed = variants.read_output(
    variant, response, Record("a", "Ann has 1 and 2\nHow many?")
  )
  assert (parsed.rationale, parsed.label) == ("First 1.", "(1 + 2)")


def test_azure(tmp_path, monkeypatch):
  key = "azure-secret-0123456789"
  monkeypatch.setenv("AZURE_KEY", key)
  bill = billing_teacher.Bill()

  def reply(received):
    if received.headers.get("api-key") != key:
      return fault_server.status(401)
    if "authorization" in received.headers:
      return fault_server.status(401, "a token of another kind")
    if received.path != (
      "/v1/openai/deployments/d/chat/completions?api-version=2024-10-21"
    ):
      return fault_server.status(404)
    # The key must get nowhere, even where the server repeats it.
    if billing_teacher.get_number(received) == 1:
      return fault_server.status(400, f"bad {key}")
    if billing_teacher.get_number(received) == 2:
      escaped = "".join(f"\\u{ord(letter):04x}" for letter in key)
      return fault_server.answer(f"{escaped} The answer is 3.")(received)
    return bill.answer(received)

  billing_teacher.write_sums(tmp_path, range(3))
  with fault_server.FaultServer(answer=reply) as server:
    settings = billing_teacher.make_settings(
      server,
      tmp_path,
      client={
        "base_url": f"{server.base_url}/openai/deployments/d",
        "api_key_variable": None,
        "extra_headers": {"api-key": "$AZURE_KEY"},
        "extra_query": {"api-version": "2024-10-21"},
      },
    )
    assert label.run(settings) == 0
  for path in (tmp_path / "out").iterdir():
    assert "secret" not in path.read_text()
    assert f"u{ord('s'):04x}" not in path.read_text()
  row = billing_teacher.read_paid(tmp_path)["settings"][0]
  assert row["address"] == f"{server.base_url}/openai/deployments/d"


def test_two_providers_vote(tmp_path, monkeypatch):
  monkeypatch.setenv("OTHER_KEY", "other-secret-0123456789")
  billing_teacher.write_sums(tmp_path, range(3))
  bill = billing_teacher.Bill()
  with (
    fault_server.FaultServer(answer=bill.answer) as one,
    fault_server.FaultServer(answer=_reason) as two,
  ):
    settings = billing_teacher.make_settings(
      one,
      tmp_path,
      teacher_model=[
        "a",
        {
          "model": "b",
          "base_url": two.base_url,
          "api_key_variable": "OTHER_KEY",
          "temperature": None,
          "send_stop": False,
          "max_tokens_field": "max_completion_tokens",
        },
      ],
    )
    assert label.run(settings) == 0
    assert {r.json["model"] for r in one.received} == {"a"}
    assert {r.json["model"] for r in two.received} == {"b"}
    keys = {r.headers["authorization"] for r in two.received}
    assert keys == {"Bearer other-secret-0123456789"}
    assert all("temperature" in r.json for r in one.received)
  written = list(records.read_records(tmp_path / "out" / "records.jsonl"))
  assert written[2].meta["teachers"] == {"a": ["(2 + 3)"], "b": ["(2 + 3)"]}
  rows = billing_teacher.read_paid(tmp_path)["settings"]
  assert {(row["model"], row["address"]) for row in rows} == {
    ("a", one.base_url),
    ("b", two.base_url),
  }


def test_batches_go_to_one_address(tmp_path):
  billing_teacher.write_sums(tmp_path, range(3))
  other = {"model": "b", "base_url": "http://b/v1", "api_key_variable": None}
  settings = billing_teacher.make_settings(
    "http://127.0.0.1:9/v1",
    tmp_path,
    teacher_model=["a", other],
    transport="batch",
  )
  with pytest.raises(UserError, match="teachers at several addresses"):
    label.run(settings)


# --- Answers of another server ----------------------------------------------


def test_answers_of_another_address_are_not_taken_in_silence(tmp_path, caplog):
  billing_teacher.write_sums(tmp_path, range(3))
  bill = billing_teacher.Bill()
  with fault_server.FaultServer(answer=bill.answer) as server:
    label.run(
      billing_teacher.make_settings(server, tmp_path), "TEMPERATURE = 0\n"
    )
    old = server.base_url
  billing_teacher.write_sums(tmp_path, range(5))
  with fault_server.FaultServer(answer=bill.answer) as server:
    settings = billing_teacher.make_settings(server, tmp_path)
    with pytest.raises(UserError, match=f"3 came from {old}, and the settings"):
      label.run(settings, "NEW = 1\n")
    assert server.received == []
    accepting = billing_teacher.make_settings(
      server, tmp_path, accept_addresses=[f"{old}/"]
    )
    with caplog.at_level(logging.WARNING):
      assert label.run(accepting, "NEW = 1\n") == 0
    assert len(server.received) == 2
    assert f"3 came from {old}" in caplog.text
    new = server.base_url
  # The first settings do not claim what came later, nor the other way round.
  out = tmp_path / "out"
  assert (out / "config.gin").read_text() == "TEMPERATURE = 0\n"
  assert (out / "config-2.gin").read_text() == "NEW = 1\n"
  summary = json.loads((out / "summary.json").read_text())
  assert summary["config"] == "config-2.gin"
  found = {
    row["address"]: row["num_responses"] for row in summary["paid"]["settings"]
  }
  assert found == {old: 3, new: 2}


def test_an_answer_without_text_of_another_address(tmp_path):
  billing_teacher.write_sums(tmp_path, range(1))
  refused = fault_server.answer(None, refusal="no")
  with fault_server.FaultServer(answer=refused) as server:
    label.run(billing_teacher.make_settings(server, tmp_path))
    old = server.base_url
  settings = billing_teacher.make_settings("http://127.0.0.1:9/v1", tmp_path)
  with pytest.raises(UserError, match=f"1 came from {old}, and the settings"):
    label.run(settings)


def test_a_journal_of_an_older_version_is_taken_with_a_warning(
  tmp_path, caplog
):
  billing_teacher.write_sums(tmp_path, range(3))
  bill = billing_teacher.Bill()
  with fault_server.FaultServer(answer=bill.answer) as server:
    label.run(billing_teacher.make_settings(server, tmp_path))
  path = tmp_path / "out" / "journal.jsonl"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  for line in lines:
    line.pop("address")
    line.pop("prompt_name", None)
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  settings = billing_teacher.make_settings("http://127.0.0.1:9/v1", tmp_path)
  with caplog.at_level(logging.WARNING):
    assert label.run(settings) == 0
  assert "3 answers are of a journal that does not say which" in caplog.text


# --- Files of questions -----------------------------------------------------


def test_a_copy_of_the_questions_is_the_same_run(tmp_path):
  billing_teacher.write_sums(tmp_path, range(3))
  bill = billing_teacher.Bill()
  with fault_server.FaultServer(answer=bill.answer) as server:
    assert label.run(billing_teacher.make_settings(server, tmp_path)) == 0
    path = tmp_path / "questions.jsonl"
    packed = tmp_path / "renamed.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    settings = billing_teacher.make_settings(
      server, tmp_path, input_path=str(packed)
    )
    assert label.run(settings) == 0
    assert len(server.received) == 3
    billing_teacher.write_sums(tmp_path, range(4), "other.jsonl")
    other = billing_teacher.make_settings(
      server, tmp_path, input_path=str(tmp_path / "other.jsonl")
    )
    with pytest.raises(UserError, match=r"other settings \(input_path\)"):
      label.run(other)


def test_a_folder_of_an_older_version_is_known_by_its_path(tmp_path):
  billing_teacher.write_sums(tmp_path, range(3))
  bill = billing_teacher.Bill()
  with fault_server.FaultServer(answer=bill.answer) as server:
    settings = billing_teacher.make_settings(server, tmp_path)
    assert label.run(settings) == 0
    path = tmp_path / "out" / "summary.json"
    summary = json.loads(path.read_text())
    del summary["settings"]["input_sha256"]
    path.write_text(json.dumps(summary))
    assert label.run(settings) == 0
    assert len(server.received) == 3


def test_numbers_and_columns_of_a_table(tmp_path):
  path = tmp_path / "questions.csv"
  path.write_text('id,input,topic\n7,"Ann has 4 and 5\nHow many?",fruit\n')
  bill = billing_teacher.Bill()
  with fault_server.FaultServer(answer=bill.answer) as server:
    settings = billing_teacher.make_settings(
      server, tmp_path, input_path=str(path)
    )
    assert label.run(settings) == 0
  (record,) = records.read_records(tmp_path / "out" / "records.jsonl")
  assert (record.id, record.teacher_label) == ("7", "(4 + 5)")
  assert record.meta["topic"] == "fruit"


def test_an_empty_question_is_found_before_any_is_paid(tmp_path):
  path = tmp_path / "questions.jsonl"
  path.write_text(
    '{"id": 1, "input": "Ann has 1 and 2"}\n{"id": 2, "input": " "}'
  )
  with fault_server.FaultServer(answer=billing_teacher.Bill().answer) as server:
    settings = billing_teacher.make_settings(server, tmp_path)
    with pytest.raises(UserError, match="empty input: .*questions.jsonl:2"):
      label.run(settings)
    assert server.received == []
