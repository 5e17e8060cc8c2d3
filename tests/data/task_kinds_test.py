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


_JOINT = task_kinds.KINDS["joint"].target
_LABEL_FIRST = task_kinds.KINDS["joint_label_first"].target


@pytest.mark.parametrize(
  "target, text, label",
  [
    (_JOINT, "1 + 2 = 3 . answer: 1 + 2", "1 + 2"),
    (_JOINT, "the answer: is unclear answer: 3", "3"),
    # The rationale holds the other order's marker.
    (_JOINT, "My rationale: x. answer: no", "no"),
    (_JOINT, "rationale: x. answer: no", "no"),
    (_JOINT, "answer: no", "no"),
    (_JOINT, "answer: " * 100_000 + "3", "3"),
    # A rationale alone is no answer.
    (_JOINT, "so it is 3", ""),
    (_JOINT, "yes rationale: so", ""),
    (_JOINT, "answer:", ""),
    (_JOINT, "", ""),
    (_LABEL_FIRST, "( 1 + 2 ) rationale: 1 + 2 = 3 .", "( 1 + 2 )"),
    (_LABEL_FIRST, "yes rationale: a rationale: b", "yes"),
    (_LABEL_FIRST, "yes rationale: so the answer: no", "yes"),
    (_LABEL_FIRST, "the answer: 3 rationale: x", "the answer: 3"),
    # A label alone is one.
    (_LABEL_FIRST, "  3 ", "3"),
    (_LABEL_FIRST, "rationale: so", ""),
    (("label",), "no rationale: a answer: b", "no rationale: a answer: b"),
  ],
)
def test_the_task_knows_where_the_label_stands(target, text, label):
  assert task_kinds.extract_label(text, target) == label


@pytest.mark.parametrize("rationale", ["1 + 2 = 3 .", "a rationale: b", ""])
def test_a_joint_target_is_taken_apart_again(rationale):
  parts = {"label": "( 1 + 2 ) * 3", "rationale": rationale}
  for target, marker in task_kinds.JOINT_MARKERS.items():
    text = marker.join(parts[name] for name in target)
    assert task_kinds.split_target(text, target) == parts


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
