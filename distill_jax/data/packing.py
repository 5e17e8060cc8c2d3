"""Packs examples into batches of fixed shape.

Layer 1; imports data.batch. Knows no files and no tasks. Grain's own packers
fill rows one example at a time and promise nothing about which batch an
example lands in; the paper's objective needs the label row and the rationale
row of an example in one batch, so what is packed here is a *unit*: segments
that go into the same batch or wait for the next one together.
"""

import dataclasses
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
    self._batch = batch_lib.make_empty_batch(
      config.batch_rows, config.encoder_length, config.decoder_length
    )
    self._encoder_used = np.zeros(config.batch_rows, np.int32)
    self._decoder_used = np.zeros(config.batch_rows, np.int32)
    self._segments = np.zeros(config.batch_rows, np.int32)
    self._num_units = 0
    self._example_ids: list[list[str]] = [[] for _ in range(config.batch_rows)]

  def add(self, unit: Unit) -> bool:
    """Adds all segments of a unit, or none of them.

    Args:
      unit: segments that belong in one batch.

    Returns:
      Whether the unit found room.
    """
    if self._num_units == self._config.max_examples_per_batch:
      return False
    undo = (
      self._encoder_used.copy(),
      self._decoder_used.copy(),
      self._segments.copy(),
    )
    placed = []
    for segment in unit:
      row = self._find_row(segment)
      if row is None:
        self._encoder_used, self._decoder_used, self._segments = undo
        return False
      placed.append(
        (segment, row, self._encoder_used[row], self._decoder_used[row])
      )
      self._encoder_used[row] += len(segment.inputs)
      self._decoder_used[row] += len(segment.targets)
      self._segments[row] += 1
      placed[-1] += (self._segments[row],)
    for placement in placed:
      self._write(*placement)
    self._num_units += 1
    return True

  def _find_row(self, segment: Segment) -> int | None:
    config = self._config
    fits = self._encoder_used + len(segment.inputs) <= config.encoder_length
    fits &= self._decoder_used + len(segment.targets) <= config.decoder_length
    if config.max_segments_per_row is not None:
      fits &= self._segments < config.max_segments_per_row
    row = int(np.argmax(fits))
    return row if fits[row] else None

  def _write(self, segment, row, encoder_start, decoder_start, segment_id):
    inputs, targets, batch = segment.inputs, segment.targets, self._batch
    place = (row, slice(encoder_start, encoder_start + len(inputs)))
    batch[batch_lib.ENCODER_INPUT_TOKENS][place] = inputs
    batch[batch_lib.ENCODER_SEGMENT_IDS][place] = segment_id
    batch[batch_lib.ENCODER_POSITIONS][place] = np.arange(len(inputs))
    place = (row, slice(decoder_start, decoder_start + len(targets)))
    batch[batch_lib.DECODER_TARGET_TOKENS][place] = targets
    # The decoder starts from padding (id 0) anew in each segment.
    batch[batch_lib.DECODER_INPUT_TOKENS][place] = np.roll(targets, 1)
    batch[batch_lib.DECODER_INPUT_TOKENS][row, decoder_start] = 0
    batch[batch_lib.DECODER_LOSS_WEIGHTS][place] = segment.weight
    batch[batch_lib.DECODER_SEGMENT_IDS][place] = segment_id
    batch[batch_lib.DECODER_POSITIONS][place] = np.arange(len(targets))
    batch[batch_lib.DECODER_TASK_IDS][place] = segment.task_id
    self._example_ids[row].append(segment.example_id)

  @property
  def num_units(self) -> int:
    """Units added so far."""
    return self._num_units

  @property
  def batch(self) -> batch_lib.Batch:
    """The batch as filled so far; see `data.batch` for keys and shapes."""
    return self._batch

  @property
  def example_ids(self) -> list[list[str]]:
    """For each row the ids of its segments, in their order."""
    return self._example_ids


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
    if not self._with_example_ids:
      return packer.batch
    return {**packer.batch, batch_lib.EXAMPLE_IDS: packer.example_ids}

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
