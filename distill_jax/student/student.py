"""A trained student: predicts, explains, scores and saves itself.

What `infer` does with files, a notebook and a server do here with texts.
"""

import collections
import dataclasses
import functools
import itertools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from distill_jax.data import named_tasks, task_kinds
from distill_jax.data.token_cache import Example, TaskInfo
from distill_jax.decoding import layout as layout_lib
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.evaluation.evaluator import Evaluator
from distill_jax.student import conversion, loading
from distill_jax.student.predictions import (
  Prediction,
  Score,
  evaluate_equation,
)
from distill_jax.student.texts import check_texts

_log = logging.getLogger(__name__)

PyTree = Any
# Each way to decode keeps what it has laid out of the parameters.
_MAX_EVALUATORS = 8


class Student:
  """A model with its vocabulary and its tasks; `load_student` makes one.

  Inputs go together in arrays of a few shapes, rows and lengths halved from the
  largest. Each shape is compiled when it is first met, and found again by later
  calls. A text's result does not depend on its neighbours.

  Example:
    >>> import distill_jax as dj
    >>> student = dj.load_student("runs/svamp")
    >>> student.tasks
    ['toy_label', 'toy_rationale']
  """

  def __init__(
    self,
    opened: loading.OpenedModel,
    tasks: Mapping[str, TaskInfo],
    batch_rows: int = 32,
    decode_layout: str = layout_lib.AUTO,
  ):
    """Prepares; parameters are read when they are first needed.

    Args:
      opened: the model; of several checkpoints the first is meant.
      tasks: what it learned, by name; see `find_tasks`.
      batch_rows: inputs computed at once, at most.
      decode_layout: where the decoder's parameters lie meanwhile, one of
        `decoding.layout.LAYOUTS`.

    Raises:
      UserError: `batch_rows` or `decode_layout` cannot be.
    """
    if type(batch_rows) is not int or batch_rows < 1:
      raise UserError(
        f"batch_rows is {batch_rows!r}; it must be a whole number >= 1."
      )
    layout_lib.check(decode_layout)
    self._opened, self._tasks = opened, tasks
    self._batch_rows, self._decode_layout = batch_rows, decode_layout
    self._evaluators: dict[DecodingConfig, Evaluator] = {}

  @property
  def tasks(self) -> list[str]:
    """Names of what it learned; none where nothing tells."""
    return list(self._tasks)

  @property
  def path(self) -> str:
    """Where its checkpoint lies."""
    return self._opened.checkpoints[0].path

  @property
  def config(self) -> Any:
    """The architecture."""
    return self._opened.model.config

  @functools.cached_property
  def params(self) -> PyTree:
    """Its parameters, on the devices."""
    return self._opened.load_params(self._opened.checkpoints[0])

  def __repr__(self) -> str:
    return f"Student({self.path!r})"

  def predict(
    self,
    texts: Sequence[str],
    *,
    prefix: str | None = None,
    decoding: DecodingConfig | None = None,
    max_decode_length: int | None = None,
  ) -> list[Prediction]:
    """Answers each text.

    Example:
      >>> import distill_jax as dj
      >>> student = dj.load_student("runs/svamp")
      >>> (prediction,) = student.predict(["Luke scored 84 points ..."])
      >>> prediction.finish_reason in ("stop", "length")
      True

    Args:
      texts: any texts, without a prefix.
      prefix: goes before each text; None: that of the label task it learned;
        of a checkpoint that tells no task nothing.
      decoding: how tokens are chosen; None: greedily.
      max_decode_length: tokens of an answer at most, EOS included; None: as
        `decoding` says, else as in training. Each is compiled by itself.

    Returns:
      One prediction a text, in order.

    Raises:
      UserError: these are no texts; or the student learned rationales alone.
    """
    info = self.find_label_task()
    if info is None:
      if self.find_rationale_task() is not None:
        raise UserError(
          f"{self._opened.origin} learned rationales alone. Call explain."
        )
      info = named_tasks.make_plain_task("")
    return self._predict(texts, info, prefix, decoding, max_decode_length)

  def explain(
    self,
    texts: Sequence[str],
    *,
    prefix: str | None = None,
    decoding: DecodingConfig | None = None,
    max_decode_length: int | None = None,
  ) -> list[Prediction]:
    """Writes a rationale for each text.

    Example:
      >>> import distill_jax as dj
      >>> student = dj.load_student("runs/svamp")
      >>> len(student.explain(["Luke scored 84 points ...", "And Ann?"]))
      2

    Args:
      texts: as for `predict`.
      prefix: goes before each text; None: that of the rationale task.
      decoding: as for `predict`.
      max_decode_length: as for `predict`.

    Returns:
      One rationale a text, in order.

    Raises:
      UserError: these are no texts; or the student learned no rationales.
    """
    info = self.find_rationale_task()
    if info is None:
      if prefix is None:
        raise UserError(
          "explain needs a student that learned rationales;"
          f" {self.describe_tasks('task')}."
        )
      info = named_tasks.make_plain_task("")
    return self._predict(texts, info, prefix, decoding, max_decode_length)

  def score(
    self,
    texts: Sequence[str],
    targets: Sequence[str],
    *,
    prefix: str | None = None,
  ) -> list[Score]:
    """Tells how likely each target is, given its text.

    Example:
      >>> import distill_jax as dj
      >>> student = dj.load_student("runs/svamp")
      >>> (score,) = student.score(["How many?"], targets=["12"])
      >>> score.log_likelihood < 0, score.num_target_tokens
      (True, 3)

    Args:
      texts: as for `predict`.
      targets: one for each text.
      prefix: goes before each text; None: that of the label task, of a student
        of rationales alone that of theirs.

    Returns:
      One score a text, in order.

    Raises:
      UserError: these are no texts, they are not as many, or a target is longer
        than the model's rows.
    """
    texts = check_texts(texts, "texts")
    targets = check_texts(targets, "targets")
    if len(texts) != len(targets):
      raise UserError(
        f"{len(texts)} texts were given and {len(targets)} targets. Give one"
        " target for each text."
      )
    for index, target in enumerate(targets):
      self.check_target(target, f"targets[{index}]")
    info = self.find_label_task() or self.find_rationale_task()
    info = _with_prefix(info or named_tasks.make_plain_task(""), prefix)
    self.warn_of_trimmed(texts, info)
    self.warn_of_unknown(texts, "input")
    self.warn_of_unknown(targets, "target")
    return self.score_targets(texts, targets, info)

  def save(
    self,
    folder: str | os.PathLike,
    format: Literal["hf", "t5x", "orbax"] = "orbax",
    *,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    overwrite: bool = False,
  ) -> None:
    """Writes the student's checkpoint in another form, as a folder of its own.

    Beside the weights lie the vocabulary and the model's gin file, as with
    `distill-jax-convert`.

    Example:
      >>> import distill_jax as dj
      >>> student = dj.load_student("runs/svamp")
      >>> student.save("out", format="hf")
      >>> len(dj.load_student("out").predict(["Luke scored 84 points ..."]))
      1

    Args:
      folder: a new one.
      format: "hf" for Hugging Face, "t5x", or "orbax".
      dtype: of the weights.
      overwrite: replace an earlier conversion that is there.

    Raises:
      UserError: the folder exists, or cannot be written; or there is no such
        form or type.
    """
    for name, value, known in (
      ("format", format, conversion.FORMATS),
      ("dtype", dtype, tuple(conversion.DTYPES)),
    ):
      if value not in known:
        raise UserError(
          f"{name} is {value!r}; it must be one of"
          f" {', '.join(map(repr, known))}."
        )
    conversion.convert(
      self.path,
      os.fspath(folder),
      destination_format=format,
      dtype=dtype,
      vocab_path=self._opened.vocabulary.path,
      overwrite=overwrite,
    )

  # --- What `infer` and the methods above share -----------------------------

  def find_label_task(self) -> TaskInfo | None:
    """Returns the task whose targets hold labels; None: it learned none."""
    return self._find_task("label") or self._find_task("joint")

  def find_rationale_task(self) -> TaskInfo | None:
    """Returns the task of rationales; None: it learned none."""
    return self._find_task("rationale")

  def describe_tasks(self, setting: str) -> str:
    """Words for messages: what it learned, or the setting that says so."""
    if self._tasks:
      return f"{self._opened.origin} learned {', '.join(self._tasks)}"
    return f"of a checkpoint that lies in no run {setting} says so"

  def decode_texts(
    self,
    texts: Sequence[str],
    info: TaskInfo,
    decoding: DecodingConfig,
    first_row: int = 0,
  ) -> list[list[Prediction]]:
    """Decodes `num_samples` predictions for each text.

    Args:
      texts: checked.
      info: their task.
      decoding: how tokens are chosen.
      first_row: number of the first text among all, see
        `Evaluator.predict_samples`.

    Returns:
      For each text its samples, in order.
    """
    examples = [self._make_example(text, "", info) for text in texts]
    decoded = self._find_evaluator(decoding).predict_samples(
      self.params, examples, info, first_row
    )
    is_equation = info.metric == "equation" and info.kind != "rationale"
    predictions = []
    for samples in decoded:
      predictions.append([])
      for text, finish_reason in samples:
        if info.kind == "joint":
          text = task_kinds.extract_label(text, info.target)
        value = evaluate_equation(text) if is_equation else None
        predictions[-1].append(Prediction(text, finish_reason, value))
    return predictions

  def score_targets(
    self, texts: Sequence[str], targets: Sequence[str], info: TaskInfo
  ) -> list[Score]:
    """As `score`, of texts and targets that are checked.

    Args:
      texts: inputs.
      targets: theirs.
      info: their task.
    """
    examples = [
      self._make_example(text, target, info)
      for text, target in zip(texts, targets, strict=True)
    ]
    evaluator = self._find_evaluator(DecodingConfig())
    found = evaluator.compute_log_likelihoods(self.params, examples, info)
    return [
      Score(float(log_likelihood), int(count))
      for log_likelihood, count in zip(*found, strict=True)
    ]

  def check_target(self, target: str, where: str) -> None:
    """Refuses a target that is longer than the model's rows.

    Args:
      target: to be scored.
      where: its place, for the message.

    Raises:
      UserError: names the place.
    """
    limit = self._opened.feature_lengths["targets"]
    num_tokens = len(self._encode_target(target))
    if num_tokens > limit:
      raise UserError(
        f"{where}: the target has {num_tokens} tokens with EOS;"
        f" {self._opened.origin} has rows of {limit}, and part of a target has"
        " no score. Shorten it, leave it out, or raise TASK_FEATURE_LENGTHS."
      )

  def warn_of_trimmed(self, texts: Sequence[str], info: TaskInfo) -> None:
    """Counts the inputs that are longer than a row, in the log.

    Args:
      texts: inputs.
      info: their task.
    """
    limit = self._opened.feature_lengths["inputs"]
    num_trimmed = sum(
      len(self._encode_input(text, info)) > limit for text in texts
    )
    if num_trimmed:
      _log.warning(
        "%d of %d inputs have more than the %d tokens of a row, with %r"
        " before them and EOS behind; they are trimmed.",
        num_trimmed,
        len(texts),
        limit,
        info.inputs_prefix,
      )

  def warn_of_unknown(self, texts: Iterable[str], name: str) -> None:
    """Names what the vocabulary cannot spell, in the log.

    Args:
      texts: inputs or targets.
      name: of one of them.
    """
    found = [self._opened.vocabulary.find_unknown(text) for text in texts]
    pieces = collections.Counter(itertools.chain(*found))
    if pieces:
      _log.warning(
        "%d of %d %ss hold what the model's vocabulary cannot spell, which is"
        " unknown to the student: %s.",
        sum(map(bool, found)),
        len(found),
        name,
        ", ".join(f"{piece!r} ({n})" for piece, n in pieces.most_common(5)),
      )

  def _predict(
    self, texts, info, prefix, decoding, max_decode_length
  ) -> list[Prediction]:
    texts = check_texts(texts, "texts")
    info = _with_prefix(info, prefix)
    decoding = _choose_decoding(decoding, max_decode_length)
    self.warn_of_trimmed(texts, info)
    self.warn_of_unknown(texts, "input")
    return [
      dataclasses.replace(
        samples[0], samples=tuple(samples) if len(samples) > 1 else ()
      )
      for samples in self.decode_texts(texts, info, decoding)
    ]

  def _find_task(self, kind: str) -> TaskInfo | None:
    return next(
      (info for info in self._tasks.values() if info.kind == kind), None
    )

  def _find_evaluator(self, decoding: DecodingConfig) -> Evaluator:
    """Returns the evaluator that decodes so, the one of before if any."""
    if decoding not in self._evaluators:
      if len(self._evaluators) == _MAX_EVALUATORS:
        self._evaluators.pop(next(iter(self._evaluators))).release_copies()
      opened = self._opened
      self._evaluators[decoding] = Evaluator(
        opened.model,
        opened.mesh,
        opened.vocabulary,
        opened.feature_lengths,
        self._batch_rows,
        decoding,
        self._decode_layout,
        # Down to one row: a single request is not to wait for the others' room.
        num_row_buckets=self._batch_rows.bit_length() + 1,
      )
    return self._evaluators[decoding]

  def _make_example(self, text: str, target: str, info: TaskInfo) -> Example:
    return Example(
      id="",
      inputs=self._encode_input(text, info),
      targets=self._encode_target(target),
      inputs_text=text,
      targets_text=target,
    )

  def _encode_input(self, text: str, info: TaskInfo) -> np.ndarray:
    vocabulary = self._opened.vocabulary
    ids = vocabulary.encode_inputs(info.inputs_prefix + text)
    return np.asarray([*ids, vocabulary.eos_id], np.int32)

  def _encode_target(self, text: str) -> np.ndarray:
    vocabulary = self._opened.vocabulary
    return np.asarray([*vocabulary.encode(text), vocabulary.eos_id], np.int32)


def _choose_decoding(
  decoding: DecodingConfig | None, max_decode_length: int | None
) -> DecodingConfig:
  decoding = decoding or DecodingConfig()
  if not isinstance(decoding, DecodingConfig):
    raise UserError(
      f"decoding is {decoding!r:.60}; it must be a DecodingConfig, such as"
      " DecodingConfig('sample', temperature=0.7)."
    )
  if max_decode_length is None:
    return decoding
  return dataclasses.replace(decoding, max_decode_length=max_decode_length)


def _with_prefix(info: TaskInfo, prefix: str | None) -> TaskInfo:
  if prefix is None:
    return info
  (prefix,) = check_texts([prefix], "prefix")
  return dataclasses.replace(info, inputs_prefix=prefix)
