"""Tests of parsing.py: outputs in the formats that templates give."""

import time

import pytest
from hostile_outputs import OUTPUTS
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.answers import answer_markers, parsing
from distill_jax.data.records import STATUSES
from distill_jax.teacher.prompting import template_files

_CHOICES = ("bank", "library", "country club", "fitness center", "park.")


def _read(text, form, finish_reason=None, **fields):
  output_format = parsing.OutputFormat(
    form,
    answer_markers.compile_marker(fields.pop("marker", "So the answer is")),
    fields.pop("stop", ("\nQ:", "\nA:")),
    **fields,
  )
  parsed = parsing.parse_with_format(
    text, output_format, _CHOICES, finish_reason
  )
  return parsed.rationale, parsed.label, parsed.status


@pytest.mark.parametrize(
  "form, answer, label, status",
  [
    ("choice_letter", "B.", "library", "ok"),
    ("equation", "3 + 4.", "3 + 4", "ok"),
    ("equation", "x.", None, "not_evaluable"),
    ("free_text", "Paris, France.", "Paris, France", "ok"),
    ("free_text", "3.5", "3.5", "ok"),
  ],
)
@pytest.mark.parametrize("order", ["rationale_first", "label_first"])
def test_answers_of_every_form(form, answer, label, status, order):
  text = f"R.\nSo the answer is {answer}"
  if order == "label_first":
    text = f"So the answer is {answer}\nR."
  parsed = _read(text, form, "stop", order=order, answer_end=".")
  assert parsed == ("R.", label, status)


@pytest.mark.parametrize(
  "text, expected",
  [
    # With its marker, and without, as where the prompt ended in it.
    ("The answer is (b) library.\nIt lends.", ("It lends.", "library", "ok")),
    (" (b) library.\nIt lends.", ("It lends.", "library", "ok")),
    (
      "(b) library. It lends. It does.",
      ("It lends. It does.", "library", "ok"),
    ),
    # The first answer counts; what the rationale says later does not.
    (
      "(b) library.\nSo the answer is (a) bank.",
      ("So the answer is (a) bank.", "library", "ok"),
    ),
    ("A: Why: (b)\nWhy: It lends.", ("It lends.", "library", "ok")),
    ("(b) library.\nIt lends.\n\nQ: Who?", ("It lends.", "library", "ok")),
    ("(b) library.", (None, "library", "empty_rationale")),
    ("I wonder.\nIt lends.", (None, None, "no_marker")),
    (
      "The answer is unclear.\nIt lends.",
      ("It lends.", None, "outside_label_set"),
    ),
    ("(b) library.\nIt le", ("It le", "library", "truncated")),
    ("The answer", (None, None, "truncated")),
    ("", (None, None, "no_marker")),
  ],
)
def test_label_first(text, expected):
  parsed = _read(
    text,
    "choice_letter",
    order="label_first",
    rationale_prefixes=("A:", "Why:"),
  )
  assert parsed == expected


def test_the_first_of_several_stops_ends_the_output():
  text = "R. So the answer is 1.\nA: So the answer is 2.\nQ: 3"
  assert _read(text, "equation") == ("R.", "1", "ok")
  assert _read(text, "equation", stop=("\nQ:", "\nA:")) == ("R.", "1", "ok")
  assert _read(text, "equation", stop="\nQ:")[1] == "2"


@pytest.mark.parametrize(
  "text, finish_reason, label, status",
  [
    # Servers leave the stop text out; a label without a full stop is whole.
    ("R. So the answer is Par", "stop", "Par", "ok"),
    ("R. So the answer is Par", "length", None, "truncated"),
    ("R. So the answer is Paris.\n", "length", "Paris.", "ok"),
    # The server went on past the stop text and ran into its budget there.
    ("R. So the answer is Paris.\nQ: Wh", "length", "Paris.", "ok"),
    ("R. So the answer is", "stop", None, "outside_label_set"),
    ("R. So", "length", None, "truncated"),
    ("R. So", "stop", None, "no_marker"),
  ],
)
def test_why_an_output_ended(text, finish_reason, label, status):
  if text.endswith("\n"):
    text += "And then"
  assert _read(text, "free_text", finish_reason)[1:] == (label, status)
  # 18 - 2 may be the beginning of 18 - 26.
  assert _read("So the answer is 18 - 2", "equation", "length")[1] is None
  assert _read("So the answer is 18 - 2", "equation", "stop")[1] == "18 - 2"


@given(text=OUTPUTS, order=st.sampled_from(["rationale_first", "label_first"]))
@pytest.mark.parametrize(
  "form", ["choice_letter", "closed_set", "equation", "free_text"]
)
def test_no_text_raises_with_any_format(form, text, order):
  for finish_reason in (None, "stop", "length", "tool_calls"):
    _, label, status = _read(
      text, form, finish_reason, order=order, labels=("neutral", "yes")
    )
    assert status in STATUSES
    assert label or status not in ("ok", "empty_rationale")
    if finish_reason == "stop" and "<think>" not in text:
      assert status != "truncated"


