"""The trainings of the golden runs, and what is asked of their students."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

TRAIN_STEPS = 20
RELATIVE_TOLERANCE = 2e-4
# Without AVX-512 and at another level of XLA's optimization, losses moved by
# 7e-5 at most, gradient norms by 4e-4 and bfloat16's losses by 1e-3.
BFLOAT16_TOLERANCE = 1e-2
WORD_PROBLEMS = {
  "num_train_examples": 96,
  "num_validation_examples": 8,
  "num_test_examples": 12,
}
ANIMAL_LEGS = WORD_PROBLEMS | {"num_train_examples": 64}


@dataclasses.dataclass(frozen=True)
class Setting:
  """One training, and what is asked of its student.

  Attributes:
    model: the family's folder in gin/models.
    task: what MIXTURE_OR_TASK_NAME is.
    macros: of training, by name.
    optimizer: "adafactor" or "adamw".
    evaluations: macros of each evaluation on test.
    inferences: macros of each prediction of `QUESTIONS`.
    first_steps: train so far, end, and go on in another process; 0: do not.
    warm_start: macros of a run whose export this one starts from.
    num_devices: of the one processor.
  """

  model: str
  task: str
  macros: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  optimizer: str = "adafactor"
  evaluations: Sequence[Mapping[str, Any]] = ({},)
  inferences: Sequence[Mapping[str, Any]] = ()
  first_steps: int = 0
  warm_start: Mapping[str, Any] | None = None
  num_devices: int = 1


SETTINGS = {
  "t5_1_1_packed_paired_adafactor": Setting(
    "t5_1_1",
    "word_problems_distill",
    {"EVAL_PERIOD": 10},
    evaluations=({}, {"NUM_BEAMS": 3}),
    inferences=(
      {"WITH_RATIONALE": True, "DECODING": "sample", "SEED": 1},
      {"INFER_MODE": "score"},
    ),
  ),
  "t5_1_0_padded_mixed_adamw": Setting(
    "t5_1_0",
    "animal_legs_distill",
    {"PACKED": False, "PAIRING": "mixed", "WEIGHT_DECAY": 0.01},
    optimizer="adamw",
    inferences=({"INFER_MODE": "score"},),
  ),
  "umt5_joint_dropout": Setting(
    "umt5",
    "word_problems_joint",
    {"DROPOUT_RATE": 0.1, "MAX_GRAD_NORM": 1.0},
    inferences=(
      {"DECODING": "sample", "TEMPERATURE": 0.7, "SEED": 3, "NUM_SAMPLES": 2},
    ),
  ),
  "micro_batches_chunks_z_loss": Setting(
    "t5_1_1",
    "word_problems_distill",
    {
      "NUM_MICROBATCHES": 2,
      "LOSS_CHUNK_TOKENS": 32,
      "Z_LOSS": 1e-3,
      "RATIONALE_LOSS_WEIGHT": 0.5,
      "WARMUP_STEPS": 5,
      "LEARNING_RATE": 3e-3,
      "DROPOUT_RATE": 0.1,
    },
    optimizer="adamw",
    evaluations=(),
  ),
  "scan_remat_bfloat16_resumed": Setting(
    "t5_1_1",
    "animal_legs_distill",
    {
      "SCAN_LAYERS": True,
      "REMAT_POLICY": "full",
      "DROPOUT_RATE": 0.1,
      "ACTIVATION_DTYPE": "bfloat16",
    },
    first_steps=10,
  ),
  "eight_devices": Setting(
    "t5_1_1",
    "word_problems_distill",
    {
      "MESH": {"data": 2, "fsdp": 2, "model": 2},
      "DATA_SHARDS": 2,
      "LOSS_CHUNK_TOKENS": 64,
      "NUM_MICROBATCHES": 2,
      "Z_LOSS": 1e-4,
      "DROPOUT_RATE": 0.1,
    },
    num_devices=8,
  ),
  "shuffled_rationales_subsampled": Setting(
    "t5_1_0",
    "animal_legs_distill",
    {"SHUFFLE_RATIONALES": True, "SUBSAMPLE": 0.5, "SUBSAMPLE_SEED": 1},
    evaluations=(),
  ),
  "teacher_labels_paired_adamw": Setting(
    "umt5",
    "word_problems_teacher_distill",
    {"MAX_EXAMPLES_PER_BATCH": 6, "SCHEDULE": "cosine", "LEARNING_RATE": 1e-2},
    optimizer="adamw",
    evaluations=(),
  ),
  "byt5_finetune_scan": Setting(
    "byt5",
    "animal_legs_finetune",
    {
      "VOCAB_PATH": "bytes",
      "SCAN_LAYERS": True,
      "TASK_FEATURE_LENGTHS": {"inputs": 96, "targets": 16},
    },
    evaluations=({"DECODING": "beam", "NUM_BEAMS": 2},),
  ),
  "warm_start_from_hf_adamw": Setting(
    "t5_1_1",
    "animal_legs_finetune",
    {"FIRST_MOMENT_DTYPE": "bfloat16", "PACKED": False},
    optimizer="adamw",
    evaluations=(),
    warm_start={"MIXTURE_OR_TASK_NAME": "animal_legs_span_corruption"},
  ),
}
LABEL = "label"
NAMES = (*SETTINGS, LABEL)
# Relative, of numbers that are not whole; how far processors differ.
TOLERANCES = dict.fromkeys(NAMES, RELATIVE_TOLERANCE) | {
  name: BFLOAT16_TOLERANCE
  for name, setting in SETTINGS.items()
  if "bfloat16" in setting.macros.values()
}
# The tests' default; together they touch most of what may move.
FAST = ("t5_1_1_packed_paired_adafactor", LABEL)

QUESTIONS = [
  {
    "id": f"q{first}",
    "input": f"amy has {first} pens . amy finds {second} more pens . how many"
    " pens does amy have now ?",
    "label": f"{first} + {second}",
    "target": f"{first} + {second}",
  }
  for first, second in zip(range(3, 11), range(20, 4, -2), strict=True)
]
