"""The placebo: every training example with the rationale of another one.

A student that gains as much by these does not gain by what the rationales say.
"""

import dataclasses
import random
from collections.abc import Sequence

from distill_jax.data.records import Record

# Enough to find one to exchange with wherever such are at all frequent.
_MAX_TRIES = 1000


def shuffle(records: Sequence[Record]) -> list[Record]:
  """Permutes the rationales of records, the same way every time.

  No record keeps its own rationale, nor gets one of the same words, as long as
  no rationale is that of more than half of the records. Records without one
  stay without one. Only rationales move: teacher, teacher label and status tell
  how the question of the record was answered.

  Args:
    records: of one split.

  Returns:
    The records in their order.
  """
  places = [
    place
    for place, record in enumerate(records)
    if record.rationale is not None
  ]
  own = [records[place].rationale for place in places]
  # A string seeds through SHA-512: the same draw in every process.
  rng = random.Random("shuffled rationales")
  given = list(own)
  rng.shuffle(given)
  for index, text in enumerate(own):
    if given[index] != text:
      continue
    for other in rng.sample(range(len(own)), min(len(own), _MAX_TRIES)):
      if given[other] != text and own[other] != text:
        given[index], given[other] = given[other], text
        break
  shuffled = list(records)
  for place, rationale in zip(places, given, strict=True):
    shuffled[place] = dataclasses.replace(records[place], rationale=rationale)
  return shuffled
