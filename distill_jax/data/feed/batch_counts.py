"""What batches hold: tokens, padding, examples.

Counts add up, over batches and over rows of them.
"""

import dataclasses
import operator

import numpy as np

from distill_jax.data.feed import batch as batch_lib


@dataclasses.dataclass(frozen=True)
class BatchCounts:
  """What batches, or some rows of them, hold.

  Attributes:
    tokens: of both sides, not padding.
    places: of tokens, of both sides, padding too.
    segments: of all tasks.
    labels: segments of the label task.
  """

  tokens: int = 0
  places: int = 0
  segments: int = 0
  labels: int = 0

  def __add__(self, other: "BatchCounts") -> "BatchCounts":
    mine, others = dataclasses.astuple(self), dataclasses.astuple(other)
    return BatchCounts(*map(operator.add, mine, others))

  @property
  def examples(self) -> int:
    """Labels, or all segments where there are none.

    A pair counts once, so figures in examples/s compare between methods.
    """
    return self.labels or self.segments

  @property
  def padding_share(self) -> float:
    """Of all places, 0..1."""
    return 1 - self.tokens / self.places


def count(batch: batch_lib.Batch) -> BatchCounts:
  """Counts what a batch holds."""
  all_ids = [
    batch[key]
    for key in (batch_lib.ENCODER_SEGMENT_IDS, batch_lib.DECODER_SEGMENT_IDS)
    if key in batch
  ]
  decoder_ids = batch[batch_lib.DECODER_SEGMENT_IDS]
  starts = (decoder_ids > 0) & (batch[batch_lib.DECODER_POSITIONS] == 0)
  # A label starts where the token before is of another segment or, in a decoder
  # alone, of the inputs.
  is_label = batch[batch_lib.DECODER_TASK_IDS] == batch_lib.LABEL_TASK_ID
  starts_label = is_label.copy()
  starts_label[:, 1:] &= ~is_label[:, :-1] | starts[:, 1:]
  return BatchCounts(
    tokens=sum(int(np.count_nonzero(ids)) for ids in all_ids),
    places=sum(ids.size for ids in all_ids),
    segments=int(np.count_nonzero(starts)),
    labels=int(np.count_nonzero(starts_label)),
  )
