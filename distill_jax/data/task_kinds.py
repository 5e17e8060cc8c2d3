"""The kinds of tasks a data set has: which text goes in, which comes out.

Plain text and no SeqIO: `tasks/` registers from this table, and hosts without
SeqIO read names and labels by it.

Source: Distilling Step-by-Step, section 3.2 (label and rationale tasks) and
its single-task ablation (joint); the authors' run.py for prefixes and for the
baseline without one. Raffel et al. 2020 (T5) for span corruption.
"""

import dataclasses
from typing import Literal

_ANSWER_MARKER = " answer: "
_RATIONALE_MARKER = " rationale: "


@dataclasses.dataclass(frozen=True)
class TaskKind:
  """One kind of task.

  Attributes:
    prefix: "label" or "rationale": which of the settings' prefixes goes before
      the input; None: the input as it is.
    target: what the target is made of, in order, out of "label" and
      "rationale"; or "span_corruption", what was dropped from the record's
      texts, see `data.span_corruption`.
    loss: which loss the target's tokens count in: "label" or "rationale";
      "joint" counts as label loss and its label is read out of the text;
      "span_corruption" counts as label loss and holds no label.
    uses_teacher_labels: the training targets are the teacher's labels. The
      other splits keep gold labels, as the authors' code does.
  """

  prefix: Literal["label", "rationale"] | None
  target: tuple[str, ...]
  loss: Literal["label", "rationale", "joint", "span_corruption"]
  uses_teacher_labels: bool = False


KINDS = {
  "label": TaskKind("label", ("label",), "label"),
  "teacher_label": TaskKind("label", ("label",), "label", True),
  "rationale": TaskKind("rationale", ("rationale",), "rationale"),
  "finetune": TaskKind(None, ("label",), "label"),
  "teacher_finetune": TaskKind(None, ("label",), "label", True),
  "joint": TaskKind("label", ("rationale", "label"), "joint"),
  "joint_label_first": TaskKind("label", ("label", "rationale"), "joint"),
  "span_corruption": TaskKind(None, ("span_corruption",), "span_corruption"),
}

MIXTURES = {
  "distill": ("label", "rationale"),
  "teacher_distill": ("teacher_label", "rationale"),
}

# What stands between the two parts of a joint target.
JOINT_MARKERS: dict[tuple[str, ...], str] = {
  ("rationale", "label"): _ANSWER_MARKER,
  ("label", "rationale"): _RATIONALE_MARKER,
}


def split_target(text: str, target: tuple[str, ...]) -> dict[str, str]:
  """Takes a target, or what a student wrote for one, apart.

  Args:
    text: "<rationale> answer: <label>", "<label> rationale: <rationale>", or
      one of the two alone.
    target: what it is made of, see `TaskKind`. It decides the order; the text
      is not asked, since a rationale may hold either marker.

  Returns:
    The text of each part. The label stands behind the last " answer: ", or
    before the first " rationale: ". Without its marker a rationale has no label
    behind it, which is then ""; a label may stand alone.
  """
  marker = JOINT_MARKERS.get(target, "").strip()
  if not marker:
    return {target[0]: text}
  if target[0] == "label":
    label, _, rationale = text.partition(marker)
  elif marker in text:
    rationale, _, label = text.rpartition(marker)
  else:
    rationale, label = text, ""
  return {"label": label.strip(), "rationale": rationale.strip()}


def extract_label(text: str, target: tuple[str, ...]) -> str:
  """Reads the label out of a target or prediction, see `split_target`."""
  return split_target(text, target)["label"]


def split_task_name(name: str) -> tuple[str, str | None]:
  """Splits "svamp_teacher_distill" into ("svamp", "teacher_distill").

  Args:
    name: a task's or a mixture's.

  Returns:
    Data set and kind; the whole name and None where it ends in no known kind.
  """
  for kind in sorted([*KINDS, *MIXTURES], key=len, reverse=True):
    if name.endswith(f"_{kind}"):
      return name.removesuffix(f"_{kind}"), kind
  return name, None
