"""Tests of data/sources/animal_legs.py."""

import collections
import dataclasses
import itertools
import re

import hash_seeds
import pytest

from distill_jax.data import datasets, own_vocabulary, vocab
from distill_jax.data.settings import DataSettings
from distill_jax.data.sources import animal_legs, generator_options
from distill_jax.errors import UserError

_QUESTION = re.compile(
  r"how many legs do (an?) (\w+) and (an?) (\w+) have together \?"
)
_ALL = {
  f"num_{split}_examples": size
  for split, size in animal_legs.MAX_EXAMPLES.items()
}


@pytest.fixture(scope="module")
def records():
  return [
    record
    for split in generator_options.SPLITS
    for record in animal_legs.make_records(
      split, teacher_error_rate=0.3, **_ALL
    )
  ]


def _find_groups(pattern, text):
  match = re.fullmatch(pattern, text)
  assert match, text
  return match.groups()


def _list_pairs(split, **options):
  return [
    frozenset(record.meta["pair"])
    for record in animal_legs.make_records(split, **options)
  ]


def test_the_table_has_62_animals_of_one_lower_case_word():
  assert len(animal_legs.LEGS) == 62
  assert all(re.fullmatch("[a-z]+", animal) for animal in animal_legs.LEGS)
  counts = collections.Counter(animal_legs.LEGS.values())
  assert set(counts) == {0, 2, 4, 6, 8}
  assert min(counts.values()) >= 5
  for animal, legs in (
    ("snake", 0), ("shark", 0), ("worm", 0), ("hen", 2), ("ostrich", 2),
    ("bear", 4), ("frog", 4), ("lizard", 4), ("ant", 6), ("bee", 6),
    ("spider", 8), ("scorpion", 8), ("tick", 8),
  ):  # fmt: skip
    assert animal_legs.LEGS[animal] == legs


def test_the_label_is_the_sum_for_the_questions_pair(records):
  for record in records:
    article, one, other_article, other = _find_groups(_QUESTION, record.input)
    assert [one, other] == record.meta["pair"]
    assert one != other
    assert record.meta["answer"] == int(record.label)
    assert record.label == str(animal_legs.LEGS[one] + animal_legs.LEGS[other])
    for word, animal in ((article, one), (other_article, other)):
      assert word == ("an" if animal[0] in "aeiou" else "a")


def test_the_teacher_names_a_wrong_number_exactly_where_it_is_said_to(records):
  for record in records:
    told = _find_groups(r"(\d) legs and (\d) legs \.", record.rationale)
    numbers = [int(number) for number in told]
    assert record.teacher_label == str(sum(numbers))
    assert set(numbers) <= {0, 2, 4, 6, 8}
    wrong = [
      animal
      for animal, number in zip(record.meta["pair"], numbers, strict=True)
      if animal_legs.LEGS[animal] != number
    ]
    mistake = record.meta["teacher_mistake"]
    assert wrong == ([] if mistake is None else [mistake])
    assert (record.teacher_label == record.label) == (mistake is None)
    assert (record.teacher, record.status) == ("generated", "ok")


def test_sentences_tell_the_same_facts_of_the_same_questions(records):
  told = [
    record
    for split in generator_options.SPLITS
    for record in animal_legs.make_records(
      split, teacher_error_rate=0.3, rationale_form="sentences", **_ALL
    )
  ]
  sentence = r"(an? \w+) has (\d) legs \."
  for record, expected in zip(told, records, strict=True):
    one, legs, other, other_legs = _find_groups(
      f"{sentence} {sentence}", record.rationale
    )
    assert f"do {one} and {other} have" in record.input
    assert expected.rationale == f"{legs} legs and {other_legs} legs ."
    assert expected == dataclasses.replace(record, rationale=expected.rationale)


def test_an_unknown_form_of_rationale_is_refused():
  with pytest.raises(UserError, match="must be one of 'numbers', 'sentences'"):
    animal_legs.make_records("train", rationale_form=["numbers"])


@pytest.mark.parametrize("seed", range(4))
def test_splits_share_no_pair_in_either_order(seed):
  pairs = [
    pair
    for split in generator_options.SPLITS
    for pair in _list_pairs(split, seed=seed, **_ALL)
  ]
  assert len(set(pairs)) == len(pairs) == 62 * 61 // 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [31, 125, 250])
def test_every_animal_is_in_training(seed, size):
  pairs = _list_pairs("train", seed=seed, num_train_examples=size)
  assert set().union(*pairs) == set(animal_legs.LEGS)


def test_fewer_than_31_examples_name_an_animal_once():
  pairs = _list_pairs("train", num_train_examples=20)
  assert len(set().union(*pairs)) == 40


def test_either_animal_is_named_first_about_equally_often(records):
  share = sum(
    record.meta["pair"][0] < record.meta["pair"][1] for record in records
  ) / len(records)
  # Four standard deviations of a binomial share.
  assert abs(share - 0.5) < 4 * (0.25 / len(records)) ** 0.5


def test_the_commonest_answer_has_the_share_that_is_stated():
  counts = collections.Counter(
    animal_legs.LEGS[one] + animal_legs.LEGS[other]
    for one, other in itertools.combinations(animal_legs.LEGS, 2)
  )
  ((answer, count),) = counts.most_common(1)
  share = f"{count / counts.total():.1%}"
  assert f"the commonest, {answer}, is that of {share}" in " ".join(
    str(animal_legs.make_records.__doc__).split()
  )


