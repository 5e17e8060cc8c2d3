"""The one equality of labels: when two texts are the same answer.

Scores, votes, filters, conflict checks and comparisons of teachers all ask
here. knows no model, file or teacher.
"""

import functools
import unicodedata
from collections.abc import Hashable, Sequence
from typing import Literal

from distill_jax.answers import arithmetic

LabelMetric = Literal["exact_match", "equation"]
METRICS: tuple[LabelMetric, ...] = ("exact_match", "equation")


# Characters that Unicode decomposes into others with another meaning: "10²" is
# not "102", and "1½" not "11⁄2".
_OTHER_MEANING = ("<super>", "<sub>", "<fraction>", "<circle>", "<square>")


def normalize(text: str) -> str:
  """Returns the text with variants of characters and of blanks unified.

  Unicode's form NFC, full-width letters, ligatures and the like replaced by
  plain ones, single blanks between words. A vocabulary may rewrite more.
  """
  plain = "".join(map(_make_plain, text))
  return " ".join(unicodedata.normalize("NFC", plain).split())


@functools.lru_cache(maxsize=2**12)
def _make_plain(character: str) -> str:
  if unicodedata.decomposition(character).startswith(_OTHER_MEANING):
    return character
  return unicodedata.normalize("NFKC", character)


def make_key(
  label: str,
  metric: LabelMetric,
  label_set: Sequence[str] | None = None,
) -> Hashable | None:
  """Returns what equal labels have in common.

  Args:
    label: a gold label, a prediction or a teacher's label.
    metric: "equation", the exact value counts; "exact_match", the text without
      regard to case, kind and number of blanks, quotation marks around it and
      one full stop at its end.
    label_set: all labels there are; None where any text may be one.

  Returns:
    The value, the text to be compared, or the member of `label_set`; None for
    what is no answer: an equation without value, an empty text, or one that is
    no member of the set, or equals several and is spelled like none.
  """
  if metric == "equation":
    return arithmetic.evaluate_equation(label)
  if label_set is None:
    return _fold(label) or None
  exact, folded = _index(tuple(label_set))
  found = exact.get(normalize(label))
  return folded.get(_fold(label)) if found is None else found


def labels_equal(
  a: str,
  b: str,
  metric: LabelMetric,
  label_set: Sequence[str] | None = None,
) -> bool:
  """Tells whether two labels are the same answer, see `make_key`.

  What is no answer equals nothing, itself included.
  """
  key = make_key(a, metric, label_set)
  return key is not None and key == make_key(b, metric, label_set)


def _fold(text: str) -> str:
  """Returns what is left of a text without case, quotes and full stop.

  A text of nothing but those ("." as a label) stays as it is.
  """
  folded = normalize(text).casefold()
  bare = folded.removesuffix(".").strip("\"'“”‘’ ").removesuffix(".").rstrip()
  return bare or folded


@functools.lru_cache(maxsize=64)
def _index(
  label_set: tuple[str, ...],
) -> tuple[dict[str, str], dict[str, str | None]]:
  """Returns the labels by their normalized text, and by what folding leaves.

  Labels that only folding makes equal are None there.
  """
  exact = {normalize(label): label for label in reversed(label_set)}
  folded: dict[str, str | None] = {}
  for label in exact.values():
    key = _fold(label)
    folded[key] = None if key in folded else label
  return exact, folded
