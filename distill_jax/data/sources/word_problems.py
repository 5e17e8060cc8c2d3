"""A generated set of arithmetic word problems, with a teacher that errs.

Owns the drawing of problems, the gold equations and the simulated teacher's
rationales and mistakes, so that every part of the project runs without a file.
Knows nothing of tokens or tasks.

A problem is a starting number and one or two steps. Each step is said in one
sentence; a sentence with a number that does not matter may stand among them:

  input      ava has 12 apples . ben has 9 apples . ava gets 5 more apples .
             apples are worth 3 coins each . how many coins are the apples of
             ava worth ?
  label      ( 12 + 5 ) * 3
  rationale  ava starts with 12 apples . ava gets 5 more . 12 + 5 = 17 . each is
             worth 3 coins . 17 * 3 = 51 .
"""

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Iterator

from distill_jax.data.records import Record
from distill_jax.data.sources import generator_options
from distill_jax.data.sources import word_problem_templates as templates

_MAX_EXAMPLES = 100_000
_TWO_STEP_SHARE = 0.5
_DISTRACTOR_SHARE = 0.5
# Every number of a problem, a rationale or an equation lies in this range: the
# largest is one token of the shipped vocabulary.
_MIN_VALUE, _MAX_VALUE = 2, 99


@dataclasses.dataclass(frozen=True)
class _Solution:
  """A way to compute an answer, right or wrong.

  Attributes:
    start: the first number.
    steps: (kind, number) of each step; kinds are keys of `templates.STEPS`.
  """

  start: int
  steps: tuple[tuple[str, int], ...]

  @property
  def numbers(self) -> tuple[int, ...]:
    return (self.start, *(number for _, number in self.steps))

  def compute_values(self) -> tuple[int, ...] | None:
    """Returns the number after each step; None if one is out of bounds."""
    values = []
    value = self.start
    for kind, number in self.steps:
      match templates.STEPS[kind].symbol:
        case "+":
          value += number
        case "-":
          value -= number
        case "*":
          value *= number
        case "/":
          value, remainder = divmod(value, number)
          if remainder:
            return None
      if not _MIN_VALUE <= value <= _MAX_VALUE:
        return None
      values.append(value)
    return tuple(values)

  def write_equation(self) -> str:
    equation = str(self.start)
    for index, (kind, number) in enumerate(self.steps):
      if index:
        equation = f"( {equation} )"
      equation = f"{equation} {templates.STEPS[kind].symbol} {number}"
    return equation

  def write_rationale(self, words: dict[str, str]) -> str:
    """Says the steps one by one, each with its result."""
    parts = []
    if not templates.STEPS[self.steps[0][0]].is_opening:
      parts.append(templates.OPENING_CLAUSE.format(start=self.start, **words))
    before = self.start
    for (kind, number), after in zip(
      self.steps, self.compute_values() or (), strict=True
    ):
      step = templates.STEPS[kind]
      parts.append(step.clause.format(start=self.start, number=number, **words))
      parts.append(f"{before} {step.symbol} {number} = {after} .")
      before = after
    return " ".join(parts)


def make_records(
  split: str,
  seed: int = 0,
  num_train_examples: int = 1000,
  num_validation_examples: int = 200,
  num_test_examples: int = 500,
  teacher_error_rate: float = 0.15,
) -> list[Record]:
  """Generates one split.

  A text's hash decides which split it belongs to, so splits have no input in
  common, whatever their seeds and sizes. A smaller split is the beginning of a
  larger one of the same seed. The problems do not depend on the teacher, and a
  higher error rate adds mistakes to those of a lower one.

  Args:
    split: "train", "validation" or "test".
    seed: which problems are drawn.
    num_train_examples: records of the train split.
    num_validation_examples: records of the validation split.
    num_test_examples: records of the test split.
    teacher_error_rate: expected share of records whose rationale and teacher
      label argue for a wrong answer, from 0 to 1.

  Returns:
    Records with gold label, rationale and teacher label. `meta` holds `answer`
    (int), `num_steps` (1 or 2), `distractor` (the number that does not matter,
    or None) and `teacher_mistake` ("operation", "dropped_step", "distractor" or
    None).

  Raises:
    UserError: an argument is out of its range.
  """
  generator_options.check_split("word_problems", split)
  num_examples = {
    "num_train_examples": num_train_examples,
    "num_validation_examples": num_validation_examples,
    "num_test_examples": num_test_examples,
  }
  for name, value in num_examples.items():
    generator_options.check_integer(
      "word_problems", name, value, 1, _MAX_EXAMPLES
    )
  generator_options.check_integer("word_problems", "seed", seed, 0, 2**63 - 1)
  generator_options.check_share(
    "word_problems", "teacher_error_rate", teacher_error_rate
  )
  records = _generate(split, seed, teacher_error_rate)
  return list(itertools.islice(records, num_examples[f"num_{split}_examples"]))


