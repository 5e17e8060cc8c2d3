"""Exit codes and what is said with them."""

import pytest

from distill_jax.teacher.asking import conclusion, labelling, session


def make_session(signal_number=None, **fields):
  return session.Session(labelling.Progress(**fields), 1.0, signal_number)


def test_all_is_done(capsys):
  assert conclusion.conclude(100, 0, make_session()) == 0
  assert conclusion.conclude(100, 0, None) == 0
  assert capsys.readouterr().err == ""
  assert conclusion.conclude(100, 0, None, is_any_answered=False) == 1
  assert "RETRY_FAILURES" in capsys.readouterr().err


@pytest.mark.parametrize(
  "sent, code, told",
  [
    (None, 1, "3 questions are without an outcome. Give the same"),
    (make_session(15), 143, "3 questions are without"),
    (make_session(is_in_trouble=True), 1, "after 100 failures in a row"),
    (
      make_session(is_budget_spent=True),
      1,
      "another request might exceed MAX_COST (3). To go on, raise it",
    ),
    (make_session(last_failure="HTTP 500"), 1, "the last failure was HTTP 500"),
  ],
)
def test_what_is_left(sent, code, told, capsys):
  assert conclusion.conclude(100, 3, sent, budget="MAX_COST (3)") == code
  assert told in capsys.readouterr().err


def test_answers_or_no_questions():
  for num_questions, num_without, has in (
    (0, 0, True),
    (2, 1, True),
    (2, 2, False),
  ):
    summary = {
      "num_questions": num_questions,
      "num_without_answer": num_without,
    }
    assert conclusion.has_answers(summary) == has
