"""Texts read as the labels of a task: what gold labels and predictions share.

A vocabulary rewrites what it encodes ("½" is "1⁄2" once decoded), so the label
set, the gold label and the prediction go the same way here before the one
equality compares them.
"""

from collections.abc import Hashable, Iterable, Sequence

from distill_jax.answers import equality
from distill_jax.answers.equality import LabelMetric
from distill_jax.data.vocab import Vocabulary
from distill_jax.errors import UserError


class LabelReader:
  """Reads the labels of one task."""

  def __init__(
    self,
    metric: LabelMetric,
    label_set: Sequence[str] | None,
    vocabulary: Vocabulary,
  ):
    """Prepares the label set.

    Args:
      metric: how answers are compared.
      label_set: all labels there are; None: any text may be one.
      vocabulary: what predictions are decoded by.

    Raises:
      UserError: two labels of the set are one label to the vocabulary.
    """
    self._metric: LabelMetric = metric
    self._vocabulary = vocabulary
    self._labels = None
    if label_set is not None:
      _check_label_set(metric, label_set, vocabulary)
      self._labels = {
        self._vocabulary.normalize(label): label for label in label_set
      }

  def read(self, text: str) -> Hashable | None:
    """Returns the key of a text that the data set wrote.

    Args:
      text: a gold label or a choice.

    Returns:
      What equal labels have in common, see `equality.make_key`: for a closed
      set its label. None: it is no answer of the task.
    """
    normalized = self._vocabulary.normalize(text)
    if self._labels is None:
      return equality.make_key(normalized, self._metric)
    key = equality.make_key(normalized, self._metric, tuple(self._labels))
    # Under the metric "equation" a key is a value and no label.
    return self._labels.get(key, key) if isinstance(key, str) else key

  def read_prediction(self, text: str) -> Hashable | None:
    """Returns the key of a text that a student wrote.

    Args:
      text: decoded.

    Returns:
      As `read`; None too where the text holds an unknown piece, of which nobody
      knows what it should spell.
    """
    if self._vocabulary.holds_unknown(text):
      return None
    return self.read(text)

  def read_choice(self, text: str, choices: Sequence[str]) -> Hashable | None:
    """Returns the key of the choice that a student ranks first.

    Args:
      text: the choice.
      choices: all that were ranked.

    Returns:
      As `read`; None too where another choice has the same ids: their scores
      are equal and say nothing about which of them the student means.
    """
    key = self.read(text)
    ids = self._vocabulary.encode(text)
    for other in choices:
      if other != text and self._vocabulary.encode(other) == ids:
        if self.read(other) != key:
          return None
    return key


def find_alike(
  labels: Iterable[str], vocabulary: Vocabulary
) -> tuple[str, str] | None:
  """Returns two different labels that have the same ids, None: there are none.

  Args:
    labels: any texts.
    vocabulary: what encodes them.
  """
  seen: dict[tuple[int, ...], str] = {}
  for label in labels:
    other = seen.setdefault(tuple(vocabulary.encode(label)), label)
    if other != label:
      return other, label
  return None


def _check_label_set(
  metric: LabelMetric, label_set: Sequence[str], vocabulary: Vocabulary
) -> None:
  if alike := find_alike(label_set, vocabulary):
    unknown = sorted({p for t in alike for p in vocabulary.find_unknown(t)})
    why = (
      f"the vocabulary cannot spell {', '.join(map(repr, unknown))}"
      if unknown
      else "the vocabulary rewrites them to one text"
    )
    raise UserError(
      f"The labels {alike[0]!r} and {alike[1]!r} have the same token ids:"
      f" {why}. No student can tell them apart. Rename the labels, or bind"
      ' VOCAB_PATH to another vocabulary ("bytes" can spell anything).'
    )
  if metric == "equation":
    return
  normalized: dict[str, str] = {}
  for label in label_set:
    text = equality.normalize(vocabulary.normalize(label))
    other = normalized.setdefault(text, label)
    if other != label:
      raise UserError(
        f"The labels {other!r} and {label!r} are one answer: both are {text!r}"
        " once Unicode's variants and blanks are made one. Rename one of them."
      )
    if not text:
      raise UserError(
        f"The label {label!r} is an empty text once it is normalized. Give it"
        " a name."
      )
