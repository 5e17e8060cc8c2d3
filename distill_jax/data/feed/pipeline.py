"""From a token cache to batches: shuffle, pair or mix, trim, pack, prefetch.

Built on Grain, whose iterator state goes into the checkpoint. A host makes
global batches, or those of their shards that its devices need, and hands its
devices their slices (`partitioning.sharding.to_global`). The order of examples
does not depend on how many hosts there are, so a run may resume on another
topology.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from distill_jax.config import declaration
from distill_jax.config.declaration import field
from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import batch_layout, packing
from distill_jax.data.feed import shards as shards_lib
from distill_jax.data.token_cache import Example, TaskInfo, TokenCache
from distill_jax.data.token_table import TokenRow, TokenTable
from distill_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class FeedConfig:
  """How examples become batches."""

  feature_lengths: Mapping[str, int] = field(
    macro="TASK_FEATURE_LENGTHS",
    gin_text="{'inputs': 256, 'targets': 128}",
    is_common=True,
    help="tokens of a packed row; a longer example is trimmed to them, keeping"
    " its EOS",
  )
  batch_rows: int = field(
    macro="BATCH_SIZE",
    gin_text="32",
    least=1,
    is_common=True,
    help="rows of a step, over all devices and hosts",
  )
  pairing: str = field(
    "paired",
    macro="PAIRING",
    one_of=("paired", "mixed"),
    help="'paired' puts the label row and the rationale row of an example into"
    " one batch (the paper's objective); 'mixed' draws rows of the tasks by"
    " their mixture rates (plain T5X)",
  )
  packed: bool = field(
    True,
    macro="PACKED",
    help="several examples a row; False pads each row instead",
  )
  max_examples_per_batch: int | None = field(
    None,
    macro="MAX_EXAMPLES_PER_BATCH",
    least=1,
    help="examples of a batch at most; None: as many as fit",
  )
  seed: int = field(0, macro="SEED", least=0, help="order of the examples")
  num_shards: int = field(
    1,
    macro="DATA_SHARDS",
    least=1,
    help="parts of a batch that are packed by themselves, for several hosts to"
    " share; BATCH_SIZE and MAX_EXAMPLES_PER_BATCH divide by it",
  )

  def __post_init__(self):
    declaration.check(self)
    lengths = self.feature_lengths
    name = declaration.name_of(self, "feature_lengths")
    if set(lengths) != {"inputs", "targets"}:
      raise UserError(
        f"{name} is {dict(lengths)}; it must give 'inputs' and 'targets', e.g."
        " {'inputs': 256, 'targets': 64}."
      )
    for feature, length in lengths.items():
      if length < 1:
        raise UserError(
          f"{name}[{feature!r}] is {length!r}; it must be a whole number >= 1."
        )
    for field_name in ("batch_rows", "max_examples_per_batch"):
      value = getattr(self, field_name)
      if value is not None and value % self.num_shards:
        name = declaration.name_of(self, field_name)
        raise UserError(
          f"{name} is {value} and {declaration.name_of(self, 'num_shards')}"
          f" {self.num_shards}; the shards of a batch are equal, so {name} must"
          " divide by their number."
        )

  @property
  def packing(self) -> packing.PackingConfig:
    """The shape of what is packed at once: a batch, or a shard of it."""
    limit = self.max_examples_per_batch
    return packing.PackingConfig(
      batch_rows=self.batch_rows // self.num_shards,
      encoder_length=self.feature_lengths["inputs"],
      decoder_length=self.feature_lengths["targets"],
      max_segments_per_row=None if self.packed else 1,
      max_examples_per_batch=None
      if limit is None
      else limit // self.num_shards,
    )


def make_train_iterator(
  cache: TokenCache,
  config: FeedConfig,
  split: str = "train",
  with_example_ids: bool = False,
  put_fn: Callable[[batch_lib.Batch], Any] | None = None,
  shards: Sequence[int] | None = None,
  layout: batch_layout.BatchLayout = batch_layout.ENCODER_DECODER,
) -> grain.DatasetIterator:
  """Returns an endless iterator of training batches.

  Reads the split's tokens into memory first.

  Args:
    cache: where the tokens are.
    config: see `FeedConfig`.
    split: which split to train on.
    with_example_ids: whether batches have `batch.EXAMPLE_IDS` besides the
      arrays: for each row the ids of its segments; padding has none.
    put_fn: puts a batch on the devices. It runs in the prefetching thread, two
      batches ahead, so that a transfer overlaps the steps before it.
    shards: of `config.num_shards`, those to make; None: all. The other rows of
      a batch are padding.
    layout: the arrays of a batch; the student's.

  Returns:
    A Grain iterator of numpy batches (`data.feed.batch`), [batch_rows, length]
    each, or with `put_fn` of pairs (batch, what `put_fn` returned for it).
    `get_state` and `set_state` resume it exactly, after the last batch taken,
    whatever was prefetched. With several shards the state has an entry for each
    that is made, and may be set from one that has more.

  Raises:
    UserError: "paired" was asked for with a mixture that has not exactly one
      label task and at most one rationale task; or the split is empty; or a
      pair cannot fit in a batch.
  """
  if config.pairing == "paired":
    streams, rates = [_paired_units(cache, config, split, layout)], [1.0]
  else:
    streams, rates = _task_units(cache, config, split)
  # Threads of Grain's would read ahead what is in memory, one by one.
  options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)

  packing_config = dataclasses.replace(config.packing, layout=layout)

  def pack(units: Sequence[grain.MapDataset]) -> grain.IterDataset:
    dataset = _mix(units, rates).to_iter_dataset(options)
    return packing.PackIterDataset(dataset, packing_config, with_example_ids)

  if config.num_shards == 1:
    dataset = pack(streams)
  else:
    # Each task by itself: every `num_shards`th of a mixture may be of one task.
    made = {
      shard: pack([stream[shard :: config.num_shards] for stream in streams])
      for shard in (range(config.num_shards) if shards is None else shards)
    }
    dataset = shards_lib.ShardsIterDataset(made, config.num_shards)
  if put_fn is not None:
    dataset = dataset.map(lambda batch: (batch, put_fn(batch)))
  dataset = grain.experimental.ThreadPrefetchIterDataset(
    dataset, prefetch_buffer_size=2
  )
  return iter(dataset)


def make_eval_batches(
  examples: Sequence[Example],
  info: TaskInfo,
  feature_lengths: Mapping[str, int],
  batch_rows: int,
  layout: batch_layout.BatchLayout = batch_layout.ENCODER_DECODER,
) -> Iterator[tuple[batch_lib.Batch, list[Example]]]:
  """Yields each example once, in order, one a row, the last batch padded.

  Args:
    examples: of one task and split.
    info: the task.
    feature_lengths: {'inputs': ..., 'targets': ...}; longer ones are trimmed.
    batch_rows: rows a batch.
    layout: the arrays of a batch; the student's.

  Yields:
    The batch, and the examples in its first rows; later rows are padding. All
    target tokens have loss weight 1.
  """
  config = packing.PackingConfig(
    batch_rows=batch_rows,
    encoder_length=feature_lengths["inputs"],
    decoder_length=feature_lengths["targets"],
    max_segments_per_row=1,
    layout=layout,
  )
  for start in range(0, len(examples), batch_rows):
    rows = [
      examples[index]
      for index in range(start, min(start + batch_rows, len(examples)))
    ]
    packer = packing.BatchPacker(config)
    for example in rows:
      # Metrics of evaluation are means over examples, whatever they weigh.
      packer.add([_to_segment(example, info, feature_lengths, weight=1.0)])
    yield packer.make_batch(), rows


def take(examples: Sequence[Example], limit: int | None) -> list[Example]:
  """Returns the first `limit` examples, all of them for None."""
  count = len(examples) if limit is None else min(limit, len(examples))
  return [examples[index] for index in range(count)]


def _to_segment(
  example: Example | TokenRow,
  info: TaskInfo,
  feature_lengths: Mapping[str, int],
  weight: float,
) -> packing.Segment:
  is_rationale = info.kind == "rationale"
  return packing.Segment(
    inputs=_trim(example.inputs, feature_lengths["inputs"]),
    targets=_trim(example.targets, feature_lengths["targets"]),
    task_id=(
      batch_lib.RATIONALE_TASK_ID if is_rationale else batch_lib.LABEL_TASK_ID
    ),
    example_id=example.id,
    weight=weight,
  )


def _trim(tokens: np.ndarray, length: int) -> np.ndarray:
  """Trims to `length` and keeps the last token, which is EOS.

  Source: SeqIO `append_eos_after_trim`; the authors' tokenizer does the same.
  """
  if len(tokens) <= length:
    return tokens
  return np.concatenate([tokens[: length - 1], tokens[-1:]])


class _PairSource:
  """Random access to units: the label and the rationale of one record."""

  def __init__(
    self,
    labels: TokenTable,
    rationales: TokenTable | None,
    make_label,
    make_rationale,
  ):
    self._labels, self._rationales = labels, rationales or TokenTable([])
    self._make_label, self._make_rationale = make_label, make_rationale
    # Rows without a rationale (dropped, or never written) go without one.
    self._rationale_index = {
      example_id: index for index, example_id in enumerate(self._rationales.ids)
    }
    # A rationale may stand alone too: its label was missing or not parsed.
    label_ids = set(labels.ids)
    self._alone = [
      index
      for example_id, index in self._rationale_index.items()
      if example_id not in label_ids
    ]

  def __len__(self) -> int:
    return len(self._labels) + len(self._alone)

  def __getitem__(self, index: int) -> packing.Unit:
    if index >= len(self._labels):
      alone = self._alone[index - len(self._labels)]
      return [self._make_rationale(self._rationales[alone])]
    label = self._labels[index]
    unit = [self._make_label(label)]
    rationale_index = self._rationale_index.get(label.id)
    if rationale_index is not None:
      unit.append(self._make_rationale(self._rationales[rationale_index]))
    return unit


def _paired_units(
  cache: TokenCache,
  config: FeedConfig,
  split: str,
  layout: batch_layout.BatchLayout,
) -> grain.MapDataset:
  label_tasks = [n for n, t in cache.tasks.items() if t.kind != "rationale"]
  rationale_tasks = [n for n, t in cache.tasks.items() if t.kind == "rationale"]
  if not label_tasks and len(rationale_tasks) == 1:
    # A rationale task by itself: nothing to pair, and nothing to get wrong.
    label_tasks, rationale_tasks = rationale_tasks, []
  if len(label_tasks) != 1 or len(rationale_tasks) > 1:
    raise UserError(
      f"Paired batches need one label task and one rationale task; the mixture"
      f" has {label_tasks} and {rationale_tasks}. Bind pairing = 'mixed' to"
      " draw by mixture rates."
    )
  shard_rows = config.packing.batch_rows
  if rationale_tasks and shard_rows == 1 and not config.packed:
    raise UserError(
      f"{_describe_rows(config)} and rows are not packed: a label row and its"
      f" rationale row need two. Give BATCH_SIZE >= {2 * config.num_shards}."
    )
  pairs = _PairSource(
    cache.load_tokens(label_tasks[0], split),
    cache.load_tokens(rationale_tasks[0], split) if rationale_tasks else None,
    *(
      _segment_maker(cache.tasks[task], config)
      for task in (label_tasks + rationale_tasks)[:1]
      + (rationale_tasks or label_tasks)[:1]
    ),
  )
  if shard_rows == 1 and rationale_tasks:
    _check_pairs_fit(pairs, config, layout)
  dataset = grain.MapDataset.source(pairs).seed(config.seed)
  return dataset.shuffle().repeat()


def _check_pairs_fit(
  pairs: _PairSource, config: FeedConfig, layout: batch_layout.BatchLayout
) -> None:
  lengths = config.feature_lengths
  room = layout.list_room(lengths["inputs"], lengths["targets"])
  for index in range(len(pairs)):
    unit = pairs[index]
    needed = np.sum([layout.list_needed(segment) for segment in unit], axis=0)
    if np.any(needed > room):
      num_inputs = sum(len(segment.inputs) for segment in unit)
      num_targets = sum(len(segment.targets) for segment in unit)
      raise UserError(
        f"{_describe_rows(config)} and a pair of {num_inputs} input and"
        f" {num_targets} target tokens does not fit one row of {dict(lengths)}."
        f" Give BATCH_SIZE >= {2 * config.num_shards} or longer"
        " TASK_FEATURE_LENGTHS."
      )


def _describe_rows(config: FeedConfig) -> str:
  """Says that one row is packed at once, and why."""
  if config.num_shards == 1:
    return "BATCH_SIZE is 1"
  return (
    f"BATCH_SIZE is {config.batch_rows}, one row for each of DATA_SHARDS ="
    f" {config.num_shards},"
  )


def _task_units(
  cache: TokenCache, config: FeedConfig, split: str
) -> tuple[list[grain.MapDataset], list[float]]:
  """Returns the units of each task, and the tasks' rates."""
  datasets, rates = [], []
  for task, info in cache.tasks.items():
    make_segment = _segment_maker(info, config)
    dataset = grain.MapDataset.source(cache.load_tokens(task, split))
    # Each task has an order of its own, and repeats by itself.
    dataset = dataset.seed(config.seed + len(datasets)).shuffle().repeat()
    datasets.append(
      dataset.map(lambda example, make=make_segment: [make(example)])
    )
    rates.append(info.rate)
  return datasets, rates


def _mix(
  datasets: Sequence[grain.MapDataset], rates: Sequence[float]
) -> grain.MapDataset:
  if len(datasets) == 1:
    return datasets[0]
  total = math.fsum(rates)
  return grain.MapDataset.mix(datasets, [rate / total for rate in rates])


def _segment_maker(info: TaskInfo, config: FeedConfig):
  return lambda example: _to_segment(
    example, info, config.feature_lengths, example.weight
  )
