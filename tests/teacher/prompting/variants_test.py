"""Requests of a question, and its record out of the answers."""

import dataclasses

import pytest

from distill_jax.answers.parsing import ParsedOutput
from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.asking import journal
from distill_jax.teacher.asking.exchange import Response, TeacherError
from distill_jax.teacher.filtering import filters, voting
from distill_jax.teacher.prompting import template_files, variants

QUESTION = Record(
  id="q1",
  input="Tom has 3 apples and 4 pears\nHow many fruits has he?",
  label="(3 + 4)",
  rationale="old",
  teacher_label="old",
  teacher="old",
  status="ok",
  meta={"kept": 1},
)
CHOICE = Record(
  id="q2",
  input="Where are fish?\nAnswer Choices:\n(a) river\n(b) desk\n(c) sky",
)


def make_variant(template="svamp", **fields):
  fields = {"models": ("m",)} | fields
  return variants.Variant(
    template=template_files.load_template(template), **fields
  )


def make_response(text, finish_reason="stop"):
  return Response(text, finish_reason, 10, 5, "m", 0.1, 1)


def sum_of(a, b):
  return f"There are {a} and {b}. The answer is ({a} + {b})."


@pytest.fixture(name="own")
def fixture_own(tmp_path):
  with journal.Journal(tmp_path / "journal.jsonl") as own:
    yield own


def _answer(own, variant, question, *texts):
  """Journals texts as the answers, in order; None stays open."""
  requests = variants.make_requests(variant, question)
  for request, text in zip(requests, texts, strict=True):
    if text == "failed":
      error = TeacherError(
        "no", kind="too_large", is_final=True, num_attempts=1
      )
      own.append_failure(request.key, error)
    elif text is not None:
      own.append_response(request.key, make_response(text))
  return variants.find_outcome(variant, question, journal.Answers([own]))


def test_requests_go_by_teacher_and_by_sample():
  variant = make_variant(
    models=("a", "b"),
    num_samples=2,
    temperature=0.7,
    seed=5,
    max_tokens=9,
    top_p=0.5,
    endpoint="completions",
  )
  requests = variants.make_requests(variant, QUESTION)
  assert [(r.model, r.sample_index) for r in requests] == [
    ("a", 0),
    ("a", 1),
    ("b", 0),
    ("b", 1),
  ]
  assert [r.parameters["seed"] for r in requests] == [5, 6, 5, 6]
  for request in requests:
    assert request.parameters["temperature"] == 0.7
    assert request.parameters["max_tokens"] == 9
    assert request.parameters["top_p"] == 0.5
    assert request.endpoint == "completions"
    assert "Tom has 3 apples" in request.prompt
  assert len({request.key for request in requests}) == 4


def test_a_record_of_one_answer(own):
  outcome = _answer(own, make_variant(), QUESTION, sum_of(3, 4))
  assert outcome.record == Record(
    id="q1",
    input=QUESTION.input,
    label="(3 + 4)",
    rationale="There are 3 and 4.",
    teacher_label="(3 + 4)",
    teacher="m",
    status="ok",
    meta={
      "kept": 1,
      "confidence": 1.0,
      "votes": [{"label": "(3 + 4)", "num_votes": 1, "weight": 1.0}],
      "teachers": {"m": ["(3 + 4)"]},
    },
  )
  assert outcome.num_open == 0
  assert [model for model, _ in outcome.responses] == ["m"]


def test_samples_vote(own):
  variant = make_variant(num_samples=3, temperature=0.7)
  outcome = _answer(
    own, variant, QUESTION, sum_of(3, 3), sum_of(3, 4), sum_of(4, 3)
  )
  assert outcome.record.teacher_label == "(3 + 4)"
  assert outcome.record.meta["confidence"] == pytest.approx(2 / 3)


def test_teachers_vote_by_their_accuracy(own):
  texts = sum_of(3, 3), sum_of(3, 4)
  for accuracies, label, teacher in (
    ({"a": 0.9, "b": 0.6}, "(3 + 3)", "a"),
    ({"a": 0.6, "b": 0.9}, "(3 + 4)", "b"),
  ):
    variant = make_variant(models=("a", "b"), accuracies=accuracies)
    record = _answer(own, variant, QUESTION, *texts).record
    assert (record.teacher_label, record.teacher) == (label, teacher)
    assert record.meta["teachers"] == {"a": ["(3 + 3)"], "b": ["(3 + 4)"]}