def test_long_hostile_outputs_end_with_any_format():
  # A quadratic step would need minutes.
  for form in ("choice_letter", "equation", "free_text"):
    for order in ("rationale_first", "label_first"):
      for fragment in ("a ", "= ", "1 ", "(", "**", "final ", ". ", "\n", "\t"):
        for marker in ("So the answer is", "Final answer"):
          text = f"{marker} 1" + fragment * 50_000
          parsed = _read(text, form, order=order, marker=marker)
          assert parsed[2] in STATUSES


def _read_as(template, text, finish_reason="stop", order=None):
  parsed = parsing.parse_with_format(
    text,
    template_files.load_template(template, order).output_format,
    _CHOICES,
    finish_reason,
  )
  return parsed.rationale, parsed.label, parsed.status


@pytest.mark.parametrize("template", ["esnli", "anli1"])
@pytest.mark.parametrize(
  "text",
  [
    "R.\nThe final answer is neutral",
    "R.\nTherefore, the final answer is **neutral**.",
    "R.\n**Answer**: neutral",
    "R.\n\n**Answer:** neutral",
    "R.\n**Answer: neutral**",
    "R.\n__Answer:__ neutral",
    "R.\nAnswer : neutral",
    "R.\n\nFinal Answer: Neutral.",
    "R.\n### Answer\nneutral",
    "R.\n\n## Final Answer\n\n**Neutral**.",
    "R.\n---\n> **Answer:** `neutral`",
    "R.\n- Answer: “neutral”",
    "R.\nAnswer: The answer is neutral.",
    "<think>no</think>\nR.\n<answer>neutral</answer>",
    "R.\n<answer>\nThe answer is neutral.\n</answer>",
    "R.\nAnswer:\n\nneutral",
    "R.\n\n\\boxed{neutral}",
    "R.\nAnswer: \\boxed{\\text{neutral}}",
    "<think>Answer: entailment</think>\nR.\nAnswer: neutral",
    "Answer: entailment</think>\nR.\nAnswer: neutral",
    "R.\nAnswer: neutral\n\nHypothesis: H.\nAnswer: entailment",
    "R.\nAnswer: neutral\n\n**Hypothesis:** H.\n**Answer:** entailment",
    "R.\nSo the answer is neutral.\nHypothesis: H.\nThe answer is entailment",
  ],
)
def test_answers_of_chat_models(template, text):
  assert _read_as(template, text) == ("R.", "neutral", "ok")


@pytest.mark.parametrize(
  "text, rationale, label",
  [
    ("So 5 + 3 = \\boxed{8}.", "So 5 + 3 = 8.", "8"),
    ("R.\n\\[\n\\boxed{5 + 3}\n\\]", "R.", "5 + 3"),
    ("R. The answer is \\[\n\\boxed{8}\n\\]", "R.", "8"),
    ("R.\n\n**Final Answer**\n\n$$\\boxed{8}$$", "R.", "8"),
    ("R. The answer is 8. Hope this helps!", "R.", "8"),
    ("**R.** The answer is **8**.", "**R.**", "8"),
    ("So \\boxed{8} apples are left.", "So 8 apples are left.", "8"),
    ("R. The answer is \\boxed{8} = \\boxed{8}.", "R.", "8"),
    ("R. The answer is \\boxed{5 + 3} or \\boxed{8}.", "R.", "8"),
    (
      "R. The answer is 5. No. The answer is 6.",
      "R. The answer is 5. No.",
      "6",
    ),
  ],
)
def test_numbers_of_chat_models(text, rationale, label):
  assert _read_as("svamp", text) == (rationale, label, "ok")


@pytest.mark.parametrize(
  "text, status",
  [
    # The reasoning broke off, and what it says is no answer.
    ("<think>The answer is 7.", "truncated"),
    ("R.\n<think>The answer is 7.", "truncated"),
    ("R.\n\\boxed{many}", "no_marker"),
    ("R.\n\\boxed{7", "no_marker"),
    ("R.\n\\boxed{7} or \\boxed{8", "no_marker"),
    # What stands beside a box makes another number.
    ("R. So \\boxed{12}3.", "no_marker"),
    ("R. So -\\boxed{5}.", "no_marker"),
    ("R. So \\boxed{5} thousand.", "no_marker"),
    ("R. The answer is \\boxed{12}3", "not_evaluable"),
    ("R. The answer is 1<think>6</think>5", "not_evaluable"),
    # Two boxes.
    ("R. \\boxed{5} or \\boxed{6}", "ambiguous"),
    ("R. The answer is \\boxed{5} or \\boxed{6}", "ambiguous"),
    ("R. The answer is \\boxed{5}\\boxed{6}", "ambiguous"),
    ("R. The answer is:\n\nFive.\n\\boxed{5}\n\\boxed{6}", "ambiguous"),
    # The first step of a list, and not the number one.
    ("R. The answer is:\n1. Add the apples", "not_evaluable"),
  ],
)
def test_what_is_no_answer(text, status):
  assert _read_as("svamp", text)[1:] == (None, status)


