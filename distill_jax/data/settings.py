"""What shapes the data: one frozen object that prepare, train and tasks read.

SeqIO registers tasks at import, before any setting is known, so the tasks ask
`current_settings` each time a data set is made. Without gin the defaults hold
and `DISTILL_JAX_DATA_DIR` names the data.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from distill_jax.config import declaration
from distill_jax.config.declaration import field
from distill_jax.data import task_kinds

_DATA_DIR_VARIABLE = "DISTILL_JAX_DATA_DIR"


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """Everything besides the task's name that decides a task's examples."""

  data_dir: str | None = field(
    None,
    macro="DATA_DIR",
    is_common=True,
    help="folder with the official release's data sets, one folder each; None:"
    " the environment variable DISTILL_JAX_DATA_DIR, if it is set",
  )
  vocab_path: str | None = field(
    None,
    macro="VOCAB_PATH",
    is_common=True,
    help="a sentencepiece model, a folder that holds spiece.model, or 'bytes'"
    " for ByT5's bytes; None: the vocabulary that ships with the data set, or"
    " else with the package",
  )
  subsample: float = field(
    1.0,
    macro="SUBSAMPLE",
    above=0,
    most=1,
    help="fraction of the training examples to keep, drawn before the"
    " validation split, as the official code does",
  )
  subsample_seed: int = field(
    0, macro="SUBSAMPLE_SEED", least=0, help="seed of that draw"
  )
  teacher_parse: Literal["strict", "tolerant"] = field(
    "tolerant",
    macro="TEACHER_PARSE",
    help="'strict' reads teacher outputs by the official rules, 'tolerant'"
    " recovers what those lose",
  )
  max_not_ok_share: float = field(
    0.1,
    macro="MAX_NOT_OK_SHARE",
    least=0,
    most=1,
    help="training on teacher labels is refused when more than this share of"
    " the training rows has a status other than ok",
  )
  on_rationale_label_conflict: Literal[
    "keep", "drop_rationale", "drop_example"
  ] = field(
    "keep",
    macro="ON_RATIONALE_LABEL_CONFLICT",
    help="what happens to a training row whose rationale argues for another"
    " answer than the gold label; the paper keeps it",
  )
  label_prefix: str = field(
    "predict: ",
    macro="LABEL_PREFIX",
    help="put before the input of label tasks; 'predict: ' is the authors'"
    " code, the paper prints '[label]'",
  )
  rationale_prefix: str = field(
    "explain: ",
    macro="RATIONALE_PREFIX",
    help="put before the input of rationale tasks",
  )
  span_corruption_copies: int = field(
    10,
    macro="SPAN_CORRUPTION_COPIES",
    least=1,
    help="how often *_span_corruption tasks corrupt each training text, each"
    " time differently; the other splits have one copy",
  )
  splits: Sequence[str] | None = field(
    None,
    macro="SPLITS",
    is_filled=True,
    help="the splits to prepare; None: all. A data set whose training rows are"
    " not at hand can still be evaluated",
  )
  word_problems: Mapping[str, Any] = field(
    default_factory=dict,
    macro="WORD_PROBLEMS",
    help="options of this generated data set, such as {'seed': 1,"
    " 'num_train_examples': 500}",
  )
  animal_legs: Mapping[str, Any] = field(
    default_factory=dict,
    macro="ANIMAL_LEGS",
    help="options of this generated data set",
  )
  shuffle_rationales: bool = field(
    False,
    macro="SHUFFLE_RATIONALES",
    help="give each training example the rationale of another, a placebo: what"
    " it gains is not due to what the rationales say",
  )

  def __post_init__(self):
    declaration.check(self)
    data_dir = self.data_dir or os.environ.get(_DATA_DIR_VARIABLE)
    if data_dir is not None:
      object.__setattr__(self, "data_dir", os.path.expanduser(data_dir))


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
