"""Tests of data/sources/word_problems.py."""

import collections
import operator

import hash_seeds
import pytest

from distill_jax.data import vocab
from distill_jax.data.sources import generator_options, word_problems
from distill_jax.errors import UserError

_NUM_RECORDS = 2000
_OPERATIONS = {
  "+": operator.add,
  "-": operator.sub,
  "*": operator.mul,
  "/": operator.truediv,
}


@pytest.fixture(scope="module")
def records():
  return word_problems.make_records("train", num_train_examples=_NUM_RECORDS)


def _read_equation(equation):
  """Returns value, numbers and symbols of `a + b` or `( a + b ) * c`."""
  tokens = equation.split(" ")
  if tokens[0] == "(":
    assert (tokens[4], len(tokens)) == (")", 7), equation
    tokens = tokens[1:4] + tokens[5:]
  assert len(tokens) in (3, 5), equation
  numbers = [int(token) for token in tokens[::2]]
  value = numbers[0]
  for symbol, number in zip(tokens[1::2], numbers[1:], strict=True):
    value = _OPERATIONS[symbol](value, number)
  return value, numbers, tokens[1::2]


def test_gold_equation_has_the_answer(records):
  for record in records:
    value, numbers, symbols = _read_equation(record.label)
    assert value == record.meta["answer"]
    assert len(symbols) == record.meta["num_steps"]
    assert all(2 <= number <= 99 for number in (*numbers, value))


def test_input_holds_the_equations_numbers_and_the_distractor(records):
  for record in records:
    _, numbers, _ = _read_equation(record.label)
    distractor = record.meta["distractor"]
    assert distractor not in numbers
    expected = numbers if distractor is None else [*numbers, distractor]
    found = [int(token) for token in record.input.split() if token.isdigit()]
    assert sorted(found) == sorted(expected)


def test_all_operations_and_kinds_are_frequent(records):
  symbols = collections.Counter(
    symbol for record in records for symbol in _read_equation(record.label)[2]
  )
  assert set(symbols) == set("+-*/")
  assert min(symbols.values()) > 0.15 * symbols.total()
  kinds = collections.Counter(
    (record.meta["num_steps"], record.meta["distractor"] is None)
    for record in records
  )
  assert len(kinds) == 4
  assert min(kinds.values()) > 0.2 * len(records)


def test_rationale_computes_the_teachers_label_step_by_step(records):
  for record in records:
    value, numbers, symbols = _read_equation(record.teacher_label)
    steps = [
      sentence.split(" ")
      for sentence in record.rationale.removesuffix(" .").split(" . ")
      if "=" in sentence
    ]
    assert [step[1] for step in steps] == symbols
    assert [int(step[2]) for step in steps] == numbers[1:]
    before = numbers[0]
    for left, symbol, right, _, result in steps:
      assert int(left) == before
      before = int(result)
      assert _OPERATIONS[symbol](int(left), int(right)) == before
    assert before == value


def test_rationale_names_every_number_in_words(records):
  for record in records:
    words = " ".join(
      sentence
      for sentence in record.rationale.split(" . ")
      if "=" not in sentence
    ).split()
    _, numbers, _ = _read_equation(record.teacher_label)
    assert {str(number) for number in numbers} <= set(words)


def test_teacher_is_wrong_exactly_where_it_is_said_to_be(records):
  for record in records:
    is_right = _read_equation(record.teacher_label)[0] == record.meta["answer"]
    mistake = record.meta["teacher_mistake"]
    assert is_right == (mistake is None)
    if is_right:
      assert record.teacher_label == record.label
    if mistake == "distractor":
      distractor = record.meta["distractor"]
      assert distractor in _read_equation(record.teacher_label)[1]
    if mistake == "dropped_step":
      assert record.label.startswith(f"( {record.teacher_label} )")
    assert (record.teacher, record.status) == ("generated", "ok")


