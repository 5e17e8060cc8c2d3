"""Which of a teacher's answers are worth training on.

Owns the filters, each a small function, and their order. Reads no file. Takes
time linear in the records and their texts.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Literal

from distill_jax.answers import answer_forms, arithmetic, equality, numerals
from distill_jax.config import declaration
from distill_jax.config.declaration import field
from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.filtering.class_balance import balance_classes
from distill_jax.teacher.filtering.near_duplicates import (
  drop_near_duplicates,
  list_ngrams,
)
from distill_jax.teacher.prompting import prompts

_LABEL_STATUSES = ("ok", "empty_rationale", "truncated")
_MIN_THRESHOLD = 0.5
# A rationale repeats its question in runs of so many words.
_SHINGLE_WORDS = 3
_MAX_UNSTRIPPED = 3

_WORD = re.compile(r"\w+")
# A number behind "=", and what makes another number of it. What is computed on
# is no result.
_RESULT = re.compile(
  r"=\s*\$?\s*(-?[0-9][0-9,]*+(?:\.[0-9]++)?+)(?!\s*[-+*/])"
  r"(\s?%|\s(?:hundred|thousand|million|billion|dozen|percent)\b)?"
)


@dataclasses.dataclass(frozen=True)
class FilterConfig:
  """Which filters are on. By default none is: every record is kept."""

  # Of the labels, see `answer_forms`; decides when two are equal and how a
  # rationale may contradict one.
  answer_form: answer_forms.AnswerForm = "free_text"
  # The closed set, where there is one.
  labels: Sequence[str] = ()
  drop_label_not_parsed: bool = field(
    False,
    macro="DROP_LABEL_NOT_PARSED",
    help="records without a label that was read for certain go",
  )
  drop_label_disagrees_with_gold: bool = field(
    False,
    macro="DROP_LABEL_DISAGREES_WITH_GOLD",
    help="records whose teacher's label is not the gold one go; those without a"
    " gold label stay",
  )
  drop_empty_rationale: bool = field(
    False,
    macro="DROP_EMPTY_RATIONALE",
    help="records with a blank rationale go",
  )
  min_rationale_words: int = field(
    0,
    macro="MIN_RATIONALE_WORDS",
    least=0,
    help="records with a shorter rationale go; 0: off",
  )
  max_question_share: float | None = field(
    None,
    macro="MAX_QUESTION_SHARE",
    least=0,
    most=1,
    help="records go where more than this share of the rationale's word triples"
    " are the question's too; None: off",
  )
  max_loop_share: float | None = field(
    None,
    macro="MAX_LOOP_SHARE",
    least=0,
    most=1,
    help="records go where more than this share of the rationale's word 4-grams"
    " have occurred in it before; None: off",
  )
  drop_contradictions: bool = field(
    False,
    macro="DROP_CONTRADICTIONS",
    help="records go whose rationale argues for another label: it names other"
    " options and not its own, or its last result ('= 42') is not the value of"
    " its equation",
  )
  min_confidence: float | None = field(
    None,
    macro="MIN_CONFIDENCE",
    least=0,
    most=1,
    help="records whose answers agreed less go; None: off",
  )
  near_duplicate_threshold: float | None = field(
    None,
    macro="NEAR_DUPLICATE_THRESHOLD",
    least=_MIN_THRESHOLD,
    most=1,
    hint=": below, all questions of one form look alike, and finding them takes"
    " hours",
    help="a record goes where an earlier one that stays has an input with at"
    " least this Jaccard similarity, over word triples; None: off",
  )
  class_balance: Literal["over", "under", "weights"] | None = field(
    None,
    macro="CLASS_BALANCE",
    help="'over' repeats records of rare classes, 'under' leaves out records of"
    " frequent ones, until all classes have equally many; 'weights' multiplies"
    " their weights so that all classes have equal sums; None: off",
  )
  balance_by: Literal["teacher_label", "label"] = field(
    "teacher_label",
    macro="BALANCE_BY",
    help="the field that is the class of CLASS_BALANCE",
  )
  seed: int = field(
    0, macro="FILTER_SEED", help="of the draws of CLASS_BALANCE"
  )

  def __post_init__(self):
    declaration.check(self)


@dataclasses.dataclass(frozen=True)
class FilterCount:
  """What one filter did.

  Attributes:
    name: of the filter.
    before: records that came.
    after: records that went on.
  """

  name: str
  before: int
  after: int


def apply_filters(
  records: Sequence[Record], config: FilterConfig
) -> tuple[list[Record], list[FilterCount]]:
  """Applies the filters that are on, one after the other.

  The order: label_not_parsed, label_disagrees_with_gold, rationale_empty,
  rationale_too_short, rationale_repeats_question, rationale_loops,
  rationale_contradicts_label, low_agreement, near_duplicates, class_balance.

  Args:
    records: any records; none is changed.
    config: what is on.

  Returns:
    The records that stay, in their order, copies behind their originals; and
    a count for each filter that is on.

  Raises:
    UserError: agreement is asked of records that were never voted on, classes
      are to be balanced and the labels are no classes, or near-duplicates are
      to be found without the library for it.
  """
  kept, counts = list(records), []
  for name, is_on, filter_fn in _list_filters(config):
    if is_on:
      num_before = len(kept)
      kept = filter_fn(kept, config)
      counts.append(FilterCount(name, num_before, len(kept)))
  return kept, counts


_FilterFn = Callable[[list[Record], FilterConfig], list[Record]]


def _list_filters(config: FilterConfig) -> list[tuple[str, bool, _FilterFn]]:
  return [
    ("label_not_parsed", config.drop_label_not_parsed, _keep(is_label_parsed)),
    (
      "label_disagrees_with_gold",
      config.drop_label_disagrees_with_gold,
      _keep(agrees_with_gold),
    ),
    ("rationale_empty", config.drop_empty_rationale, _keep(has_rationale)),
    (
      "rationale_too_short",
      config.min_rationale_words > 0,
      _keep(is_long_enough),
    ),
    (
      "rationale_repeats_question",
      config.max_question_share is not None,
      _keep(says_more_than_question),
    ),
    (
      "rationale_loops",
      config.max_loop_share is not None,
      _keep(is_without_loop),
    ),
    (
      "rationale_contradicts_label",
      config.drop_contradictions,
      _keep(is_consistent),
    ),
    ("low_agreement", config.min_confidence is not None, _keep(is_agreed_on)),
    (
      "near_duplicates",
      config.near_duplicate_threshold is not None,
      _drop_near_duplicates,
    ),
    ("class_balance", config.class_balance is not None, _balance_classes),
  ]


def _drop_near_duplicates(
  records: list[Record], config: FilterConfig
) -> list[Record]:
  assert config.near_duplicate_threshold is not None
  return drop_near_duplicates(records, config.near_duplicate_threshold)


def _balance_classes(
  records: list[Record], config: FilterConfig
) -> list[Record]:
  assert config.class_balance is not None
  return balance_classes(
    records,
    config.class_balance,
    config.balance_by,
    config.seed,
    answer_forms.get_metric(config.answer_form),
    config.labels or None,
  )


def _keep(predicate: Callable[[Record, FilterConfig], bool]) -> _FilterFn:
  return lambda records, config: [
    record for record in records if predicate(record, config)
  ]


# --- Filters of one record --------------------------------------------------


def is_label_parsed(record: Record, config: FilterConfig) -> bool:
  """Tells whether the teacher's label was read for certain."""
  is_blank = not (record.teacher_label or "").strip()
  return not is_blank and record.status in _LABEL_STATUSES


