"""Tests of data/named_tasks.py: as SeqIO's tasks describe themselves."""

import dataclasses

import pytest

import distill_jax.tasks  # noqa: F401  registers the tasks
from distill_jax.data import named_tasks
from distill_jax.data.settings import DataSettings
from distill_jax.data.tf import seqio_cache
from distill_jax.errors import UserError


@pytest.mark.parametrize(
  "kind",
  ["label", "distill", "teacher_distill", "finetune", "joint", "rationale"],
)
def test_a_name_tells_what_the_task_tells(kind):
  settings = DataSettings(
    label_prefix="L:", word_problems={"num_train_examples": 5}
  )
  name = f"word_problems_{kind}"
  found = named_tasks.describe_named_tasks(name, settings)
  expected = seqio_cache.describe_tasks(name, settings)
  assert found == {
    task: dataclasses.replace(info, teacher_counts={})
    for task, info in expected.items()
  }


@pytest.mark.parametrize(
  "name, told",
  [
    ("svamp_lable", "no task of a data set.* Did you mean 'svamp_label'"),
    ("glue", "no task of a data set"),
    ("sky_label", "MIXTURE_OR_TASK_MODULE"),
  ],
)
def test_a_name_that_tells_nothing(name, told):
  with pytest.raises(UserError, match=told):
    named_tasks.describe_named_tasks(name, DataSettings())


def test_a_plain_task_is_its_prefix():
  info = named_tasks.make_plain_task("translate: ")
  assert (info.inputs_prefix, info.kind) == ("translate: ", "label")
