"""A token cache of made-up tokens, for tests that need no TensorFlow."""

import dataclasses

import numpy as np

from distill_jax.data import span_corruption, token_cache, vocab
from distill_jax.data.records import Record

VOCABULARY = vocab.load_vocabulary(vocab.BYTES)
VOCAB_SIZE = 48


def make_cache(
  folder,
  num_examples,
  rates=(1.0, 1.0),
  num_rationales=None,
  splits=("train",),
  weigh_fn=lambda index: 1.0,
):
  """Writes and opens a cache with the tasks toy_label and toy_rationale.

  The first input token of example i is 10 + i (of both its rows), the others
  are drawn by a seeded generator; all ids are below `VOCAB_SIZE`. The label
  repeats the first token, so that a small model can learn it. `weigh_fn` gives
  the weight of example i.
  """
  rng = np.random.default_rng(0)
  tasks = {
    "toy_label": make_task_info("label", rates[0], "predict: "),
    "toy_rationale": make_task_info("rationale", rates[1], "explain: "),
  }

  def examples():
    for task in tasks:
      for split in splits:
        count = num_examples
        if task == "toy_rationale" and num_rationales is not None:
          count = num_rationales
        for index in range(count):
          example = make_example(rng, task, index)
          example = dataclasses.replace(example, weight=weigh_fn(index))
          yield task, split, example

  identity = token_cache.make_identity("toy_distill", {}, VOCABULARY.sha256, [])
  path = token_cache.cache_path(folder, identity)
  token_cache.write_cache(path, identity, tasks, examples(), None)
  return token_cache.TokenCache(path)


def make_span_cache(folder):
  """Writes and opens a cache with the task toy_span_corruption."""
  name = "toy_span_corruption"
  identity = token_cache.make_identity(name, {}, VOCABULARY.sha256, [])
  path = token_cache.cache_path(folder, identity)
  records = [Record("1", "a question"), Record("2", "another one")]
  examples = [
    (name, split, token_cache.Example(row["id"], inputs, targets, "", ""))
    for split in ("train", "validation")
    for row in span_corruption.make_rows(records, VOCABULARY, 2)
    for inputs, targets in [
      (np.append(row["inputs"], 1), np.append(row["targets"], 1))
    ]
  ]
  tasks = {name: make_task_info("span_corruption")}
  token_cache.write_cache(path, identity, tasks, examples, None)
  return token_cache.TokenCache(path)


def make_task_info(kind, rate=1.0, prefix=""):
  return token_cache.TaskInfo(
    rate=rate,
    kind=kind,
    metric="exact_match",
    label_set=None,
    uses_teacher_labels=False,
    inputs_prefix=prefix,
    splits={},
    teacher_counts={},
  )


def make_example(rng, task, index):
  tag = 10 + index % (VOCAB_SIZE - 10)
  is_label = task == "toy_label"
  inputs = [tag, *rng.integers(3, 10, size=rng.integers(2, 8)), 1]
  targets = [tag] if is_label else [tag, *rng.integers(3, 10, size=5)]
  return token_cache.Example(
    id=f"toy-{index}",
    inputs=np.asarray(inputs, np.int32),
    targets=np.asarray([*targets, 1], np.int32),
    inputs_text=f"question {index}",
    targets_text=f"answer {index}",
  )
