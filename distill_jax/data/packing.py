"""Packs examples into batches of fixed shape.

Layer 1; imports data.batch. Knows no files and no tasks. Grain's own packers
fill rows one example at a time and promise nothing about which batch an
example lands in; the paper's objective needs the label row and the rationale
row of an example in one batch, so what is packed here is a *unit*: segments
that go into the same batch or wait for the next one together.
"""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from distill_jax.data import batch as batch_lib


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


Unit = Sequence[Segment]


@dataclasses.dataclass(frozen=True)
class PackingConfig:
  """Shape of a batch and how full it may get.

  Attributes:
    batch_rows: rows of a batch, over all hosts.
    encoder_length: tokens a row on the encoder side.
    decoder_length: tokens a row on the decoder side.
    max_segments_per_row: 1 puts each segment in a row of its own (padding
      instead of packing); None packs as many as fit.
    max_examples_per_batch: a batch is full at this many units even when more
      would fit; None: no such limit. With it, two methods whose rows differ in
      length still see equally many examples a step.
  """

  batch_rows: int
  encoder_length: int
  decoder_length: int
  max_segments_per_row: int | None = None
  max_examples_per_batch: int | None = None

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value is not None and value < 1:
        raise ValueError(f"{field.name} is {value}; it must be at least 1")


class BatchPacker:
  """Fills one batch, first row that fits first."""

  def __init__(self, config: PackingConfig):
    self._config = config
    # Places left in each row; none once it has all the segments it may.
    self._encoder_free = np.full(config.batch_rows, config.encoder_length)
    self._decoder_free = np.full(config.batch_rows, config.decoder_length)
    self._num_segments = [0] * config.batch_rows
    self._num_units = 0
    self._placed: list[tuple[int, Segment]] = []  # Row and segment, in order.

  def add(self, unit: Unit) -> bool:
    """Adds all segments of a unit, or none of them.

    Args:
      unit: segments that belong in one batch.

    Returns:
      Whether the unit found room.
    """
    if self._num_units == self._config.max_examples_per_batch:
      return False
    taken = []
    for segment in unit:
      num_inputs, num_targets = len(segment.inputs), len(segment.targets)
      fits = self._encoder_free >= num_inputs
      fits &= self._decoder_free >= num_targets
      row = int(fits.argmax())
      if not fits[row]:
        self._give_back(taken)
        return False
      taken.append((row, self._encoder_free[row], self._decoder_free[row]))
      self._encoder_free[row] -= num_inputs
      self._decoder_free[row] -= num_targets
      self._num_segments[row] += 1
      if self._num_segments[row] == self._config.max_segments_per_row:
        self._encoder_free[row] = -1
      self._placed.append((row, segment))
    self._num_units += 1
    return True

  def _give_back(self, taken: list[tuple[int, np.integer, np.integer]]) -> None:
    """Takes the last segments out of their rows again."""
    for row, encoder_free, decoder_free in reversed(taken):
      self._encoder_free[row] = encoder_free
      self._decoder_free[row] = decoder_free
      self._num_segments[row] -= 1
      self._placed.pop()

  @property
  def num_units(self) -> int:
    """Units added so far."""
    return self._num_units

  def make_batch(self) -> batch_lib.Batch:
    """Writes the batch as filled so far; see `data.batch` for keys, shapes."""
    config = self._config
    batch = batch_lib.make_empty_batch(
      config.batch_rows, config.encoder_length, config.decoder_length
    )
    # All segments at once: a row's lie side by side, in their order.
    placed = sorted(self._placed, key=operator.itemgetter(0))
    if not placed:
      return batch
    rows = np.array([row for row, _ in placed])
    segments = [segment for _, segment in placed]
    segment_ids = np.arange(len(rows)) - np.searchsorted(rows, rows) + 1

    side = _Side([s.inputs for s in segments], rows, config.encoder_length)
    side.write(batch[batch_lib.ENCODER_INPUT_TOKENS], side.tokens)
    side.write(batch[batch_lib.ENCODER_POSITIONS], side.positions)
    side.write_each(batch[batch_lib.ENCODER_SEGMENT_IDS], segment_ids)

    side = _Side([s.targets for s in segments], rows, config.decoder_length)
    side.write(batch[batch_lib.DECODER_TARGET_TOKENS], side.tokens)
    side.write(batch[batch_lib.DECODER_POSITIONS], side.positions)
    side.write_each(batch[batch_lib.DECODER_SEGMENT_IDS], segment_ids)
    # The decoder starts from padding (id 0) anew in each segment.
    previous = np.where(side.positions == 0, 0, np.roll(side.tokens, 1))
    side.write(batch[batch_lib.DECODER_INPUT_TOKENS], previous)
    weights = [s.weight for s in segments]
    side.write_each(batch[batch_lib.DECODER_LOSS_WEIGHTS], weights)
    task_ids = [s.task_id for s in segments]
    side.write_each(batch[batch_lib.DECODER_TASK_IDS], task_ids)
    return batch

  @property
  def example_ids(self) -> list[list[str]]:
    """For each row the ids of its segments, in their order."""
    ids: list[list[str]] = [[] for _ in range(self._config.batch_rows)]
    for row, segment in self._placed:
      ids[row].append(segment.example_id)
    return ids


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
    self.positions = np.arange(len(self.tokens)) - self._repeat(starts)
    self._places = self._repeat(rows * length + in_row) + self.positions

  def _repeat(self, values: Any) -> np.ndarray:
    return np.repeat(np.asarray(values), self._lengths)

  def write(self, array: np.ndarray, values: np.ndarray) -> None:
    """Writes a value for each token, [num_tokens], into [rows, length]."""
    array.reshape(-1)[self._places] = values

  def write_each(self, array: np.ndarray, values: Any) -> None:
    """Writes one for each segment's tokens, [num_segments]."""
    self.write(array, self._repeat(values))


