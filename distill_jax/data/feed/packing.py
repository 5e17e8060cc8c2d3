"""Packs examples into batches of fixed shape.

Knows no files and no tasks. Grain's own packers fill rows one example at a time
and promise nothing about which batch an example lands in; the paper's objective
needs the label row and the rationale row of an example in one batch, so what is
packed here is a *unit*: segments that go into the same batch or wait for the
next one together.
"""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import batch_layout
from distill_jax.data.feed.batch_layout import BatchLayout, Segment

Unit = Sequence[Segment]


@dataclasses.dataclass(frozen=True)
class PackingConfig:
  """Shape of a batch and how full it may get.

  Attributes:
    batch_rows: rows of a batch, over all hosts.
    encoder_length: tokens of a row's inputs.
    decoder_length: tokens of a row's targets.
    max_segments_per_row: 1 puts each segment in a row of its own (padding
      instead of packing); None packs as many as fit.
    max_examples_per_batch: a batch is full at this many units even when more
      would fit; None: no such limit. With it, two methods whose rows differ in
      length still see equally many examples a step.
    layout: the arrays of a batch, and where segments go in them.
  """

  batch_rows: int
  encoder_length: int
  decoder_length: int
  max_segments_per_row: int | None = None
  max_examples_per_batch: int | None = None
  layout: BatchLayout = batch_layout.ENCODER_DECODER

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, int) and value < 1:
        raise ValueError(f"{field.name} is {value}; it must be at least 1")


class BatchPacker:
  """Fills one batch, first row that fits first."""

  def __init__(self, config: PackingConfig):
    self._config = config
    # Places left in each row, for each kind of room that the layout has; none
    # once a row has all the segments it may.
    self._free = [
      np.full(config.batch_rows, length)
      for length in config.layout.list_room(
        config.encoder_length, config.decoder_length
      )
    ]
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
      needed = self._config.layout.list_needed(segment)
      fits = self._free[0] >= needed[0]
      for free, length in zip(self._free[1:], needed[1:], strict=True):
        fits &= free >= length
      row = int(fits.argmax())
      if not fits[row]:
        self._give_back(taken)
        return False
      taken.append((row, [free[row] for free in self._free]))
      for free, length in zip(self._free, needed, strict=True):
        free[row] -= length
      self._num_segments[row] += 1
      if self._num_segments[row] == self._config.max_segments_per_row:
        self._free[0][row] = -1
      self._placed.append((row, segment))
    self._num_units += 1
    return True

  def _give_back(self, taken: list[tuple[int, list[Any]]]) -> None:
    """Takes the last segments out of their rows again."""
    for row, lengths in reversed(taken):
      for free, length in zip(self._free, lengths, strict=True):
        free[row] = length
      self._num_segments[row] -= 1
      self._placed.pop()

  @property
  def num_units(self) -> int:
    """Units added so far."""
    return self._num_units

  def make_batch(self) -> batch_lib.Batch:
    """Writes the batch as filled so far, with the keys of `data.feed.batch`."""
    config = self._config
    batch = config.layout.make_empty_batch(
      config.batch_rows, config.encoder_length, config.decoder_length
    )
    # All segments at once: a row's lie side by side, in their order.
    placed = sorted(self._placed, key=operator.itemgetter(0))
    if placed:
      rows = np.array([row for row, _ in placed])
      config.layout.write(batch, [segment for _, segment in placed], rows)
    return batch

  @property
  def example_ids(self) -> list[list[str]]:
    """For each row the ids of its segments, in their order."""
    ids: list[list[str]] = [[] for _ in range(self._config.batch_rows)]
    for row, segment in self._placed:
      ids[row].append(segment.example_id)
    return ids


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