def agrees_with_gold(record: Record, config: FilterConfig) -> bool:
  """Tells whether the teacher's label is the gold one, if there is one."""
  if record.label is None:
    return True
  if record.teacher_label is None:
    return False
  return equality.labels_equal(
    record.label,
    record.teacher_label,
    answer_forms.get_metric(config.answer_form),
    _find_label_set(record, config),
  )


def is_gold_usable(record: Record, config: FilterConfig) -> bool:
  """Tells whether the gold label is one that an answer can be equal to.

  An equation without value is not, nor is a label outside the closed set or
  the options: a teacher's label would be wrong whatever it is.
  """
  metric = answer_forms.get_metric(config.answer_form)
  label_set = _find_label_set(record, config)
  return equality.make_key(record.label or "", metric, label_set) is not None


def _find_label_set(
  record: Record, config: FilterConfig
) -> Sequence[str] | None:
  """Returns all labels that the record's may be; None where any text may."""
  if config.answer_form == "choice_letter":
    return prompts.find_options(record.input, record.meta)
  return config.labels or None


def has_rationale(record: Record, config: FilterConfig) -> bool:
  """Tells whether there is a rationale."""
  return bool((record.rationale or "").strip())


def is_long_enough(record: Record, config: FilterConfig) -> bool:
  """Tells whether the rationale has `min_rationale_words`, between blanks."""
  return len((record.rationale or "").split()) >= config.min_rationale_words


