"""Tests of data/task_kinds.py."""

import pytest

from distill_jax.data import task_kinds


@pytest.mark.parametrize(
  "name, parts",
  [
    ("svamp_label", ("svamp", "label")),
    ("svamp_teacher_label", ("svamp", "teacher_label")),
    ("svamp_teacher_distill", ("svamp", "teacher_distill")),
    ("svamp_teacher_finetune", ("svamp", "teacher_finetune")),
    ("word_problems_joint_label_first", ("word_problems", "joint_label_first")),
    ("my_label_set_joint", ("my_label_set", "joint")),
    ("svamp", ("svamp", None)),
    ("label", ("label", None)),
    ("svamplabel", ("svamplabel", None)),
  ],
)
def test_names_split_at_the_longest_kind(name, parts):
  assert task_kinds.split_task_name(name) == parts


@pytest.mark.parametrize(
  "text, label",
  [
    ("1 + 2 = 3 . answer: 1 + 2", "1 + 2"),
    ("the answer: is unclear answer: 3", "3"),
    ("( 1 + 2 ) rationale: 1 + 2 = 3 .", "( 1 + 2 )"),
    ("yes rationale: a rationale: b", "yes"),
    ("yes rationale: so the answer: no", "yes"),
    # A student that has not learned the format yet.
    ("  3 ", "3"),
    ("", ""),
    ("answer:", ""),
    ("rationale: so", ""),
    ("answer: " * 100_000 + "3", "3"),
  ],
)
def test_label_is_read_out_of_a_joint_text(text, label):
  assert task_kinds.extract_label(text) == label


@pytest.mark.parametrize("kind", ["joint", "joint_label_first"])
def test_label_survives_joining(kind):
  target = task_kinds.KINDS[kind].target
  parts = {"label": "( 1 + 2 ) * 3", "rationale": "1 + 2 = 3 . 3 * 3 = 9 ."}
  text = task_kinds.JOINT_MARKERS[target].join(parts[name] for name in target)
  assert task_kinds.extract_label(text) == parts["label"]


def test_every_kind_has_what_its_users_need():
  for kind in task_kinds.KINDS.values():
    if len(kind.target) > 1:
      assert kind.target in task_kinds.JOINT_MARKERS
      assert kind.loss == "joint"
    else:
      assert kind.target == (kind.loss,)
  for parts in task_kinds.MIXTURES.values():
    losses = [task_kinds.KINDS[part].loss for part in parts]
    assert losses == ["label", "rationale"]
