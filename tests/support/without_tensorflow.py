"""Everything but `prepare`, as a program that cannot import TensorFlow.

python without_tensorflow.py FOLDER
"""

import importlib.machinery
import importlib.util
import pathlib
import pkgutil
import sys

BLOCKED = ("clu", "seqio", "tensorflow", "tensorflow_datasets")
BLOCKED += ("tensorflow_text",)
NAME = "word_problems_distill"
WORD_PROBLEMS = {
  "num_train_examples": 12,
  "num_validation_examples": 2,
  "num_test_examples": 3,
}


class _Finder(importlib.machinery.PathFinder):
  """Finds all but what the machine shall not have.

  It finds nothing rather than raise: libraries ask whether TensorFlow is there.
  """

  @classmethod
  def find_spec(cls, fullname, path=None, target=None):
    if fullname.partition(".")[0] in BLOCKED:
      return None
    return super().find_spec(fullname, path, target)


def import_everything():
  """Imports every module that does not say in its name that it may not."""
  import distill_jax

  needing = (
    ".tf.",
    ".tasks",
    ".t5x_bridge",
    ".apache_beam_job.",
    ".label_pipeline",
  )
  for module in pkgutil.walk_packages(distill_jax.__path__, "distill_jax."):
    if not any(part in module.name for part in needing):
      importlib.import_module(module.name)


def write_cache(folder):
  """Writes the cache that `prepare` would, in place of a copied one."""
  import numpy as np

  from distill_jax.data import datasets, settings, token_cache, vocab
  from distill_jax.runs import prepare

  data = settings.DataSettings(word_problems=WORD_PROBLEMS)
  vocabulary = vocab.load_vocabulary(None)
  prefixes = {"label": "predict: ", "rationale": "explain: "}
  tasks = {
    f"word_problems_{kind}": token_cache.TaskInfo(
      rate=1.0,
      kind=kind,
      metric="equation",
      label_set=None,
      uses_teacher_labels=False,
      inputs_prefix=prefix,
      splits={},
      teacher_counts={},
    )
    for kind, prefix in prefixes.items()
  }

  def encode(text):
    ids = [*vocabulary.encode(text), vocabulary.eos_id]
    return np.asarray(ids, np.int32)

  def make_examples():
    for task, info in tasks.items():
      for split in datasets.SPLITS:
        for record in datasets.load_records("word_problems", split, data):
          inputs = info.inputs_prefix + record.input
          targets = getattr(record, info.kind)
          yield (
            task,
            split,
            token_cache.Example(
              record.id, encode(inputs), encode(targets), inputs, targets
            ),
          )

  identity = prepare._make_identity(NAME, tuple(tasks), data, vocabulary)
  path = token_cache.cache_path(folder, identity)
  token_cache.write_cache(
    path, identity, tasks, make_examples(), vocabulary.path
  )


def run_program(*arguments):
  """Runs `distill-jax` in this process."""
  from absl import flags

  import gin
  from distill_jax import main

  flags.FLAGS.unparse_flags()
  gin.clear_config()
  sys.argv = ["distill-jax", *arguments]
  try:
    main.run()
  except SystemExit as end:
    if end.code:
      raise


def run_all(folder):
  """Trains two steps, trains again from its own settings, evaluates, infers."""
  model_dir = f"--gin.MODEL_DIR='{folder}/run'"
  # Equal everywhere, so that decoding is compiled once.
  batch_size = "--gin.BATCH_SIZE=4"
  run_program(
    "--run_mode=train",
    "--gin_file=gin/models/t5_1_1/tiny.gin",
    "--gin_file=gin/runs/train.gin",
    f"--gin.MIXTURE_OR_TASK_NAME='{NAME}'",
    f"--gin.CACHE_DIR='{folder}/caches'",
    model_dir,
    "--gin.TRAIN_STEPS=2",
    batch_size,
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 48}",
    f"--gin.WORD_PROBLEMS={WORD_PROBLEMS}",
  )
  run_program("--run_mode=train", f"--gin_file={folder}/run/config.gin")
  run_program(
    "--run_mode=eval", "--gin_file=gin/runs/eval.gin", model_dir, batch_size
  )
  (folder / "questions.txt").write_text("ava has 12 apples .\nand ben ?\n")
  run_program(
    "--run_mode=infer",
    "--gin_file=gin/runs/infer.gin",
    model_dir,
    batch_size,
    f"--gin.INPUT_PATH='{folder}/questions.txt'",
    f"--gin.OUTPUT_PATH='{folder}/predictions.jsonl'",
    "--gin.WITH_RATIONALE=True",
  )


if __name__ == "__main__":
  sys.meta_path = [
    _Finder if finder is importlib.machinery.PathFinder else finder
    for finder in sys.meta_path
  ]
  assert importlib.util.find_spec("tensorflow") is None
  import_everything()
  output_folder = pathlib.Path(sys.argv[1])
  write_cache(output_folder / "caches")
  run_all(output_folder)
  assert not {name.partition(".")[0] for name in sys.modules} & set(BLOCKED)