@pytest.mark.parametrize("split", generator_options.SPLITS)
def test_a_smaller_split_begins_a_larger_one(split):
  size = f"num_{split}_examples"
  rate = {"seed": 2, "teacher_error_rate": 0.5}
  larger = animal_legs.make_records(split, **rate, **{size: 250})
  assert animal_legs.make_records(split, **rate, **{size: 60}) == larger[:60]
  others = {name: 5 for name in _ALL if name != size}
  assert (
    animal_legs.make_records(split, **rate, **{size: 250}, **others) == larger
  )


def test_the_defaults_are_the_stated_sizes_without_mistakes():
  for split, size in (("train", 1000), ("validation", 200), ("test", 500)):
    records = animal_legs.make_records(split)
    assert len(records) == size
    assert not any(record.meta["teacher_mistake"] for record in records)


def test_inputs_and_ids_are_distinct(records):
  assert len({record.input for record in records}) == len(records)
  assert len({record.id for record in records}) == len(records)


@pytest.mark.parametrize("split", generator_options.SPLITS)
def test_another_seed_draws_fresh_questions(split):
  first, second = (set(_list_pairs(split, seed=seed)) for seed in (0, 1))
  expected = len(first) * len(second) / (62 * 61 // 2)
  assert len(first & second) < 1.5 * expected


@pytest.mark.parametrize("rate", [0, 0.15, 1.0])
def test_the_share_of_mistakes_is_near_the_rate(rate):
  records = animal_legs.make_records("train", teacher_error_rate=rate)
  wrong = [r.meta["teacher_mistake"] for r in records]
  share = 1 - wrong.count(None) / len(wrong)
  # Four standard deviations of a binomial share.
  assert abs(share - rate) <= 4 * (rate * (1 - rate) / len(wrong)) ** 0.5


def test_a_higher_error_rate_keeps_questions_and_mistakes():
  less, more = (
    animal_legs.make_records("train", teacher_error_rate=rate)
    for rate in (0.15, 0.5)
  )
  for record, worse_record in zip(less, more, strict=True):
    assert (record.input, record.label) == (
      worse_record.input,
      worse_record.label,
    )
    if record.meta["teacher_mistake"]:
      assert worse_record == record


def test_same_records_in_another_process():
  code = (
    "from distill_jax.data.sources import animal_legs\n"
    "for record in animal_legs.make_records('test', teacher_error_rate=0.5):\n"
    "  print(record)"
  )
  outputs = hash_seeds.print_under_two(code)
  here = animal_legs.make_records("test", teacher_error_rate=0.5)
  assert outputs[0] == outputs[1] == [str(record) for record in here]


@pytest.fixture(scope="module", name="vocabulary")
def fixture_vocabulary():
  settings = own_vocabulary.fill_in("animal_legs_distill", DataSettings())
  return vocab.load_vocabulary(settings.vocab_path)


def test_its_own_vocabulary_has_few_pieces_a_text(records, vocabulary):
  assert vocabulary.size <= 512
  bounds = {"input": (12, 20), "rationale": (6, 6), "label": (1, 2)}
  for field, (low, high) in bounds.items():
    texts = [getattr(record, field) for record in records]
    lengths = [len(vocabulary.encode(text)) for text in texts]
    assert low <= min(lengths) and max(lengths) <= high, field
    assert [vocabulary.decode(vocabulary.encode(t)) for t in texts] == texts
  for prefix in ("predict: ", "explain: ", " answer: ", " rationale: "):
    assert len(vocabulary.encode(prefix)) == 2, prefix
  # The first 259 ids are special ones and bytes.
  ids = {i for record in records for i in vocabulary.encode(record.input)}
  assert min(ids) >= 259


def test_most_animals_are_one_piece(vocabulary):
  pieces = [len(vocabulary.encode(animal)) for animal in animal_legs.LEGS]
  assert pieces.count(1) >= 50
  assert max(pieces) <= 4


def test_records_come_by_the_data_sets_name():
  settings = DataSettings(animal_legs={"seed": 5, "num_test_examples": 7})
  loaded = datasets.load_records("animal_legs", "test", settings)
  assert loaded == animal_legs.make_records("test", seed=5, num_test_examples=7)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"split": "dev"}, "no split 'dev'"),
    ({"num_train_examples": 0}, "num_train_examples of animal_legs is 0"),
    (
      {"num_train_examples": 1001},
      "is 1001; .* from 1 to 1000. 62 animals make 1891 pairs, .*: train 1000,"
      " validation 300, test 591",
    ),
    ({"num_test_examples": 592}, "num_test_examples of animal_legs is 592"),
    ({"num_validation_examples": 1.5}, "num_validation_examples"),
    ({"num_validation_examples": True}, "num_validation_examples"),
    ({"seed": -1}, "seed of animal_legs is -1"),
    ({"seed": True}, "seed of animal_legs is True"),
    ({"teacher_error_rate": 1.5}, "teacher_error_rate of animal_legs is 1.5"),
    ({"teacher_error_rate": float("nan")}, "teacher_error_rate"),
    ({"teacher_error_rate": "0.1"}, "teacher_error_rate"),
    ({"teacher_error_rate": True}, "teacher_error_rate"),
  ],
)
def test_bad_arguments_are_named(arguments, message):
  with pytest.raises(UserError, match=message):
    animal_legs.make_records(**{"split": "train"} | arguments)
