"""A generated set of questions about the legs of two animals, with a teacher.

Owns the table of animals, the drawing of pairs into splits, the gold answers
and the simulated teacher's rationales and mistakes. Knows nothing of tokens or
tasks.

The label is a sum, which hides the two facts that the rationale names, as a
language model's knowledge does:

  input      how many legs do a bear and an ant have together ?
  label      10
  rationale  4 legs and 6 legs .

The same facts can be told in sentences that repeat the animals' names, which a
student may copy instead of learning which animal is which.
"""

import functools
import itertools
import random

from distill_jax.data.records import Record
from distill_jax.data.sources import generator_options

# Animals whose legs nobody disputes: no bats and no kangaroos, nothing with
# arms or fins to count, nothing with more than 8.
_ANIMALS_BY_LEGS = {
  0: (
    "carp cobra cod eel hake herring pike python salmon shark snake trout tuna"
    " whale worm"
  ),
  2: (
    "crow dove duck eagle goose gull hawk hen ostrich owl penguin pigeon robin"
    " swan"
  ),
  4: (
    "bear camel cat cow deer dog elephant fox frog goat horse lion lizard sheep"
    " tiger toad wolf"
  ),
  6: "ant aphid bee beetle cricket flea fly gnat hornet moth wasp",
  8: "mite scorpion spider tarantula tick",
}
LEGS = {
  animal: legs
  for legs, animals in _ANIMALS_BY_LEGS.items()
  for animal in animals.split()
}
# Pairs are taken without regard to order: 62 animals have 1891. Each seed deals
# all of them out to the splits, whatever the sizes asked for, so that another
# size moves no pair into another split.
MAX_EXAMPLES = {"train": 1000, "validation": 300, "test": 591}
RATIONALE_FORMS = ("numbers", "sentences")

_Pair = tuple[str, str]


def make_records(
  split: str,
  seed: int = 0,
  num_train_examples: int = 1000,
  num_validation_examples: int = 200,
  num_test_examples: int = 500,
  teacher_error_rate: float = 0.0,
  rationale_form: str = "numbers",
) -> list[Record]:
  """Generates one split.

  The splits of a seed have no pair of animals in common, in either order, and
  a pair stands once in its split. Another seed deals the pairs out anew: what
  was a training question may be one of its test questions. A smaller split is
  the beginning of a larger one of the same seed. The training split begins with
  31 questions that name each of the 62 animals once, so that with 31 examples
  or more no animal of a test question is new. Pairs are drawn evenly, labels
  therefore not: the commonest, 6, is that of 21.3% of all pairs.

  Questions do not depend on the teacher, and a higher error rate adds mistakes
  to those of a lower one.

  Args:
    split: "train", "validation" or "test".
    seed: which questions are drawn.
    num_train_examples: records of the train split.
    num_validation_examples: records of the validation split.
    num_test_examples: records of the test split.
    teacher_error_rate: expected share of records, in each split, whose
      rationale names a wrong number of legs for one of the two animals, from 0
      to 1. The teacher's label is the sum of what the rationale names.
    rationale_form: "numbers", or "sentences" such as "a bear has 4 legs . an
      ant has 6 legs .".

  Returns:
    Records with gold label, rationale and teacher label. `meta` holds `answer`
    (int), `pair` (the two animals in the question's order) and
    `teacher_mistake` (the animal with the wrong number of legs, or None).

  Raises:
    UserError: an argument is out of its range.
  """
  generator_options.check_split("animal_legs", split)
  num_examples = {
    "train": num_train_examples,
    "validation": num_validation_examples,
    "test": num_test_examples,
  }
  for name, value in num_examples.items():
    generator_options.check_integer(
      *("animal_legs", f"num_{name}_examples", value, 1, MAX_EXAMPLES[name]),
      why=_describe_sizes(),
    )
  generator_options.check_integer("animal_legs", "seed", seed, 0, 2**63 - 1)
  generator_options.check_share(
    "animal_legs", "teacher_error_rate", teacher_error_rate
  )
  generator_options.check_choice(
    "animal_legs", "rationale_form", rationale_form, RATIONALE_FORMS
  )
  # A string seeds through SHA-512: the same stream in every process.
  teacher_rng = random.Random(f"animal_legs {seed} {split} teacher")
  pairs = _deal_pairs(seed)[split][: num_examples[split]]
  return [
    _make_record(f"animal_legs_{split}_{index}", pair, teacher_rng,
                 teacher_error_rate, rationale_form)
    for index, pair in enumerate(pairs)
  ]  # fmt: skip


def _describe_sizes() -> str:
  sizes = ", ".join(f"{name} {size}" for name, size in MAX_EXAMPLES.items())
  return (
    f"{len(LEGS)} animals make {sum(MAX_EXAMPLES.values())} pairs, which the"
    f" splits share: {sizes}."
  )


@functools.lru_cache(maxsize=8)
def _deal_pairs(seed: int) -> dict[str, list[_Pair]]:
  """Divides all pairs among the splits, each pair in a drawn order."""
  rng = random.Random(f"animal_legs {seed} pairs")
  animals = list(LEGS)
  rng.shuffle(animals)
  first = list(zip(animals[::2], animals[1::2], strict=True))
  dealt = {frozenset(pair) for pair in first}
  rest = [
    pair
    for pair in itertools.combinations(sorted(LEGS), 2)
    if frozenset(pair) not in dealt
  ]
  rng.shuffle(rest)
  # A question names either animal first, equally often.
  pairs = iter(first + [_shuffle_pair(rng, pair) for pair in rest])
  return {
    split: list(itertools.islice(pairs, size))
    for split, size in MAX_EXAMPLES.items()
  }


def _shuffle_pair(rng: random.Random, pair: _Pair) -> _Pair:
  one, other = pair
  return (one, other) if rng.random() < 0.5 else (other, one)


def _make_record(
  record_id: str,
  pair: _Pair,
  teacher_rng: random.Random,
  teacher_error_rate: float,
  rationale_form: str,
) -> Record:
  legs = [LEGS[animal] for animal in pair]
  # Three draws a record whatever the rate, which keeps the streams in step.
  is_wrong = teacher_rng.random() < teacher_error_rate
  place = teacher_rng.randrange(2)
  mistaken_for = teacher_rng.choice(
    sorted(set(_ANIMALS_BY_LEGS) - {legs[place]})
  )
  told = list(legs)
  if is_wrong:
    told[place] = mistaken_for
  one, other = (f"{_find_article(animal)} {animal}" for animal in pair)
  return Record(
    id=record_id,
    input=f"how many legs do {one} and {other} have together ?",
    label=str(sum(legs)),
    rationale=(
      f"{one} has {told[0]} legs . {other} has {told[1]} legs ."
      if rationale_form == "sentences"
      else f"{told[0]} legs and {told[1]} legs ."
    ),
    teacher_label=str(sum(told)),
    teacher="generated",
    status="ok",
    meta={
      "answer": sum(legs),
      "pair": list(pair),
      "teacher_mistake": pair[place] if is_wrong else None,
    },
  )


def _find_article(animal: str) -> str:
  return "an" if animal[0] in "aeiou" else "a"