class PackIterDataset(grain.IterDataset):
  """Packs a Grain data set of units into batches."""

  def __init__(
    self,
    parent: grain.IterDataset,
    config: PackingConfig,
    with_example_ids: bool = False,
  ):
    """Wraps a data set.

    Args:
      parent: of units.
      config: shape of the batches.
      with_example_ids: whether batches have `EXAMPLE_IDS` besides the arrays.
    """
    super().__init__(parent)
    self._config, self._with_example_ids = config, with_example_ids

  def __iter__(self) -> grain.DatasetIterator:
    return _PackDatasetIterator(
      iter(self._parent), self._config, self._with_example_ids
    )

  def __str__(self) -> str:
    return f"PackIterDataset({self._config})"


class _PackDatasetIterator(grain.DatasetIterator):
  """Its state is the parent's state before the first unit of the next batch.

  So nothing half-packed is ever saved: the unit that did not fit is read again.
  """

  def __init__(
    self,
    parent: grain.DatasetIterator,
    config: PackingConfig,
    with_example_ids: bool,
  ):
    super().__init__(parent)
    self._config, self._with_example_ids = config, with_example_ids
    self._overflow: Unit | None = None
    self._overflow_state = None

  def __next__(self) -> dict[str, Any]:
    packer = BatchPacker(self._config)
    if self._overflow is not None:
      self._add_first(packer, self._overflow)
      self._overflow = self._overflow_state = None
    while True:
      state = self._parent.get_state()
      try:
        unit = next(self._parent)
      except StopIteration:
        if packer.num_units:
          return self._take_batch(packer)
        raise
      if packer.num_units == 0:
        self._add_first(packer, unit)
      elif not packer.add(unit):
        self._overflow, self._overflow_state = unit, state
        return self._take_batch(packer)

  def _take_batch(self, packer: BatchPacker) -> dict[str, Any]:
    batch = packer.make_batch()
    if not self._with_example_ids:
      return batch
    return {**batch, batch_lib.EXAMPLE_IDS: packer.example_ids}

  def _add_first(self, packer: BatchPacker, unit: Unit) -> None:
    if not packer.add(unit):
      raise ValueError(
        f"an example of {len(unit)} segments does not fit an empty batch of"
        f" {self._config}; give more rows or longer ones"
      )

  def get_state(self):
    if self._overflow is not None:
      return self._overflow_state
    return self._parent.get_state()

  def set_state(self, state) -> None:
    self._overflow = self._overflow_state = None
    self._parent.set_state(state)
