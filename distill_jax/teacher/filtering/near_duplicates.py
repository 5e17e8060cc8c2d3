"""Questions that are nearly the same, found by MinHash.

Takes time linear in the records while few different questions are nearly as
similar as the threshold.
"""

import re
from collections.abc import Sequence
from typing import Any

from distill_jax.data.records import Record
from distill_jax.errors import UserError

_NUM_PERMUTATIONS = 128
_SHINGLE_WORDS = 3
_MIN_RECALL = 0.99
_WORD = re.compile(r"\w+")


def drop_near_duplicates(
  records: Sequence[Record], threshold: float
) -> list[Record]:
  """Keeps of inputs that are nearly the same the first.

  MinHash signatures under locality-sensitive hashing propose pairs, and the
  Jaccard similarity of their word triples decides: none is dropped that is not
  similar enough, and a pair at the threshold is overlooked in one case of a
  hundred, a more similar one less often.

  Args:
    records: in the order of preference.
    threshold: Jaccard similarity from which on two inputs are nearly the same.

  Returns:
    Those that stay, in their order.

  Raises:
    UserError: datasketch is not installed.

  Source: Broder 1997, "On the resemblance and containment of documents".
  """
  try:
    import datasketch
  except ImportError as error:
    raise UserError(
      "near_duplicate_threshold is given, and datasketch, which finds them, is"
      " not installed: pip install datasketch."
    ) from error
  index: Any = datasketch.MinHashLSH(
    num_perm=_NUM_PERMUTATIONS,
    params=_choose_bands(threshold),
  )
  # Many times faster than one by one, and it hands them out one by one.
  signatures = datasketch.MinHash.generator(
    (_encode_shingles(record) for record in records),
    num_perm=_NUM_PERMUTATIONS,
  )
  kept = []
  for record, signature in zip(records, signatures, strict=True):
    shingles = _make_shingles(record)
    if not any(
      _compute_jaccard(shingles, _make_shingles(kept[candidate])) >= threshold
      for candidate in index.query(signature)
    ):
      index.insert(len(kept), signature)
      kept.append(record)
  return kept


def _choose_bands(threshold: float) -> tuple[int, int]:
  """Returns the number of bands of a signature and of rows in each.

  A pair of similarity s agrees in all r rows of one of b bands with
  probability 1 - (1 - s^r)^b. More rows propose fewer pairs in vain.
  """
  # The library asks for two bands; at `_MIN_THRESHOLD` three rows do.
  for num_rows in range(_NUM_PERMUTATIONS // 2, 1, -1):
    num_bands = _NUM_PERMUTATIONS // num_rows
    if 1 - (1 - threshold**num_rows) ** num_bands >= _MIN_RECALL:
      return num_bands, num_rows
  raise ValueError(f"threshold {threshold}")


def _make_shingles(record: Record) -> set[tuple[str, ...]]:
  return set(list_ngrams(record.input, _SHINGLE_WORDS))


def _encode_shingles(record: Record) -> list[bytes]:
  return [" ".join(shingle).encode() for shingle in _make_shingles(record)]


def _compute_jaccard(a: set[Any], b: set[Any]) -> float:
  union = len(a | b)
  return len(a & b) / union if union else 1.0


def list_ngrams(text: str, size: int) -> list[tuple[str, ...]]:
  """Returns the n-grams of words; all words where they are fewer than one."""
  words = _WORD.findall(text.lower())
  size = min(size, len(words))
  if not size:
    return []
  return list(zip(*(words[start:] for start in range(size)), strict=False))
