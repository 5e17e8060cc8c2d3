"""As many records of one class as of another, or weights to that end."""

import collections
import dataclasses
import math
import random
from collections.abc import Sequence
from typing import Literal

from distill_jax.answers import equality
from distill_jax.data.records import Record
from distill_jax.errors import UserError

_MAX_CLASSES = 50


def balance_classes(
  records: Sequence[Record],
  class_balance: Literal["over", "under", "weights"],
  balance_by: str,
  seed: int,
  metric: equality.LabelMetric = "exact_match",
  label_set: Sequence[str] | None = None,
) -> list[Record]:
  """Balances the classes; records without a class stay as they are.

  Labels that are equal, as `equality` says, are one class.

  Args:
    records: any records.
    class_balance: "over" repeats those of rare classes, "under" leaves some of
      frequent ones out, "weights" multiplies the records' weights.
    balance_by: the field whose texts are the classes.
    seed: of the draws.
    metric: of the labels, see `equality.make_key`.
    label_set: the closed set, where there is one; a text outside it is a class
      of its own.

  Returns:
    The records. The id of a copy is that of its original with "-copy-1" and so
    on behind it, so that ids stay unique.

  Raises:
    UserError: there are more classes than any closed set has.
  """
  texts = [getattr(record, balance_by) for record in records]
  classes = _name_classes(texts, metric, label_set)
  counts = collections.Counter(label for label in classes if label is not None)
  if len(counts) > _MAX_CLASSES:
    raise UserError(
      f"class_balance is {class_balance!r}, and {balance_by} has"
      f" {len(counts)} different values, too many for classes (at most"
      f" {_MAX_CLASSES}). Balance labels of a closed set only."
    )
  if not counts:
    return list(records)
  if class_balance == "weights":
    return _weigh(records, classes)
  is_over = class_balance == "over"
  target = max(counts.values()) if is_over else min(counts.values())
  num_times = _draw_times(classes, target, seed)
  known_ids = {record.id for record in records}
  balanced = []
  for record, times in zip(records, num_times, strict=True):
    balanced += [record][:times]
    for number in range(1, times):
      copy_id = f"{record.id}-copy-{number}"
      while copy_id in known_ids:
        copy_id += "x"
      known_ids.add(copy_id)
      balanced.append(dataclasses.replace(record, id=copy_id))
  return balanced


def _name_classes(
  texts: Sequence[str | None],
  metric: equality.LabelMetric,
  label_set: Sequence[str] | None,
) -> list[str | None]:
  """Returns for each text its class, by the first of its spellings in order."""
  keys = {
    text: (equality.make_key(text, metric, label_set), "")
    for text in texts
    if text is not None
  }
  keys = {
    text: (None, text) if key[0] is None else key for text, key in keys.items()
  }
  names = {}
  for text in sorted(keys):
    names.setdefault(keys[text], text)
  return [None if text is None else names[keys[text]] for text in texts]


def _weigh(
  records: Sequence[Record], classes: Sequence[str | None]
) -> list[Record]:
  """Gives all classes the same sum of weights; the sum of all stays."""
  sums: collections.defaultdict[str, float] = collections.defaultdict(float)
  for record, label in zip(records, classes, strict=True):
    if label is not None:
      sums[label] += record.weight
  mean = math.fsum(sums.values()) / len(sums)
  return [
    record
    if label is None
    else dataclasses.replace(record, weight=record.weight * mean / sums[label])
    for record, label in zip(records, classes, strict=True)
  ]


def _draw_times(
  classes: Sequence[str | None], target: int, seed: int
) -> list[int]:
  """Returns how often each record is to stand, `target` in all for a class."""
  places = collections.defaultdict(list)
  for place, label in enumerate(classes):
    if label is not None:
      places[label].append(place)
  num_times = [1] * len(classes)
  # By name, so that the order of the records decides no draw of a class.
  for label in sorted(places):
    # A string seeds through SHA-512: the same stream in every process.
    rng = random.Random(f"class_balance {seed} {label}")
    times, num_more = divmod(target, len(places[label]))
    for place in places[label]:
      num_times[place] = times
    for place in rng.sample(places[label], num_more):
      num_times[place] += 1
  return num_times
