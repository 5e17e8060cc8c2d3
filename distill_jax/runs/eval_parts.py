"""What an evaluation is of: tasks and splits, and the choices to rank."""

import collections
import dataclasses
from collections.abc import Sequence

from distill_jax.data.feed import pipeline
from distill_jax.data.token_cache import Example, TaskInfo, TokenCache
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.evaluation.choices import find_choices


@dataclasses.dataclass(frozen=True)
class Part:
  """One task and split to evaluate.

  Attributes:
    task: its name.
    split: of it.
    cache: has its examples.
    examples: of them, as many as asked for.
    choices: the answers that each chooses from; None: it is decoded.
  """

  task: str
  split: str
  cache: TokenCache
  examples: Sequence[Example]
  choices: list[tuple[str, ...]] | None = None

  @property
  def name(self) -> str:
    """Returns "<task>/<split>"."""
    return f"{self.task}/{self.split}"

  @property
  def info(self) -> TaskInfo:
    """Returns what is known of the task."""
    return self.cache.tasks[self.task]


def list_parts(
  caches: Sequence[TokenCache],
  splits: Sequence[str] | str,
  max_examples: int | None,
) -> list[Part]:
  """Returns the tasks and splits asked for; a task may lack a split.

  Args:
    caches: have the tasks.
    splits: EVAL_SPLITS; a text is one split.
    max_examples: of each; None: all.

  Raises:
    UserError: no task has the split, or one is named twice.
  """
  splits = [splits] if isinstance(splits, str) else list(splits)
  tasks = [(task, cache) for cache in caches for task in cache.tasks]
  known = {split for task, cache in tasks for split in cache.tasks[task].splits}
  if not splits or set(splits) - known:
    where = ", ".join(str(cache.path) for cache in caches)
    raise UserError(
      f"EVAL_SPLITS is {splits}; the splits in {where} are {sorted(known)}."
    )
  counts = collections.Counter(task for task, _ in tasks)
  if twice := [task for task, count in counts.items() if count > 1]:
    raise UserError(
      f"MIXTURE_OR_TASK_NAME names {', '.join(twice)} more than once, by itself"
      " or in a mixture. Leave one of them out."
    )
  return [
    Part(
      task,
      split,
      cache,
      pipeline.take(cache.open_split(task, split), max_examples),
    )
    for task, cache in tasks
    for split in dict.fromkeys(splits)
    if split in cache.tasks[task].splits
  ]


def add_choices(parts: Sequence[Part], decoding: DecodingConfig) -> list[Part]:
  """Adds the answer choices to parts with labels, which are then ranked.

  Args:
    parts: of the evaluation.
    decoding: settings for parts that are decoded.

  Raises:
    UserError: there are none to rank, or nothing is left to decode with the
      settings given for it.
  """
  chosen = [
    part
    if not part.info.has_labels
    else dataclasses.replace(
      part, choices=find_choices(part.task, part.info, part.examples)
    )
    for part in parts
  ]
  is_ranked = [part.choices is not None for part in chosen]
  if not any(is_ranked):
    raise UserError(
      f"EVAL_PREDICTION is 'rank', and there are no labels to evaluate in"
      f" {parts[0].cache.path}. Leave it at 'generate'."
    )
  if all(is_ranked) and decoding != DecodingConfig():
    raise UserError(
      f"EVAL_PREDICTION is 'rank', which decodes nothing here: nothing reads"
      f" the settings of decoding, {decoding.describe()}. Leave them"
      " out."
    )
  return chosen
