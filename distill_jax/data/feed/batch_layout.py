"""Which arrays a batch has, and how its examples lie in them.

Two layouts: a model with an encoder and a decoder takes inputs and targets in
rows of their own, a decoder alone takes them one behind the other in one row.
The names of the arrays are SeqIO's of `EncDecFeatureConverter` and of
`DecoderFeatureConverter`.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from distill_jax.data.feed import batch as batch_lib


@dataclasses.dataclass(frozen=True)
class Segment:
  """One example, trimmed to fit a row.

  Attributes:
    inputs: [input_length] int32.
    targets: [target_length] int32, EOS included.
    task_id: `LABEL_TASK_ID` or `RATIONALE_TASK_ID`.
    example_id: of the record it was made from.
    weight: of its targets' tokens in the loss.
  """

  inputs: np.ndarray
  targets: np.ndarray
  task_id: int
  example_id: str = ""
  weight: float = 1.0


class BatchLayout(abc.ABC):
  """The arrays of a batch.

  Attributes:
    keys: all of them, of `data.feed.batch`.
    input_keys: those that decoding reads: an example's inputs.
  """

  keys: tuple[str, ...]
  input_keys: tuple[str, ...]

  @abc.abstractmethod
  def list_room(self, input_length: int, target_length: int) -> list[int]:
    """Returns how many tokens a row has room for, by kinds of room.

    Args:
      input_length: tokens of a row's inputs.
      target_length: tokens of a row's targets.
    """

  @abc.abstractmethod
  def list_needed(self, segment: Segment) -> list[int]:
    """Returns how many tokens a segment takes, by kinds of room."""

  @abc.abstractmethod
  def write(
    self,
    batch: batch_lib.Batch,
    segments: Sequence[Segment],
    rows: np.ndarray,
  ) -> None:
    """Writes all segments of a batch.

    Args:
      batch: an empty one.
      segments: at least one.
      rows: [num_segments], ascending: the row of each.
    """

  @abc.abstractmethod
  def make_empty_batch(
    self, batch_rows: int, input_length: int, target_length: int
  ) -> batch_lib.Batch:
    """Returns a batch of nothing but padding.

    Args:
      batch_rows: rows of the batch.
      input_length: tokens of a row's inputs.
      target_length: tokens of a row's targets.

    Returns:
      Every array, [batch_rows, length] int32 (the loss weights float32).
    """

  def make_example(self) -> batch_lib.Batch:
    """Returns a small batch to initialize a model with: ones everywhere."""
    batch = self.make_empty_batch(1, 2, 2)
    return {key: np.ones_like(value) for key, value in batch.items()}

  def select_inputs(self, batch: Any) -> dict[str, Any]:
    """Returns the part of a batch that decoding reads.

    Args:
      batch: a mapping with the layout's keys.
    """
    return {key: batch[key] for key in self.input_keys}


class _EncoderDecoderLayout(BatchLayout):
  """Inputs in the encoder's rows, targets in the decoder's."""

  keys = batch_lib.ENCODER_KEYS + batch_lib.DECODER_KEYS
  input_keys = (batch_lib.ENCODER_INPUT_TOKENS, batch_lib.ENCODER_SEGMENT_IDS)

  def list_room(self, input_length: int, target_length: int) -> list[int]:
    return [input_length, target_length]

  def list_needed(self, segment: Segment) -> list[int]:
    return [len(segment.inputs), len(segment.targets)]

  def make_empty_batch(
    self, batch_rows: int, input_length: int, target_length: int
  ) -> batch_lib.Batch:
    return batch_lib.make_empty_batch(batch_rows, input_length, target_length)

  def write(
    self,
    batch: batch_lib.Batch,
    segments: Sequence[Segment],
    rows: np.ndarray,
  ) -> None:
    segment_ids = _number_segments(rows)
    tokens = batch[batch_lib.ENCODER_INPUT_TOKENS]
    side = _Side([s.inputs for s in segments], rows, tokens.shape[1])
    side.write(tokens, side.tokens)
    side.write(batch[batch_lib.ENCODER_POSITIONS], side.positions)
    side.write_each(batch[batch_lib.ENCODER_SEGMENT_IDS], segment_ids)
    side = _write_decoder(batch, [s.targets for s in segments], rows)
    weights = [s.weight for s in segments]
    side.write_each(batch[batch_lib.DECODER_LOSS_WEIGHTS], weights)
    task_ids = [s.task_id for s in segments]
    side.write_each(batch[batch_lib.DECODER_TASK_IDS], task_ids)


class _DecoderLayout(BatchLayout):
  """Inputs, then targets, in one row. The loss is on the targets alone."""

  keys = batch_lib.DECODER_KEYS
  # Where a row has one target token, its decoder inputs are what decoding is
  # given: the shifted inputs, with the last of them at the target's place.
  input_keys = (
    batch_lib.DECODER_INPUT_TOKENS,
    batch_lib.DECODER_SEGMENT_IDS,
    batch_lib.DECODER_POSITIONS,
  )

  def list_room(self, input_length: int, target_length: int) -> list[int]:
    return [input_length + target_length]

  def list_needed(self, segment: Segment) -> list[int]:
    return [len(segment.inputs) + len(segment.targets)]

  def make_empty_batch(
    self, batch_rows: int, input_length: int, target_length: int
  ) -> batch_lib.Batch:
    batch = batch_lib.make_empty_batch(
      batch_rows, 1, input_length + target_length
    )
    return {key: batch[key] for key in self.keys}

  def write(
    self,
    batch: batch_lib.Batch,
    segments: Sequence[Segment],
    rows: np.ndarray,
  ) -> None:
    side = _write_decoder(
      batch, [np.concatenate([s.inputs, s.targets]) for s in segments], rows
    )
    # A token of the inputs weighs nothing and is of no task.
    input_lengths = [len(s.inputs) for s in segments]
    is_target = side.positions >= side.repeat(input_lengths)
    for key, values in (
      (batch_lib.DECODER_LOSS_WEIGHTS, [s.weight for s in segments]),
      (batch_lib.DECODER_TASK_IDS, [s.task_id for s in segments]),
    ):
      side.write(batch[key], side.repeat(values) * is_target)


def _number_segments(rows: np.ndarray) -> np.ndarray:
  """Returns the number of each segment in its row, from 1."""
  return np.arange(len(rows)) - np.searchsorted(rows, rows) + 1


def _write_decoder(
  batch: batch_lib.Batch, sequences: list[np.ndarray], rows: np.ndarray
) -> "_Side":
  """Writes what the decoder reads and predicts, and returns where it lies."""
  tokens = batch[batch_lib.DECODER_TARGET_TOKENS]
  side = _Side(sequences, rows, tokens.shape[1])
  side.write(tokens, side.tokens)
  side.write(batch[batch_lib.DECODER_POSITIONS], side.positions)
  segment_ids = _number_segments(rows)
  side.write_each(batch[batch_lib.DECODER_SEGMENT_IDS], segment_ids)
  # The decoder starts from padding (id 0) anew in each segment.
  previous = np.where(side.positions == 0, 0, np.roll(side.tokens, 1))
  side.write(batch[batch_lib.DECODER_INPUT_TOKENS], previous)
  return side


class _Side:
  """Where the tokens of one side, of all segments, go in [rows, length].

  Attributes:
    tokens: [num_tokens], of all segments.
    positions: [num_tokens], each within its segment.
  """

  def __init__(self, tokens: list[np.ndarray], rows: np.ndarray, length: int):
    """Finds the places.

    Args:
      tokens: of each segment.
      rows: [num_segments], ascending.
      length: of a row.
    """
    self.tokens = np.concatenate(tokens)
    self._lengths = np.array([len(t) for t in tokens])
    starts = np.cumsum(self._lengths) - self._lengths
    in_row = starts - starts[np.searchsorted(rows, rows)]
    self.positions = np.arange(len(self.tokens)) - self.repeat(starts)
    self._places = self.repeat(rows * length + in_row) + self.positions

  def repeat(self, values: Any) -> np.ndarray:
    """Returns one for each segment's tokens, [num_tokens]."""
    return np.repeat(np.asarray(values), self._lengths)

  def write(self, array: np.ndarray, values: np.ndarray) -> None:
    """Writes a value for each token, [num_tokens], into [rows, length]."""
    array.reshape(-1)[self._places] = values

  def write_each(self, array: np.ndarray, values: Any) -> None:
    """Writes one for each segment's tokens, [num_segments]."""
    self.write(array, self.repeat(values))


ENCODER_DECODER: BatchLayout = _EncoderDecoderLayout()
DECODER: BatchLayout = _DecoderLayout()
