"""Tests of training/closing.py: the last lines of a run."""

import pathlib
import shlex

from distill_jax.training import closing


def test_the_best_step_is_named_with_its_command():
  text = closing.describe(pathlib.Path("/my runs/it's"), 300, 200, 0.625)
  first, checkpoint, command = text.splitlines()
  assert first == (
    "Trained to step 300. Best on validation: step 200, label accuracy 62.50%."
  )
  assert checkpoint == "  Checkpoint: /my runs/it's/checkpoints/200"
  arguments = shlex.split(command.partition(": ")[2])
  assert arguments == [
    "distill-jax",
    "--run_mode=eval",
    "--gin_file=gin/runs/eval.gin",
    '--gin.MODEL_DIR="/my runs/it\'s"',
  ]


def test_a_plain_path_is_quoted_as_in_the_readme():
  text = closing.describe(pathlib.Path("/runs/a b"), 300, None, None)
  assert text.endswith(" --gin.MODEL_DIR=\"'/runs/a b'\"")
  assert shlex.split(text)[-1] == "--gin.MODEL_DIR='/runs/a b'"


def test_without_validation_the_last_step_is_named():
  text = closing.describe(pathlib.Path("/run"), 300, None, None)
  assert "No label was validated" in text
  assert "/run/checkpoints/300" in text