def _generate(
  split: str, seed: int, teacher_error_rate: float
) -> Iterator[Record]:
  """Yields the records of a split without end."""
  # A string seeds through SHA-512: the same stream in every process.
  problem_rng = random.Random(f"word_problems {seed} {split} problems")
  teacher_rng = random.Random(f"word_problems {seed} {split} teacher")
  seen: set[str] = set()
  while True:
    words = _draw_words(problem_rng)
    solution = _draw_solution(problem_rng)
    distractor = _draw_distractor(problem_rng, solution)
    text = _write_problem(problem_rng, solution, distractor, words)
    if text in seen or _assign_split(text) != split:
      continue
    mistakes = _list_mistakes(solution, distractor)
    if not mistakes:
      continue
    seen.add(text)
    # Three draws a record whatever the rate, which keeps the streams in step.
    is_wrong = teacher_rng.random() < teacher_error_rate
    mistake = teacher_rng.choice(sorted(mistakes))
    wrong_solution = teacher_rng.choice(mistakes[mistake])
    teacher_solution = wrong_solution if is_wrong else solution
    values = solution.compute_values()
    assert values is not None  # _draw_solution keeps to the bounds
    yield Record(
      id=f"word_problems_{split}_{len(seen) - 1}",
      input=text,
      label=solution.write_equation(),
      rationale=teacher_solution.write_rationale(words),
      teacher_label=teacher_solution.write_equation(),
      teacher="generated",
      status="ok",
      meta={
        "answer": values[-1],
        "num_steps": len(solution.steps),
        "distractor": distractor,
        "teacher_mistake": mistake if is_wrong else None,
      },
    )


def _assign_split(text: str) -> str:
  splits = generator_options.SPLITS
  return splits[hashlib.sha256(text.encode()).digest()[0] % len(splits)]


def _draw_words(rng: random.Random) -> dict[str, str]:
  name, other_name = rng.sample(templates.NAMES, 2)
  things, other_things = rng.sample(templates.THINGS, 2)
  boxes, other_boxes = rng.sample(templates.BOXES, 2)
  return {
    "name": name,
    "other_name": other_name,
    "things": things,
    "other_things": other_things,
    "boxes": boxes,
    "other_boxes": other_boxes,
    "coins": rng.choice(templates.COINS),
  }


def _draw_solution(rng: random.Random) -> _Solution:
  is_two_step = rng.random() < _TWO_STEP_SHARE
  plan = rng.choice(
    templates.TWO_STEP_PLANS if is_two_step else templates.ONE_STEP_PLANS
  )
  # The plan stays while the numbers are drawn again, so that kinds with few
  # fitting numbers (division) are as frequent as the others.
  while True:
    solution = _Solution(
      rng.choice(templates.LARGE_NUMBERS),
      tuple((kind, rng.choice(templates.STEPS[kind].numbers)) for kind in plan),
    )
    values = solution.compute_values()
    if values is None:
      continue
    # Sums and differences alike have the larger number first: the sizes of the
    # numbers must not give the operation away.
    if all(
      before > number
      for before, (kind, number) in zip(
        (solution.start, *values), solution.steps, strict=False
      )
      if templates.STEPS[kind].symbol in "+-"
    ):
      return solution


def _draw_distractor(rng: random.Random, solution: _Solution) -> int | None:
  if rng.random() >= _DISTRACTOR_SHARE:
    return None
  return rng.choice(
    [n for n in templates.LARGE_NUMBERS if n not in solution.numbers]
  )


def _write_problem(
  rng: random.Random,
  solution: _Solution,
  distractor: int | None,
  words: dict[str, str],
) -> str:
  sentences = []
  if not templates.STEPS[solution.steps[0][0]].is_opening:
    sentences.append(
      rng.choice(templates.OPENING_SENTENCES).format(
        start=solution.start, **words
      )
    )
  for kind, number in solution.steps:
    step = templates.STEPS[kind]
    sentence = rng.choice(step.sentences).format(
      start=solution.start, number=number, **words
    )
    place = len(sentences)
    if step.is_anywhere:
      place = rng.randrange(place + 1)
    sentences.insert(place, sentence)
  if distractor is not None:
    sentences.insert(
      rng.randrange(len(sentences) + 1),
      rng.choice(templates.DISTRACTORS).format(number=distractor, **words),
    )
  sentences.append(
    templates.STEPS[solution.steps[-1][0]].question.format(**words)
  )
  return " ".join(sentences)


def _list_mistakes(
  solution: _Solution, distractor: int | None
) -> dict[str, list[_Solution]]:
  """Returns, by kind of mistake, the solutions with another answer."""
  start, steps = solution.start, solution.steps
  mistakes: dict[str, list[_Solution]] = {
    "operation": [
      _Solution(
        start,
        (
          *steps[:index],
          (templates.STEPS[kind].mistaken_for, number),
          *steps[index + 1 :],
        ),
      )
      for index, (kind, number) in enumerate(steps)
    ],
    "dropped_step": [_Solution(start, steps[:-1])] if len(steps) > 1 else [],
    "distractor": [],
  }
  if distractor is not None:
    mistakes["distractor"] = [_Solution(distractor, steps)] + [
      _Solution(
        start,
        (*steps[:index], (kind, distractor), *steps[index + 1 :]),
      )
      for index, (kind, _) in enumerate(steps)
    ]
  values = solution.compute_values()
  assert values is not None
  valid = {}
  for name, solutions in mistakes.items():
    wrong = [
      other
      for other in solutions
      if (other_values := other.compute_values()) is not None
      and other_values[-1] != values[-1]
    ]
    if wrong:
      valid[name] = wrong
  return valid