@pytest.mark.parametrize("rate", [0.0, 0.15, 1.0])
def test_teacher_error_share_is_near_the_rate(rate):
  records = word_problems.make_records(
    "train", num_train_examples=_NUM_RECORDS, teacher_error_rate=rate
  )
  mistakes = collections.Counter(
    record.meta["teacher_mistake"] for record in records
  )
  share = 1 - mistakes[None] / _NUM_RECORDS
  # Four standard deviations of a binomial share.
  assert abs(share - rate) <= 4 * (rate * (1 - rate) / _NUM_RECORDS) ** 0.5
  if 0 < rate:
    assert set(mistakes) - {None} == {
      "operation",
      "dropped_step",
      "distractor",
    }


def test_higher_error_rate_keeps_problems_and_mistakes(records):
  worse = word_problems.make_records(
    "train", num_train_examples=_NUM_RECORDS, teacher_error_rate=0.5
  )
  for record, worse_record in zip(records, worse, strict=True):
    assert (worse_record.input, worse_record.label) == (
      record.input,
      record.label,
    )
    if record.meta["teacher_mistake"]:
      assert worse_record == record


def test_splits_share_no_input_whatever_their_seeds():
  sizes = {f"num_{split}_examples": 1000 for split in generator_options.SPLITS}
  inputs = {
    split: {
      record.input
      for seed in (0, 1)
      for record in word_problems.make_records(split, seed=seed, **sizes)
    }
    for split in generator_options.SPLITS
  }
  assert not inputs["train"] & inputs["test"]
  assert not inputs["train"] & inputs["validation"]
  assert not inputs["validation"] & inputs["test"]
  # Within a split and seed inputs are distinct; two seeds rarely meet.
  assert all(len(texts) > 1900 for texts in inputs.values())


def test_inputs_and_ids_are_distinct(records):
  assert len({record.input for record in records}) == _NUM_RECORDS
  assert len({record.id for record in records}) == _NUM_RECORDS


def test_smaller_split_begins_a_larger_one(records):
  smaller = word_problems.make_records("train", num_train_examples=250)
  assert smaller == records[:250]


def test_seed_changes_the_problems(records):
  other = word_problems.make_records("train", seed=1, num_train_examples=250)
  shared = {r.input for r in other} & {r.input for r in records}
  assert len(shared) < 25


def test_same_records_in_another_process():
  code = (
    "from distill_jax.data.sources import word_problems\n"
    "for record in word_problems.make_records('test', num_test_examples=50):\n"
    "  print(record)"
  )
  outputs = hash_seeds.print_under_two(code)
  here = word_problems.make_records("test", num_test_examples=50)
  assert outputs[0] == outputs[1] == [str(record) for record in here]


def test_token_counts_stay_within_bounds(records):
  vocabulary = vocab.load_vocabulary(None)
  bounds = {
    "input": (15, 36),
    "rationale": (12, 30),
    "label": (3, 7),
    "teacher_label": (3, 7),
  }
  for field, (low, high) in bounds.items():
    lengths = [
      len(vocabulary.encode(getattr(record, field))) for record in records
    ]
    assert low <= min(lengths) and max(lengths) <= high, field


def test_every_word_is_one_token(records):
  vocabulary = vocab.load_vocabulary(None)
  words = {
    word
    for record in records
    for text in (record.input, record.rationale, record.label)
    for word in text.split(" ")
  }
  assert len(words) < 300
  assert [word for word in words if len(vocabulary.encode(word)) != 1] == []


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"split": "dev"}, "no split 'dev'"),
    ({"num_train_examples": 0}, "num_train_examples of word_problems is 0"),
    ({"num_test_examples": 10**6}, "num_test_examples of word_problems is"),
    ({"num_validation_examples": 1.5}, "num_validation_examples"),
    ({"seed": -1}, "seed of word_problems is -1"),
    ({"seed": True}, "seed of word_problems is True"),
    ({"teacher_error_rate": 1.5}, "teacher_error_rate of word_problems is 1.5"),
    ({"teacher_error_rate": float("nan")}, "teacher_error_rate"),
    ({"teacher_error_rate": "0.1"}, "teacher_error_rate"),
  ],
)
def test_bad_arguments_are_named(arguments, message):
  with pytest.raises(UserError, match=message):
    word_problems.make_records(**{"split": "train"} | arguments)
