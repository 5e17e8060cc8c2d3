"""What the programs are given and what they do, worked out from shapes.

Nothing is compiled.
"""

from collections.abc import Mapping

from distill_jax.aot import programs
from distill_jax.aot.compile_report import Work
from distill_jax.decoding.layout import DecoderLayout
from distill_jax.errors import UserError
from distill_jax.model.registry import Flops


def measure_training(
  student: programs.Student,
  batch_rows: int,
  feature_lengths: Mapping[str, int],
  num_microbatches: int,
  loss_chunk_tokens: int | None,
) -> tuple[dict[str, int], Work]:
  """Measures the train step.

  Args:
    student: what is trained.
    batch_rows: rows a step over all devices.
    feature_lengths: {'inputs': ..., 'targets': ...} tokens of a row.
    num_microbatches: as for `training.step.train_step`.
    loss_chunk_tokens: as above.

  Returns:
    Bytes a device of what the step is given, by name, and its work.
  """
  batch = programs.make_batch(student, batch_rows, feature_lengths)
  parts = {
    "parameters": programs.count_device_bytes(student.state.params),
    "optimizer": programs.count_device_bytes(student.state.opt_state),
    "batch": programs.count_device_bytes(batch),
  }
  lengths = feature_lengths["inputs"], feature_lengths["targets"]
  config, flops = student.model.config, _find_flops(student)
  return parts, Work(
    flops.count_train_fn(config, batch_rows, *lengths),
    flops.count_recomputed_fn(config, batch_rows, *lengths, loss_chunk_tokens),
    # Every micro-batch reads the parameters forward and backward; the
    # optimizer reads and writes them and its state.
    2 * (num_microbatches + 1) * parts["parameters"] + 2 * parts["optimizer"],
    batch_rows * sum(lengths),
  )


def measure_decoding(
  student: programs.Student,
  batch_rows: int,
  feature_lengths: Mapping[str, int],
  layout: DecoderLayout,
) -> tuple[dict[str, int], Work]:
  """Measures decoding.

  Args:
    student: what decodes.
    batch_rows: rows over all devices.
    feature_lengths: as for `measure_training`.
    layout: of `programs.make_decoder_layout`.

  Returns:
    As `measure_training`. All parameters count as training has them, and what
    is laid out for decoding besides.
  """
  batch = programs.make_batch(student, batch_rows, feature_lengths)
  params = student.state.params
  parts = {"parameters": programs.count_device_bytes(params)}
  if copy := layout.describe_params(params):
    parts["decoder_copy"] = programs.count_device_bytes(copy)
  parts["batch"] = programs.count_device_bytes(
    student.family.layout.select_inputs(batch)
  )
  decode_length, flops = feature_lengths["targets"], _find_flops(student)
  return parts, Work(
    flops.count_forward_fn(
      student.model.config, batch_rows, feature_lengths["inputs"], decode_length
    ),
    0,
    programs.count_decoding_reads(student, decode_length, layout),
    batch_rows * decode_length,
  )


def _find_flops(student: programs.Student) -> Flops:
  if student.family.flops is None:
    raise UserError(
      f"The family {student.family.name!r} counts no FLOPs, which the report"
      " needs. Give its registration `flops`."
    )
  return student.family.flops
