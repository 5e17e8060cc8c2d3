"""Tests of teacher/filtering/voting.py.

Samples of one teacher, several teachers.
"""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.answers import arithmetic
from distill_jax.answers.parsing import ParsedOutput
from distill_jax.data.records import Record
from distill_jax.teacher.filtering import voting


def _answers(*labels, teacher="t"):
  """Makes answers; a label may come with a status, None is no label."""
  answers = []
  for index, label in enumerate(labels):
    label, status = label if isinstance(label, tuple) else (label, "ok")
    if label is None and status == "ok":
      status = "no_marker"
    rationale = None if status == "empty_rationale" else f"{teacher}{index}"
    parsed = ParsedOutput(rationale, label, status)
    answers.append(voting.Answer(parsed, teacher))
  return answers


def _vote(answers, form="closed_set", accuracies=None):
  vote = voting.take_vote(answers, form, accuracies)
  return vote.winner.parsed.label, vote.winner.parsed.rationale, vote.confidence


def test_the_majority_wins_and_the_first_of_it_argues():
  assert _vote(_answers("no", "yes", "yes", "no", "yes")) == ("yes", "t1", 0.6)
  assert _vote(_answers("no")) == ("no", "t0", 1.0)


def test_of_a_tie_the_label_voted_for_first_wins():
  assert _vote(_answers("b", "a", "a", "b")) == ("b", "t0", 0.5)
  assert _vote(_answers("a", "b", "b", "a")) == ("a", "t0", 0.5)
  # Each label has half of every teacher, summed in another order, which floats
  # may tell apart.
  (xa, xb), (ya, yb), (za, zb) = (
    _answers("a", "b", teacher=name) for name in "xyz"
  )
  rng = random.Random(0)
  for _ in range(50):
    accuracies = {name: rng.uniform(0.5, 0.9) for name in "xyz"}
    label, *_ = _vote([xa, zb, ya, yb, za, xb], accuracies=accuracies)
    assert label == "a"


def test_what_could_not_be_read_has_no_vote_but_counts():
  answers = _answers(None, ("yes", "ambiguous"), ("yes", "ambiguous"), "no")
  assert _vote(answers) == ("no", "t3", 0.25)
  vote = voting.take_vote(answers, "closed_set")
  assert vote.votes == ({"label": "no", "num_votes": 1, "weight": 0.25},)
  assert vote.labels_by_teacher == {"t": [None, "yes", "yes", "no"]}


def test_a_whole_rationale_is_preferred_and_a_label_without_one_votes():
  answers = _answers(("a", "empty_rationale"), ("a", "truncated"), "a", "b")
  assert _vote(answers) == ("a", "t2", 0.75)
  answers = _answers(("a", "empty_rationale"), ("a", "truncated"), "b")
  assert _vote(answers) == ("a", None, pytest.approx(2 / 3))


def test_where_nothing_could_be_read():
  answers = _answers(None, ("x", "ambiguous"), (None, "truncated"), None)
  vote = voting.take_vote(answers, "closed_set")
  assert (vote.winner, vote.confidence, vote.votes) == (answers[0], 0.0, ())
  (answer,) = _answers(("x", "ambiguous"))
  vote = voting.take_vote([answer], "closed_set")
  assert (vote.winner, vote.confidence) == (answer, 0.0)


@pytest.mark.parametrize(
  "form, labels, winner, confidence",
  [
    ("equation", ("3", "(84 / 2)", "42", "( 6.0 * 7.0 )"), "(84 / 2)", 0.75),
    # What does not evaluate equals nothing, itself included.
    ("equation", ("x", "x", "x", "1"), "1", 0.25),
    ("free_text", ("B", "New  York", "new york.", "B x"), "New  York", 0.5),
    ("free_text", ("Paris", "Rome", '"Paris."', "Rome x"), "Paris", 0.5),
    # Exact fractions: as floats 1.1 * 3 is not 3.3, and 4 would win.
    ("equation", ("1.1 * 3", "3.3", "4", "4"), "1.1 * 3", 0.5),
    ("equation", ("4", "8.8 - 5.2", "3.6"), "8.8 - 5.2", 2 / 3),
    ("equation", ("0.1 + 0.2", "0.3", "4"), "0.1 + 0.2", 2 / 3),
    # Options may differ in case only.
    ("choice_letter", ("US", "us", "us", "Us"), "us", 0.5),
    ("closed_set", ("42", "84 / 2", "42", "6"), "42", 0.5),
  ],
)
def test_when_answers_are_the_same(form, labels, winner, confidence):
  label, _, share = _vote(_answers(*labels), form)
  assert (label, share) == (winner, pytest.approx(confidence))


