"""The keys of a batch: the only place where they are spelled.

The names are SeqIO's; `decoder_task_ids` is ours. All arrays are numpy, one row
a packed (or single) example.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

ENCODER_INPUT_TOKENS = "encoder_input_tokens"
ENCODER_SEGMENT_IDS = "encoder_segment_ids"
ENCODER_POSITIONS = "encoder_positions"
DECODER_INPUT_TOKENS = "decoder_input_tokens"
DECODER_TARGET_TOKENS = "decoder_target_tokens"
DECODER_LOSS_WEIGHTS = "decoder_loss_weights"
DECODER_SEGMENT_IDS = "decoder_segment_ids"
DECODER_POSITIONS = "decoder_positions"
DECODER_TASK_IDS = "decoder_task_ids"

# Which examples a row holds: names for people, which never enter the step.
EXAMPLE_IDS = "example_ids"

PADDING_TASK_ID, LABEL_TASK_ID, RATIONALE_TASK_ID = 0, 1, 2
TASK_IDS = {"label": LABEL_TASK_ID, "rationale": RATIONALE_TASK_ID}

ENCODER_KEYS = (ENCODER_INPUT_TOKENS, ENCODER_SEGMENT_IDS, ENCODER_POSITIONS)
DECODER_KEYS = (
  DECODER_INPUT_TOKENS,
  DECODER_TARGET_TOKENS,
  DECODER_LOSS_WEIGHTS,
  DECODER_SEGMENT_IDS,
  DECODER_POSITIONS,
  DECODER_TASK_IDS,
)
DTYPES = {
  key: np.float32 if key == DECODER_LOSS_WEIGHTS else np.int32
  for key in ENCODER_KEYS + DECODER_KEYS
}

Batch = dict[str, np.ndarray]


def split_example_ids(
  batch: Mapping[str, Any],
) -> tuple[Batch, list[list[str]] | None]:
  """Parts a batch from the ids of its examples.

  Args:
    batch: arrays, and maybe `EXAMPLE_IDS`.

  Returns:
    The arrays alone, and the ids of each row's segments in order; None where
    the batch came without.
  """
  arrays = {key: value for key, value in batch.items() if key != EXAMPLE_IDS}
  return arrays, batch.get(EXAMPLE_IDS)


def take_rows(
  batch: Mapping[str, Any], rows: np.ndarray | list[int] | slice
) -> dict[str, Any]:
  """Returns some rows of a batch, and the ids of their examples if it has any.

  Args:
    batch: [batch, length] arrays, and maybe `EXAMPLE_IDS`.
    rows: [num_rows] their numbers, or a slice of them.
  """
  arrays, example_ids = split_example_ids(batch)
  taken: dict[str, Any] = {key: value[rows] for key, value in arrays.items()}
  if example_ids is not None:
    numbers = np.arange(len(example_ids))[rows]
    taken[EXAMPLE_IDS] = [example_ids[number] for number in numbers]
  return taken


def make_empty_batch(
  batch_rows: int, encoder_length: int, decoder_length: int
) -> Batch:
  """Returns a batch of nothing but padding.

  Args:
    batch_rows: rows of the batch.
    encoder_length: tokens a row on the encoder side.
    decoder_length: tokens a row on the decoder side.

  Returns:
    Every key of the batch: encoder keys [batch_rows, encoder_length] int32,
    decoder keys [batch_rows, decoder_length] int32 (the loss weights float32).
  """
  lengths = dict.fromkeys(ENCODER_KEYS, encoder_length)
  lengths |= dict.fromkeys(DECODER_KEYS, decoder_length)
  return {
    key: np.zeros((batch_rows, length), DTYPES[key])
    for key, length in lengths.items()
  }


def validate(batch: Batch) -> None:
  """Checks keys, dtypes and shapes of a batch.

  Args:
    batch: what `make_empty_batch` returns, filled.

  Raises:
    ValueError: a key is missing, unknown, of another dtype, or the arrays of
      one side differ in shape.
  """
  if set(batch) != set(DTYPES):
    raise ValueError(
      f"batch keys differ: missing {sorted(set(DTYPES) - set(batch))}, "
      f"unknown {sorted(set(batch) - set(DTYPES))}"
    )
  for keys in (ENCODER_KEYS, DECODER_KEYS):
    shape = batch[keys[0]].shape
    for key in keys:
      if batch[key].dtype != DTYPES[key]:
        raise ValueError(f"{key} is {batch[key].dtype}, not {DTYPES[key]}")
      if batch[key].shape != shape:
        raise ValueError(f"{key} is {batch[key].shape}, {keys[0]} is {shape}")