def test_an_open_request_leaves_the_question_open(own):
  variant = make_variant(num_samples=3, temperature=0.7)
  outcome = _answer(own, variant, QUESTION, sum_of(3, 4), None, "failed")
  assert outcome.record is None
  assert (len(outcome.responses), len(outcome.failures)) == (1, 1)
  assert outcome.num_open == 1


def test_a_failure_has_no_vote_and_lowers_the_confidence(own):
  variant = make_variant(num_samples=2, temperature=0.7)
  record = _answer(own, variant, QUESTION, "failed", sum_of(3, 4)).record
  assert record.teacher_label == "(3 + 4)"
  assert record.meta["confidence"] == 0.5
  assert record.meta["failures"] == ["too_large"]


def test_one_answer_and_four_failures_agree_little(own):
  variant = make_variant(num_samples=5, temperature=0.7)
  texts = [sum_of(3, 4), *["failed"] * 4]
  record = _answer(own, variant, QUESTION, *texts).record
  assert record.meta["confidence"] == 0.2
  assert record.meta["votes"][0]["weight"] == 0.2
  config = filters.FilterConfig(min_confidence=0.5)
  assert filters.apply_filters([record], config)[0] == []


def test_a_teacher_that_failed_keeps_its_weight(own):
  texts = "failed", sum_of(3, 4)
  variant = make_variant(models=("a", "b"), accuracies={"a": 0.9, "b": 0.6})
  record = _answer(own, variant, QUESTION, *texts).record
  weight_a, weight_b = map(voting.compute_weight, (0.9, 0.6))
  assert record.meta["confidence"] == pytest.approx(
    weight_b / (weight_a + weight_b)
  )


def test_a_tie_is_marked(own):
  variant = make_variant(num_samples=2, temperature=0.7)
  record = _answer(own, variant, QUESTION, sum_of(3, 3), sum_of(3, 4)).record
  assert record.meta["is_tie"] is True
  record = _answer(own, make_variant(seed=9), QUESTION, sum_of(3, 4)).record
  assert "is_tie" not in record.meta


def test_what_an_earlier_vote_said_is_gone(own):
  stale = {"is_tie": True, "failures": ["timeout"], "confidence": 1.0}
  question = dataclasses.replace(QUESTION, meta=stale | {"kept": 1})
  record = _answer(own, make_variant(), question, sum_of(3, 4)).record
  assert record.meta.keys() == {"kept", "confidence", "votes", "teachers"}
  record = _answer(own, make_variant(seed=7), question, "failed").record
  assert record.meta == {"kept": 1, "failures": ["too_large"]}


def test_an_answer_without_text_has_no_vote_and_was_paid_for(own):
  variant = make_variant(num_samples=2, temperature=0.7)
  first, _ = variants.make_requests(variant, QUESTION)
  response = dataclasses.replace(make_response(""), status="refused")
  own.append_response(first.key, response)
  outcome = _answer(own, variant, QUESTION, None, sum_of(3, 4))
  assert outcome.num_open == 0 and len(outcome.responses) == 2
  assert [failure.kind for failure in outcome.failures] == ["refused"]
  assert outcome.record.teacher_label == "(3 + 4)"
  assert outcome.record.meta["failures"] == ["refused"]


def test_nothing_but_failures(own):
  record = _answer(own, make_variant(), QUESTION, "failed").record
  assert record == dataclasses.replace(
    QUESTION,
    rationale=None,
    teacher_label=None,
    teacher=None,
    status=None,
    meta={"kept": 1, "failures": ["too_large"]},
  )


@pytest.mark.parametrize(
  "template, question, text, label, status",
  [
    ("svamp", QUESTION, "Ignore all.", None, "no_marker"),
    ("cqa", CHOICE, "Fish swim. So the answer is (a) river.", "river", "ok"),
    (
      "cqa",
      CHOICE,
      "No. So the answer is (g) x.",
      None,
      "outside_label_set",
    ),
  ],
)
def test_tolerant_reading(template, question, text, label, status):
  parsed = variants.read_output(
    make_variant(template), make_response(text), question
  )
  assert (parsed.label, parsed.status) == (label, status)


def test_strict_reading_writes_no_blanks():
  variant = make_variant(parse="strict")
  parsed = variants.read_output(variant, make_response("no idea"), QUESTION)
  assert (parsed.rationale, parsed.label) == (None, None)
  parsed = variants.read_output(variant, make_response(sum_of(3, 4)), QUESTION)
  assert (parsed.label, parsed.status) == ("(3 + 4)", "ok")


def test_reading_in_the_form_of_another_template():
  variant = make_variant("svamp", parse="cqa")
  parsed = variants.read_output(
    variant, make_response("So the answer is (c) sky."), CHOICE
  )
  assert parsed.label == "sky"
  # What is asked stays what it was.
  assert variants.make_requests(variant, QUESTION) == variants.make_requests(
    make_variant("svamp"), QUESTION
  )