def says_more_than_question(record: Record, config: FilterConfig) -> bool:
  """Tells whether enough of the rationale is not in the question.

  A rationale of fewer words than a triple has counts as one n-gram.
  """
  assert config.max_question_share is not None
  ngrams = list_ngrams(record.rationale or "", _SHINGLE_WORDS)
  if not ngrams:
    return True
  size = len(ngrams[0])
  known = set(list_ngrams(record.input, size))
  num_copied = sum(ngram in known for ngram in ngrams)
  return num_copied / len(ngrams) <= config.max_question_share


def is_without_loop(record: Record, config: FilterConfig) -> bool:
  """Tells whether little enough of the rationale repeats itself."""
  assert config.max_loop_share is not None
  ngrams = list_ngrams(record.rationale or "", 4)
  if not ngrams:
    return True
  return 1 - len(set(ngrams)) / len(ngrams) <= config.max_loop_share


def is_consistent(record: Record, config: FilterConfig) -> bool:
  """Tells whether the rationale argues for no other label than the teacher's.

  Words are compared, so "not the zoo" names the zoo. A label that is part of
  another one's text is not looked for inside it.
  """
  label, rationale = record.teacher_label or "", record.rationale or ""
  if not label.strip():
    return True
  if config.answer_form == "equation":
    return _is_result_of(label, rationale)
  options = tuple(config.labels) or prompts.find_options(
    record.input, record.meta
  )
  if not options:
    return True
  named = _find_named(rationale, options)
  return not named or _normalise(label) in named


def is_agreed_on(record: Record, config: FilterConfig) -> bool:
  """Tells whether the answers agreed enough.

  Raises:
    UserError: the record holds no confidence.
  """
  assert config.min_confidence is not None
  if record.meta.get("failures") and record.status is None:
    return False  # Every request of it failed: there is nothing to agree on.
  confidence = record.meta.get("confidence")
  if not isinstance(confidence, int | float):
    raise UserError(
      f"MIN_CONFIDENCE is {config.min_confidence}, and record {record.id!r}"
      f" has meta.confidence {confidence!r}: nobody voted on it. Label with"
      " NUM_SAMPLES above 1, or turn MIN_CONFIDENCE off."
    )
  return confidence >= config.min_confidence


def _is_result_of(equation: str, rationale: str) -> bool:
  """Tells whether a rationale's last result is, or rounds, a value.

  A result that may mean another number ("2,3", "5 dozen") contradicts nothing.
  """
  results = _RESULT.findall(rationale.replace("−", "-"))
  value = arithmetic.evaluate_equation(equation)
  if not results or value is None:
    return True
  number, scale = results[-1]
  number = numerals.remove_thousands_marks(number.rstrip(","))
  if number is None or scale:
    return True
  return numerals.is_written_value(number, value)


def _find_named(text: str, options: Sequence[str]) -> set[tuple[str, ...]]:
  """Returns the options, as words, that a text names; plurals count.

  Longer ones are sought first, and where one was found no other is.
  """
  words = _normalise(text)
  by_first_word = collections.defaultdict(list)
  for option in sorted({_normalise(option) for option in options}, key=len):
    if option:
      by_first_word[option[0]].insert(0, option)
  named = set()
  position = 0
  while position < len(words):
    for option in by_first_word[words[position]]:
      if words[position : position + len(option)] == option:
        named.add(option)
        position += len(option)
        break
    else:
      position += 1
  return named


def _normalise(text: str) -> tuple[str, ...]:
  """Returns lower-case words, each without the ending of a plural."""
  return tuple(map(_strip_plural, _WORD.findall(text.lower())))


def _strip_plural(word: str) -> str:
  # "bus" and "dress" are singular; "buses" and "dresses" shall come to them.
  if len(word) > _MAX_UNSTRIPPED and not word.endswith("ss"):
    return word.removesuffix("s").removesuffix("e")
  return word