@pytest.mark.parametrize("order", ["rationale_first", "label_first"])
@pytest.mark.parametrize("reason", ["error", "content_filter", "SAFETY"])
def test_what_a_server_broke_off_is_never_ok(order, reason):
  text = "The answer is neutral.\nSo the answer is neutral."
  parsed = _read_as("esnli", text, reason, order)
  assert parsed == (None, None, "truncated")


@pytest.mark.parametrize("template", ["esnli", "anli1"])
def test_an_invented_item_does_not_win_over_an_unread_answer(template):
  text = "R.\nAnswer: maybe\n\nHypothesis: H.\nAnswer: entailment"
  assert _read_as(template, text)[1] is None
  # Reasoning that goes on has not ended.
  text = "The answer: hard.\nSo:\nHypothesis: H.\nAnswer: neutral"
  assert _read_as("esnli", text)[1:] == ("neutral", "ok")


@pytest.mark.parametrize("template", ["esnli", "anli1"])
@pytest.mark.parametrize(
  "text",
  [
    "R\nAnswer: neutral\nExample 2\nAnswer: entailment",
    "R\nAnswer: neutral\n---\nR2\nAnswer: entailment",
    "R\nThe answer is neutral.\nR2\nThe answer is entailment.",
    "R\nAnswer: entailment is wrong",
    "R\n\\boxed{neutral} \\boxed{entailment}",
    "R\nAnswer: \\boxed{neutral}\\boxed{entailment}",
  ],
)
def test_two_labels_in_an_item(template, text):
  assert _read_as(template, text)[1:] == (None, "ambiguous")


def test_what_is_denied_is_no_second_label():
  text = "R\nAnswer: entailment is wrong\nAnswer: neutral"
  assert _read_as("esnli", text)[1:] == ("neutral", "ok")


def test_boxes_within_boxes_do_not_raise():
  text = "The answer is " + "\\boxed{\\boxed{1}" * 5000 + "}" * 5000
  assert _read_as("svamp", text)[1] is None


@pytest.mark.parametrize(
  "reason",
  "contentFilter content-filter CONTENT_FILTER failed incomplete".split(),
)
def test_other_words_for_what_is_broken(reason):
  text = "R\nAnswer: neutral"
  assert _read_as("esnli", text, reason) == (None, None, "truncated")


@pytest.mark.parametrize("reason", ["max_output_tokens", "maxTokens"])
def test_other_words_for_the_budget(reason):
  assert _read_as("svamp", "R. The answer is 8", reason)[1] is None


def test_other_words_for_the_end():
  assert _read_as("svamp", "R. The answer is 8", "end_turn")[1] == "8"
  assert _read_as("svamp", "R. The answer is 8", "MAX_TOKENS")[1] is None


@pytest.mark.parametrize(
  "text, label, status",
  [
    # Reasoning may repeat the question, and say the marker's words.
    ("Q: q\nThe answer is not easy.\nQ: q\nSo the answer is 3.", None, None),
    ("Let me see.\nThe answer is hard.\nThe answer is 3.", "3", "ok"),
    # Two finished answers that differ, of which neither is certain.
    ("Answer: 3\n\nExample 2\nAnswer: 4", None, "ambiguous"),
    ("Answer: 3\n\nNext.\nSo the answer is 4.", None, "ambiguous"),
    ("R.\nAnswer: 3\n\nSo the answer is (1 + 2).", "(1 + 2)", "ok"),
    ("R.\nAnswer: 3\nExample 2\nAnswer: 4", None, "ambiguous"),
    ("R.\nAnswer: 3\n---\nR2\nAnswer: 4", None, "ambiguous"),
    ("R.\nThe answer is 3.\nNext.\nThe answer is 4.", None, "ambiguous"),
    ("R.\nAnswer: 3\nThat is 1 + 2.\nAnswer: 1 + 2", "1 + 2", "ok"),
  ],
)
def test_several_answers(text, label, status):
  _, found, found_status = _read_as("svamp", text)
  if status is None:
    assert found_status != "ok"  # The server would have stopped there.
  else:
    assert (found, found_status) == (label, status)


@pytest.mark.parametrize(
  "text",
  [
    "Answer: neutral\nReasonings: R.\n\nHypothesis: H.\nAnswer: entailment",
    "**Answer:** neutral\n**Reasonings:** R.",
    "### Answer\nneutral\n\nR.",
    "The final answer is neutral.\nR.",
    "<think>entailment</think>neutral\nR.",
    "\\boxed{neutral}\nR.",
  ],
)
def test_label_first_of_chat_models(text):
  parsed = _read_as("esnli", text, order="label_first")
  assert parsed == ("R.", "neutral", "ok")


def test_long_answers_of_chat_models_take_no_time():
  start = time.process_time()
  for piece in (
    "<think>",
    "\\boxed{",
    "\nAnswer: neutral\n\n",
    "\nHypothesis: h\nAnswer: ",
    "\n### Answer\n",
    "the final answer is ",
    "- ",
    "1,",
  ):
    for template in ("esnli", "svamp"):
      for order in ("rationale_first", "label_first"):
        _read_as(template, "R." + piece * 20_000, order=order)
  # A quadratic step needs some seconds a text.
  assert time.process_time() - start < 8
