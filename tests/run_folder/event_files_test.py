"""Tests of run_folder/event_files.py: what TensorBoard is given to show."""

import math

import pytest
from event_reading import read_events
from tensorboardX.proto import event_pb2, plugin_hparams_pb2

from distill_jax.run_folder import event_files, metric_files

_GIN = """
import os
BATCH_SIZE = 8
LEARNING_RATE = 0.001
MODEL_DIR = \\
    '/a/long/path'
OPTIMIZER = @factory.adamw()
PACKED = True
SPLITS = None
WORD_PROBLEMS = \\
    {'num_test_examples': 20,
     'seed': 3}

train.TrainRun.seed = %SEED
"""


def read_scalars(folder):
  return {
    (event.step, value.tag): value.simple_value
    for event in read_events(folder)
    for value in event.summary.value
    if value.HasField("simple_value")
  }


def test_validation_is_beside_training_under_the_same_tags(tmp_path):
  files = metric_files.MetricFiles(tmp_path)
  files.write(
    7, "train", {"loss": 2.5, "label_loss": 1.5, "rationale_loss": math.nan}
  )
  label = {"loss": 0.5, "label_accuracy": 0.25}
  files.write(8, "validation/toy_label", label)
  files.write(8, "validation/toy_rationale", {"loss": 0.75, "perplexity": 2.0})
  # Training counts dropped spans in the label loss.
  files.write(8, "validation/toy_span_corruption", {"loss": 0.25})
  files.close()
  assert read_scalars(tmp_path) == {(7, "loss"): 2.5, (7, "label_loss"): 1.5}
  assert read_scalars(tmp_path / "validation" / "toy_label") == {
    (8, "label_loss"): 0.5,
    (8, "label_accuracy"): 0.25,
  }
  assert read_scalars(tmp_path / "validation" / "toy_rationale") == {
    (8, "rationale_loss"): 0.75,
    (8, "perplexity"): 2.0,
  }
  assert read_scalars(tmp_path / "validation" / "toy_span_corruption") == {
    (8, "label_loss"): 0.25
  }


@pytest.mark.parametrize("split", ["train", "validation/toy_label"])
def test_a_resumed_run_purges_each_files_later_events(tmp_path, split):
  for start_step in (0, 4):
    files = event_files.EventFiles(tmp_path, start_step, "")
    files.write(start_step + 1, split, {"loss": 1.0})
    files.close()
  folder = tmp_path if split == "train" else tmp_path / split
  starts = [
    event.step
    for event in read_events(folder)
    if event.session_log.status == event_pb2.SessionLog.START
  ]
  assert starts == [1, 5]


def test_the_settings_are_text_and_hyper_parameters(tmp_path):
  event_files.EventFiles(tmp_path, 3, _GIN).close()
  values = {
    value.tag: (event.step, value)
    for event in read_events(tmp_path)
    for value in event.summary.value
  }
  step, text = values["config.gin/text_summary"]
  shown = text.tensor.string_val[0].decode()
  assert step == 3 and "    BATCH_SIZE = 8\n" in shown
  _, session = values["_hparams_/session_start_info"]
  found = plugin_hparams_pb2.HParamsPluginData.FromString(
    session.metadata.plugin_data.content
  ).session_start_info.hparams
  assert found["BATCH_SIZE"].number_value == 8
  assert found["LEARNING_RATE"].number_value == 0.001
  assert found["PACKED"].bool_value
  assert found["MODEL_DIR"].string_value == "/a/long/path"
  assert "_hparams_/experiment" in values


def test_macros_are_read_from_what_gin_writes():
  assert event_files.read_macros(_GIN) == {
    "BATCH_SIZE": 8,
    "LEARNING_RATE": 0.001,
    "MODEL_DIR": "/a/long/path",
    "PACKED": True,
    "WORD_PROBLEMS": "{'num_test_examples': 20, 'seed': 3}",
  }
  assert event_files.read_macros("") == {}
