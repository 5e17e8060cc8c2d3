import dataclasses

import numpy as np
import pytest
from synthetic_cache import make_task_info

from distill_jax.data.token_cache import Example
from distill_jax.errors import UserError
from distill_jax.evaluation.choices import find_choices

LABEL = make_task_info("label")


def _make_example(text):
  nothing = np.zeros(0, np.int32)
  return Example("x-0", nothing, nothing, text, "")


def test_a_closed_label_set_is_every_examples():
  info = dataclasses.replace(LABEL, label_set=["no", "yes"])
  examples = [_make_example("a"), _make_example("b")]
  assert find_choices("toy_label", info, examples) == [("no", "yes")] * 2


def test_choices_differ_from_example_to_example():
  texts = ["Answer Choices:\n(a) 1\n(b) 2", "Answer Choices:\n(a) 3\n(b) 4"]
  examples = [_make_example(text) for text in texts]
  assert find_choices("toy_label", LABEL, examples) == [("1", "2"), ("3", "4")]


def test_a_task_without_choices_is_named():
  examples = [_make_example("Answer Choices:\n(a) 1\n(b) 2"), _make_example("")]
  with pytest.raises(UserError, match="svamp_label has no answer.*'x-0'.*'gen"):
    find_choices("svamp_label", LABEL, examples)


def test_a_joint_target_is_no_choice():
  info = dataclasses.replace(make_task_info("joint"), label_set=("no", "yes"))
  with pytest.raises(UserError, match="targets of toy_joint hold a rationale"):
    find_choices("toy_joint", info, [_make_example("a")])