def test_answers_that_never_came_count():
  vote = voting.take_vote(_answers("yes"), "closed_set", None, ["t"] * 4)
  assert (vote.confidence, vote.is_tie) == (0.2, False)
  assert vote.votes == ({"label": "yes", "num_votes": 1, "weight": 0.2},)
  # The weight of a teacher is divided among what was asked of it.
  answers = _answers("yes", teacher="x") + _answers("no", "no", teacher="y")
  vote = voting.take_vote(
    answers, "closed_set", {"x": 0.8, "y": 0.8}, ["x", "x", "x", "y", "y"]
  )
  assert (vote.winner.parsed.label, vote.confidence) == ("no", 0.25)
  with pytest.raises(ValueError, match="no accuracy of z"):
    voting.take_vote(answers, "closed_set", {"x": 0.8, "y": 0.8}, ["z"])


@pytest.mark.parametrize(
  "labels, is_tie",
  [
    ("ab", True),
    ("aabb", True),
    ("aabbc", True),
    ("aab", False),
    ("a", False),
    ("abbc", False),
  ],
)
def test_ties(labels, is_tie):
  vote = voting.take_vote(_answers(*labels), "closed_set")
  assert vote.is_tie == is_tie
  record = voting.apply_vote(Record("1", "Q?"), vote)
  assert record.meta.get("is_tie", False) == is_tie


def test_a_vote_of_none_is_no_tie():
  vote = voting.take_vote(_answers(None, None), "closed_set")
  assert not vote.is_tie


def test_equal_sums_of_unequal_weights_are_a_tie():
  answers = [
    *_answers("a", teacher="x"),
    *_answers("b", "b", "b", teacher="y"),
  ]
  vote = voting.take_vote(answers, "closed_set", {"x": 0.7, "y": 0.7})
  assert vote.is_tie and vote.winner.parsed.label == "a"


_BALLOTS = st.lists(
  st.tuples(
    st.sampled_from(["1", "2 / 2", "2", "1.1 * 3", "3.3", "x", None]),
    st.sampled_from(["ok", "truncated", "ambiguous"]),
    st.sampled_from("xyz"),
  ),
  min_size=1,
  max_size=8,
)
_ACCURACIES = st.none() | st.fixed_dictionaries(
  {name: st.floats(0, 1) for name in "xyz"}
)


@given(
  ballots=_BALLOTS,
  failed=st.lists(st.sampled_from("xyz"), max_size=4),
  accuracies=_ACCURACIES,
  rng=st.randoms(use_true_random=False),
)
def test_shares_do_not_depend_on_the_order(ballots, failed, accuracies, rng):
  answers = [
    answer
    for label, status, teacher in ballots
    for answer in _answers((label, status), teacher=teacher)
  ]
  vote = voting.take_vote(answers, "equation", accuracies, failed)
  assert 0 <= vote.confidence <= 1
  assert sum(ballot["weight"] for ballot in vote.votes) <= 1 + 1e-9
  shuffled = rng.sample(answers, len(answers))
  again = voting.take_vote(
    shuffled, "equation", accuracies, rng.sample(failed, len(failed))
  )
  assert _list_shares(again) == _list_shares(vote)
  assert again.confidence == pytest.approx(vote.confidence)
  assert again.is_tie == vote.is_tie
  # Fewer came than were asked.
  with_one_less = voting.take_vote(answers, "equation", None, [*failed, "x"])
  without = voting.take_vote(answers, "equation", None, failed)
  assert with_one_less.confidence <= without.confidence


