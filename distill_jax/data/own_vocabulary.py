"""Which vocabulary a task has where VOCAB_PATH names none."""

import dataclasses
import pathlib

from distill_jax.data import datasets, task_kinds
from distill_jax.data.settings import DataSettings


def fill_in(name: str, settings: DataSettings) -> DataSettings:
  """Puts the vocabulary that ships with a data set where none was given.

  Args:
    name: a task or mixture; of no registered data set: nothing is changed.
    settings: what shapes the data.

  Returns:
    Settings whose `vocab_path` names the data set's own vocabulary, if it has
    one; None still stands for the vocabulary of all others.
  """
  dataset, _ = task_kinds.split_task_name(name)
  if settings.vocab_path is not None or dataset not in datasets.names():
    return settings
  file_name = datasets.get_dataset_spec(dataset).vocabulary
  if file_name is None:
    return settings
  path = pathlib.Path(__file__).parent / file_name
  return dataclasses.replace(settings, vocab_path=str(path))
