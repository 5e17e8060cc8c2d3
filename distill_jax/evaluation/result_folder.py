"""Where an evaluation's results lie: a folder for each way to measure.

Below `eval/`:

  <task>/<split>/<step>/<key>/metrics.json, predictions.jsonl

The key names all that changes the numbers of one checkpoint, such as `greedy`,
`beam4_alpha0.6`, `rank` or `greedy_max200`, so that no result takes the place
of another. Before there were keys, the two files lay in <step> itself.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError

RANK = "rank"
_METRICS, _PREDICTIONS = "metrics.json", "predictions.jsonl"
_SHORT = {"length_penalty": "alpha", "max_decode_length": "length"}


def make_key(
  decoding: DecodingConfig | None,
  max_examples: int | None = None,
  other: Mapping[str, Any] | None = None,
) -> str:
  """Names the settings that decide the numbers.

  Args:
    decoding: how predictions are decoded; None: choices are ranked.
    max_examples: of the split; None: all.
    other: what else differs from what the checkpoint is evaluated with when
      nothing is said, by a short name.

  Returns:
    A folder's name; other settings give another one.
  """
  parts = [RANK] if decoding is None else _name_decoding(decoding)
  if max_examples is not None:
    parts.append(f"max{max_examples}")
  for name, value in (other or {}).items():
    joined = f"{name}{value}" if type(value) is int else f"{name}-{value}"
    parts.append(re.sub(r"[^\w.-]+", "-", joined))
  return "_".join(parts)


def _name_decoding(config: DecodingConfig) -> list[str]:
  parts = [config.strategy]
  for name, value in config.describe().items():
    if name == "num_beams":
      parts[0] += str(value)
    elif name not in ("strategy", "num_samples") and value is not None:
      # 1 and 1.0 are one setting.
      number = int(value) if value == int(value) else value
      parts.append(f"{_SHORT.get(name, name)}{number}")
  return parts


def find_predictions(step_folder: pathlib.Path, key: str) -> pathlib.Path:
  """Returns the file of predictions, which need not exist.

  Args:
    step_folder: `eval/<task>/<split>/<step>`.
    key: see `make_key`; without a folder of it the file is where it lay before
      there were keys.
  """
  keyed = step_folder / key / _PREDICTIONS
  return keyed if keyed.exists() else step_folder / _PREDICTIONS


def check_writable(folder: pathlib.Path) -> None:
  """Finds out before the work; clears what a killed evaluation left.

  Args:
    folder: of results.

  Raises:
    UserError: it cannot be written.
  """
  writing = _writing_folder(folder)
  shutil.rmtree(writing, ignore_errors=True)
  with _explain_unwritable(folder):
    writing.mkdir(parents=True)
    writing.rmdir()


def write_results(
  folder: pathlib.Path,
  metrics: Mapping[str, Any],
  rows: Sequence[Mapping[str, Any]],
) -> None:
  """Writes a folder of results, which appears when it is complete.

  Args:
    folder: made, or replaced.
    metrics: JSON values.
    rows: one an example.

  Raises:
    UserError: it cannot be written.
  """
  writing = _writing_folder(folder)
  with _explain_unwritable(folder):
    writing.mkdir()
    with open(writing / _PREDICTIONS, "w", encoding="utf-8") as file:
      file.writelines(
        json.dumps(row, ensure_ascii=False) + "\n" for row in rows
      )
    (writing / _METRICS).write_text(json.dumps(metrics, indent=2) + "\n")
    if folder.exists():
      shutil.rmtree(folder)
    os.replace(writing, folder)


def read_checkpoint(folder: pathlib.Path) -> str | None:
  """Returns the checkpoint that a folder's results are of; None: no results."""
  try:
    metrics = json.loads((folder / _METRICS).read_text())
    return str(metrics["checkpoint"])
  except (OSError, ValueError, TypeError, KeyError):
    return None


def _writing_folder(folder: pathlib.Path) -> pathlib.Path:
  return folder.with_name(f".writing-{folder.name}")


@contextlib.contextmanager
def _explain_unwritable(folder: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise UserError(
      f"The results in {folder} cannot be written: {error}. Free some room, or"
      " mend what it says, and run the same command again."
    ) from error