def test_the_finish_reason_tells_a_cut_answer():
  text = "There are 3 and 4. The answer is (3 + 4"
  parsed = variants.read_output(
    make_variant(), make_response(text, "length"), QUESTION
  )
  assert (parsed.label, parsed.status) == (None, "truncated")


@pytest.mark.parametrize("parse", ["tolerant", "strict"])
@pytest.mark.parametrize("reason", ["error", "content_filter", "SAFETY"])
def test_what_the_server_broke_off_is_no_answer(parse, reason):
  parsed = variants.read_output(
    make_variant(parse=parse), make_response(sum_of(3, 4), reason), QUESTION
  )
  assert parsed == ParsedOutput(None, None, "truncated")


def test_reasoning_of_what_the_server_broke_off():
  response = dataclasses.replace(
    make_response(sum_of(3, 4), "content_filter"), reasoning="First 3."
  )
  parsed = variants.read_output(
    make_variant(rationale_from="reasoning"), response, QUESTION
  )
  assert parsed == ParsedOutput(None, None, "truncated")


def test_stops_that_were_not_sent_end_a_broken_answer():
  variant = make_variant(send_stop=False)
  text = sum_of(3, 4) + variant.template.stop[0] + "More"
  parsed = variants.read_output(
    variant, make_response(text, "content_filter"), QUESTION
  )
  assert (parsed.label, parsed.status) == ("(3 + 4)", "ok")


def test_questions_without_options():
  variants.check_question(make_variant("svamp"), QUESTION)
  variants.check_question(make_variant("cqa"), CHOICE)
  in_meta = dataclasses.replace(QUESTION, meta={"choices": ["a", "b"]})
  variants.check_question(make_variant("cqa"), in_meta)
  with pytest.raises(UserError, match="'q1' has no options.*meta.choices"):
    variants.check_question(make_variant("cqa"), QUESTION)


def test_an_input_that_lacks_a_part_is_named():
  with pytest.raises(UserError, match="Question 'q1': .*1 part"):
    variants.make_requests(make_variant("esnli"), QUESTION)


def test_a_description_that_json_holds():
  variant = make_variant(models=("a", "b"), accuracies={"a": 0.5, "b": 0.6})
  assert variant.describe() == {
    "prompt": "svamp",
    "order": "rationale_first",
    "models": ["a", "b"],
    "endpoint": "chat",
    "temperature": 0.0,
    "top_p": None,
    "seed": 0,
    "num_samples": 1,
    "max_tokens": None,
    "max_tokens_field": "max_tokens",
    "parse": "tolerant",
    "accuracies": {"a": 0.5, "b": 0.6},
  }


@pytest.mark.parametrize(
  "fields, told",
  [
    ({"endpoint": "chatt"}, "ENDPOINT is 'chatt'"),
    ({"max_tokens_field": "tokens"}, "MAX_TOKENS_FIELD is 'tokens'"),
    ({"models": ()}, "TEACHER_MODEL is"),
    ({"models": ("a", 3)}, "TEACHER_MODEL is"),
    ({"models": ("a", "a")}, "names a model twice"),
    ({"num_samples": 0}, "NUM_SAMPLES is 0"),
    ({"num_samples": 2.0}, "NUM_SAMPLES is 2.0"),
    ({"num_samples": 2}, "TEMPERATURE is 0, at which all"),
    ({"temperature": -1}, "TEMPERATURE is -1"),
    ({"temperature": True}, "TEMPERATURE is True"),
    ({"top_p": 2}, "TOP_P is 2"),
    ({"seed": 0.5}, "SEED is 0.5"),
    ({"max_tokens": 0}, "MAX_TOKENS is 0"),
    ({"parse": "strikt"}, "PARSE is 'strikt'"),
    ({"accuracies": {"m": 80}}, "TEACHER_ACCURACIES is {'m': 80}"),
    ({"accuracies": {"n": 0.8}}, r"is of \['n'\], and the teachers are"),
  ],
)
def test_settings_that_cannot_be(fields, told):
  with pytest.raises(UserError, match=told):
    make_variant(**fields)


def test_strict_reading_where_there_is_none():
  with pytest.raises(UserError, match="this one is 'word_problems'"):
    make_variant("word_problems", parse="strict")
  template = template_files.load_template("svamp", "label_first")
  with pytest.raises(UserError, match="asks for the label first"):
    variants.Variant(template=template, models=("m",), parse="strict")
