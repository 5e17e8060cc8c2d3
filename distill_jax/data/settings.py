"""What shapes the data: one frozen object that prepare, train and tasks read.

SeqIO registers tasks at import, before any setting is known, so the tasks ask
`current_settings` each time a data set is made. Without gin the defaults hold
and `DISTILL_JAX_DATA_DIR` names the data.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from distill_jax.data import task_kinds
from distill_jax.errors import UserError

_DATA_DIR_VARIABLE = "DISTILL_JAX_DATA_DIR"


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """Everything besides the task's name that decides a task's examples.

  Attributes:
    data_dir: folder with the official release's data sets, one folder each;
      None: the environment variable DISTILL_JAX_DATA_DIR, if it is set.
    vocab_path: a sentencepiece model, a folder that holds `spiece.model`,
      "bytes" for ByT5's bytes, or None for the vocabulary that ships with the
      data set, or else with the package.
    subsample: fraction of the training examples to keep, in (0, 1], drawn
      before the validation split, as the official code does.
    subsample_seed: seed of that draw.
    teacher_parse: "strict" reads teacher outputs by the official rules,
      "tolerant" recovers what those lose.
    max_not_ok_share: training on teacher labels is refused when more than this
      share of the training rows has a status other than `ok`.
    on_rationale_label_conflict: what happens to a training row whose gold
      label meets a rationale that argues for another answer. The paper keeps.
    label_prefix: put before the input of label tasks; "predict: " is the
      authors' code, the paper prints "[label]".
    rationale_prefix: put before the input of rationale tasks.
    span_corruption_copies: how often each training text is corrupted, each time
      differently, in tasks of the kind "span_corruption"; see
      `data.span_corruption`. The other splits have one copy.
    splits: the splits to prepare; None: all. A data set whose training rows are
      not at hand can still be evaluated.
    word_problems: settings of the generated data set, passed to
      `word_problems.make_records` (`seed`, `num_train_examples`, ...).
    animal_legs: settings passed to `animal_legs.make_records`.
    shuffle_rationales: give each training example the rationale of another, a
      placebo: what it gains is not due to what the rationales say.
  """

  data_dir: str | None = None
  vocab_path: str | None = None
  subsample: float = 1.0
  subsample_seed: int = 0
  teacher_parse: Literal["strict", "tolerant"] = "tolerant"
  max_not_ok_share: float = 0.1
  on_rationale_label_conflict: Literal[
    "keep", "drop_rationale", "drop_example"
  ] = "keep"
  label_prefix: str = "predict: "
  rationale_prefix: str = "explain: "
  span_corruption_copies: int = 10
  splits: Sequence[str] | None = None
  word_problems: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  animal_legs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  shuffle_rationales: bool = False

  def __post_init__(self):
    data_dir = self.data_dir or os.environ.get(_DATA_DIR_VARIABLE)
    if data_dir is not None:
      object.__setattr__(self, "data_dir", os.path.expanduser(data_dir))
    if not 0 < self.subsample <= 1:
      raise UserError(
        f"SUBSAMPLE is {self.subsample}; it is a fraction of the training"
        " examples, above 0 and at most 1."
      )
    if not 0 <= self.max_not_ok_share <= 1:
      raise UserError(
        f"MAX_NOT_OK_SHARE is {self.max_not_ok_share}; it is a share, from 0"
        " to 1."
      )
    if type(self.subsample_seed) is not int or self.subsample_seed < 0:
      raise UserError(
        f"SUBSAMPLE_SEED is {self.subsample_seed!r}; it must be a whole number"
        " >= 0."
      )
    copies = self.span_corruption_copies
    if type(copies) is not int or copies < 1:
      raise UserError(
        f"SPAN_CORRUPTION_COPIES is {copies!r}; it must be a whole number >= 1."
      )
    if not isinstance(self.shuffle_rationales, bool):
      raise UserError(
        f"SHUFFLE_RATIONALES is {self.shuffle_rationales!r}; it is True or"
        " False."
      )
    if self.splits is not None and not self.splits:
      raise UserError(
        f"SPLITS is {self.splits!r}; it names at least one split, or is None"
        " for all."
      )
    for field, allowed in (
      ("teacher_parse", ("strict", "tolerant")),
      (
        "on_rationale_label_conflict",
        ("keep", "drop_rationale", "drop_example"),
      ),
    ):
      value = getattr(self, field)
      if value not in allowed:
        raise UserError(
          f"{field.upper()} is {value!r}; it must be one of"
          f" {', '.join(map(repr, allowed))}."
        )


def get_prefix(kind: task_kinds.TaskKind, settings: DataSettings) -> str:
  """Returns the text that goes before each input of a kind of task."""
  return {
    "label": settings.label_prefix,
    "rationale": settings.rationale_prefix,
    None: "",
  }[kind.prefix]


_settings: DataSettings | None = None


def use_settings(settings: DataSettings | None) -> None:
  """Makes `settings` what every task reads from now on; None: the defaults."""
  global _settings
  _settings = settings


def current_settings() -> DataSettings:
  """Returns the settings in force: those given, else the defaults."""
  return DataSettings() if _settings is None else _settings