def _list_shares(vote):
  return sorted(
    (
      arithmetic.evaluate_equation(ballot["label"]),
      ballot["num_votes"],
      ballot["weight"],
    )
    for ballot in vote.votes
  )


def test_weights():
  assert voting.compute_weight(0.8) == pytest.approx(math.log(4))
  assert voting.compute_weight(0.5) == voting.compute_weight(0.1) == 0
  assert voting.compute_weight(1.0) == pytest.approx(math.log(999))
  for accuracy in (-0.1, 1.1, math.nan):
    with pytest.raises(ValueError, match="accuracy"):
      voting.compute_weight(accuracy)


def test_weights_make_the_likeliest_answer_win():
  """Against the posterior of two answers, computed by Bayes' rule."""
  rng = random.Random(0)
  for _ in range(200):
    accuracies = {f"t{i}": rng.uniform(0.5, 0.99) for i in range(5)}
    said = {name: rng.choice("ab") for name in accuracies}
    likelihoods = {
      truth: math.prod(
        accuracy if said[name] == truth else 1 - accuracy
        for name, accuracy in accuracies.items()
      )
      for truth in "ab"
    }
    answers = [
      answer
      for name, label in said.items()
      for answer in _answers(label, teacher=name)
    ]
    label, *_ = _vote(answers, accuracies=accuracies)
    assert label == max(likelihoods, key=likelihoods.__getitem__)


def test_a_good_teacher_outvotes_two_poor_ones():
  answers = [
    *_answers("a", teacher="poor"),
    *_answers("a", teacher="poor2"),
    *_answers("b", teacher="good"),
  ]
  accuracies = {"poor": 0.6, "poor2": 0.6, "good": 0.9}
  label, rationale, confidence = _vote(answers, accuracies=accuracies)
  weights = [math.log(0.9 / 0.1), 2 * math.log(0.6 / 0.4)]
  assert (label, rationale) == ("b", "good0")
  assert confidence == pytest.approx(weights[0] / sum(weights))
  assert _vote(answers)[0] == "a"


def test_samples_share_their_teachers_weight():
  answers = _answers("a", "a", "a", "b", teacher="x")
  answers += _answers("b", teacher="y")
  vote = voting.take_vote(answers, "closed_set", {"x": 0.8, "y": 0.8})
  assert vote.winner.parsed.label == "b"
  assert [(each["label"], each["num_votes"]) for each in vote.votes] == [
    ("b", 2),
    ("a", 3),
  ]
  assert [each["weight"] for each in vote.votes] == pytest.approx(
    [0.625, 0.375]
  )


def test_teachers_at_chance_weigh_the_same():
  answers = _answers("a", teacher="x") + _answers("b", teacher="y")
  assert _vote(answers, accuracies={"x": 0.2, "y": 0.5}) == ("a", "x0", 0.5)
  # One that is better decides alone.
  accuracies = {"x": 0.2, "y": 0.51}
  assert _vote(answers, accuracies=accuracies) == ("b", "y0", 1.0)


def test_the_record_keeps_who_said_what():
  record = Record("1", "Q?", label="7", meta={"source": 3})
  answers = _answers("8", "7", teacher="x") + _answers("3 + 4", teacher="y")
  voted = voting.apply_vote(record, voting.take_vote(answers, "equation"))
  assert voted == Record(
    "1",
    "Q?",
    label="7",
    rationale="x1",
    teacher_label="7",
    teacher="x",
    status="ok",
    meta={
      "source": 3,
      "confidence": pytest.approx(2 / 3),
      "votes": [
        {"label": "7", "num_votes": 2, "weight": pytest.approx(2 / 3)},
        {"label": "8", "num_votes": 1, "weight": pytest.approx(1 / 3)},
      ],
      "teachers": {"x": ["8", "7"], "y": ["3 + 4"]},
    },
  )
  json.dumps(vars(voted))
  assert record.meta == {"source": 3}


def test_what_the_caller_must_get_right():
  with pytest.raises(ValueError, match="no answers"):
    voting.take_vote([], "closed_set")
  with pytest.raises(ValueError, match="no accuracy of t"):
    voting.take_vote(_answers("a"), "closed_set", {"other": 0.9})
