"""What the texts of a token cache hold that no score would show.

Counts what the vocabulary cannot spell, labels that are no answer or that share
their ids, and inputs that several splits share. The counts lie beside the
tokens in `survey.json`; a cache of an earlier version, which has none, is
counted when it is next opened.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import tqdm

from distill_jax.answers import equality
from distill_jax.answers.answer_choices import read_choices
from distill_jax.data import label_reader, task_kinds
from distill_jax.data.token_cache import Example, TaskInfo, TokenCache
from distill_jax.data.vocab import (
  BYTES,
  UNK_ID,
  Vocabulary,
  load_vocabulary,
)
from distill_jax.files import atomic

FORMAT = 2
_FILE = "survey.json"
_SPLITS = ("train", "validation", "test")
_NUM_SHOWN = 5
# Longer targets of a task without a label set are texts and no labels.
_MAX_LABEL_CHARACTERS = 200
_MAX_SHOWN_CHARACTERS = 60
_ADVICE = (
  ' Bind VOCAB_PATH to a vocabulary that has them ("bytes" can spell anything).'
)


@dataclasses.dataclass(frozen=True)
class UnknownCount:
  """Unknown ids in one field of one split.

  Attributes:
    split: its name.
    field: "inputs", "label" or "rationale".
    num_ids: unknown ids.
    num_texts: texts that hold one; equal inputs are one text.
    of_texts: all texts of that field.
    pieces: what is not spelled, the most frequent first -> how often.
  """

  split: str
  field: str
  num_ids: int
  num_texts: int
  of_texts: int
  pieces: dict[str, int]


@dataclasses.dataclass(frozen=True)
class OutsideCount:
  """Labels of one task and split that are no answer, or spelled otherwise.

  Attributes:
    task: its name.
    split: its name.
    num_labels: labels outside the label set, equations without a value, empty
      ones; or, of `Survey.respelled`, labels that the set spells otherwise.
    of_labels: all labels.
    labels: the most frequent of them -> how often.
  """

  task: str
  split: str
  num_labels: int
  of_labels: int
  labels: dict[str, int]


@dataclasses.dataclass(frozen=True)
class AlikeCount:
  """Texts that differ and have the same ids.

  Attributes:
    task: its name.
    what: "labels" of a task without a label set, or "choices" of a question.
    num_pairs: labels whose ids are those of another; questions with such
      choices.
    first: the first two, as the data set has them.
  """

  task: str
  what: str
  num_pairs: int
  first: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class SharedCount:
  """Inputs that two splits share.

  Attributes:
    split: one split.
    earlier: the other.
    num_exact: different inputs of `split` that `earlier` has too.
    num_normalized: the same once blanks and case are made one.
    of_inputs: different inputs of `split`.
    first: the first of them; "" where there is none.
  """

  split: str
  earlier: str
  num_exact: int
  num_normalized: int
  of_inputs: int
  first: str


@dataclasses.dataclass(frozen=True)
class Survey:
  """All that was counted; of unknown, outside and alike only what there is."""

  unknown: tuple[UnknownCount, ...] = ()
  outside: tuple[OutsideCount, ...] = ()
  respelled: tuple[OutsideCount, ...] = ()
  alike: tuple[AlikeCount, ...] = ()
  shared: tuple[SharedCount, ...] = ()

  def describe(self) -> list[str]:
    """Returns a line for each count, and one where nothing is unknown."""
    lines = [
      f"unknown ids in {each.split} {each.field}: {each.num_ids}, in"
      f" {each.num_texts} of {each.of_texts} texts"
      for each in self.unknown
    ] or ["unknown ids: none"]
    lines += [
      f"labels of {each.task} {each.split} that are no answer:"
      f" {each.num_labels} of {each.of_labels}"
      for each in self.outside
    ]
    lines += [
      f"labels of {each.task} {each.split} that the label set spells otherwise:"
      f" {each.num_labels} of {each.of_labels}, {_list_counts(each.labels)}"
      for each in self.respelled
    ]
    lines += [
      f"inputs of {each.split} that {each.earlier} has too: {each.num_exact} of"
      f" {each.of_inputs}, {each.num_normalized} after normalizing blanks and"
      " case"
      for each in self.shared
    ]
    return lines

  def make_warnings(self) -> list[str]:
    """Returns what a user must know before training, one text a finding."""
    texts = []
    for index, each in enumerate(self.unknown):
      then = "see" if each.field == "inputs" else "write"
      texts.append(
        f"The vocabulary cannot spell {each.num_texts} of {each.of_texts}"
        f" {_PLURALS[each.field]} of {each.split}: {each.num_ids} unknown ids,"
        f" for {_list_counts(each.pieces)}. The student cannot {then} them."
        + _ADVICE
        * (index == 0)
      )
    for each in self.outside:
      texts.append(
        f"{each.num_labels} of {each.of_labels} labels of {each.task}"
        f" {each.split} are no answer of the task:"
        f" {_list_counts(each.labels)}. eval leaves them out of the accuracy;"
        " training learns them. Mend the labels, or the data set's label_set or"
        " metric."
      )
    for each in self.alike:
      first, second = map(_shorten, each.first)
      where = (
        f"labels of {each.task}"
        if each.what == "labels"
        else f"questions of {each.task} with choices"
      )
      texts.append(
        f"{each.num_pairs} {where} have the same token ids as another of them,"
        f" the first {first} and {second}. No student can tell them apart."
        f"{_ADVICE}"
      )
    for each in self.shared:
      if each.num_normalized:
        then = (
          f"Scores on {each.split} are too high by what the student has seen."
          if each.earlier == "train"
          else f"What is chosen by {each.earlier} is chosen by them."
        )
        texts.append(
          f"{each.split} shares {each.num_normalized} of its"
          f" {each.of_inputs} inputs with {each.earlier} ({each.num_exact}"
          " exactly, the others but for blanks and case), the first"
          f" {_shorten(each.first)}. {then} Take them out of one of the two."
        )
    return texts


_PLURALS = {"inputs": "inputs", "label": "labels", "rationale": "rationales"}


def load_survey(cache: TokenCache) -> Survey:
  """Returns what a cache's texts hold; counts them where nobody has.

  Args:
    cache: opened. The counts are kept in its folder if that can be written.
  """
  path = pathlib.Path(cache.path) / _FILE
  survey = _read(path)
  if survey is None:
    vocabulary = load_vocabulary(cache.vocabulary_path or BYTES)
    survey = make_survey(cache, vocabulary)
    # A shared cache may be another user's; then it is counted each time.
    with contextlib.suppress(OSError):
      _write(path, survey)
  return survey


def make_survey(cache: TokenCache, vocabulary: Vocabulary) -> Survey:
  """Counts what the texts of a cache hold.

  Args:
    cache: opened; all of its examples are read.
    vocabulary: the cache's.
  """
  counter = _Counter(vocabulary)
  sizes = [n for info in cache.tasks.values() for n in info.splits.values()]
  with tqdm.tqdm(
    total=sum(sizes), desc="looking at texts", unit=" examples", delay=2
  ) as bar:
    for split in _list_splits(cache):
      for task, info in cache.tasks.items():
        if split in info.splits:
          for example in cache.open_split(task, split):
            counter.add(task, info, split, example)
            bar.update()
  return counter.finish()


def _list_splits(cache: TokenCache) -> list[str]:
  found = {split for info in cache.tasks.values() for split in info.splits}
  known = [split for split in _SPLITS if split in found]
  return known + sorted(found - {*known})


class _Counter:
  """Sees every example once, one split after the other."""

  def __init__(self, vocabulary: Vocabulary):
    self._vocabulary = vocabulary
    # By split: what tells inputs apart, as they are and normalized.
    self._exact: dict[str, set[int]] = collections.defaultdict(set)
    self._normalized: dict[str, set[int]] = collections.defaultdict(set)
    # By two splits.
    self._first_shared: dict[tuple[str, str], str] = {}
    self._num_exact: collections.Counter = collections.Counter()
    self._num_normalized: collections.Counter = collections.Counter()
    # By split and field.
    self._texts: collections.Counter = collections.Counter()
    self._unknown_texts: collections.Counter = collections.Counter()
    self._pieces: dict[tuple[str, str], collections.Counter[str]] = (
      collections.defaultdict(collections.Counter)
    )
    # By task and split.
    self._labels: collections.Counter = collections.Counter()
    self._outside: dict[tuple[str, str], collections.Counter[str]] = (
      collections.defaultdict(collections.Counter)
    )
    self._respelled: dict[tuple[str, str], collections.Counter[str]] = (
      collections.defaultdict(collections.Counter)
    )
    self._readers: dict[str, label_reader.LabelReader] = {}
    # By task: ids of a label -> its text.
    self._spelled: dict[str, dict[tuple[int, ...], str]] = (
      collections.defaultdict(dict)
    )
    # By task; of labels each pair once.
    self._alike_labels: dict[str, dict[tuple[str, str], None]] = (
      collections.defaultdict(dict)
    )
    self._alike_choices: dict[str, list[tuple[str, str]]] = (
      collections.defaultdict(list)
    )

  def add(
    self, task: str, info: TaskInfo, split: str, example: Example
  ) -> None:
    """Counts one example."""
    if info.kind == "span_corruption":
      # Copies of a text differ by what was dropped, and none was kept whole.
      ids = np.concatenate([example.inputs, example.targets])
      self._add_texts(split, {"inputs": ""}, ids)
      return
    self._add_inputs(task, info, split, example)
    text = example.targets_text
    if info.kind != "rationale":
      text = self._vocabulary.restore_text(example.targets, text)
    parts = task_kinds.split_target(text, info.target)
    self._add_texts(split, parts, example.targets)
    if "label" in parts:
      self._add_label(task, info, split, parts["label"])

  def _add_inputs(self, task, info, split, example) -> None:
    # A task that keeps no text still tells its inputs apart by their ids.
    text = example.inputs_text or " ".join(map(str, example.inputs.tolist()))
    question = text.removeprefix(info.inputs_prefix)
    exact = _hash(question)
    if exact in self._exact[split]:
      return  # The same record in another task, or again.
    self._exact[split].add(exact)
    normalized = _hash(equality.normalize(question).casefold())
    self._normalized[split].add(normalized)
    for earlier in self._exact:
      if earlier != split and normalized in self._normalized[earlier]:
        self._num_normalized[earlier, split] += 1
        self._num_exact[earlier, split] += exact in self._exact[earlier]
        self._first_shared.setdefault((earlier, split), question)
    self._add_texts(split, {"inputs": text}, example.inputs)
    alike = label_reader.find_alike(
      read_choices(question) or (), self._vocabulary
    )
    if alike:
      self._alike_choices[task].append(alike)

  def _add_texts(self, split, texts, ids) -> None:
    """Counts the texts, by field, that together have these ids."""
    num_unknown = int(np.count_nonzero(ids == UNK_ID))
    found = {
      field: self._vocabulary.find_unknown(text) if num_unknown else []
      for field, text in texts.items()
    }
    if num_unknown and not any(found.values()):
      # The text was not kept, or it is what stands between its parts.
      found[next(iter(found))] = [self._vocabulary.decode([UNK_ID])] * (
        num_unknown
      )
    for field, pieces in found.items():
      self._texts[split, field] += 1
      if pieces:
        self._unknown_texts[split, field] += 1
        self._pieces[split, field].update(pieces)

  def _add_label(self, task, info, split, label) -> None:
    if task not in self._readers:
      self._readers[task] = label_reader.LabelReader(
        info.metric, info.label_set, self._vocabulary
      )
    self._labels[task, split] += 1
    if self._readers[task].read(label) is None:
      self._outside[task, split][label] += 1
    elif info.label_set and label not in info.label_set:
      self._respelled[task, split][label] += 1
    if info.label_set is None and len(label) <= _MAX_LABEL_CHARACTERS:
      spelled = self._spelled[task]
      ids = tuple(self._vocabulary.encode(label))
      other = spelled.setdefault(ids, label)
      if _fold(other) != _fold(label):
        self._alike_labels[task][other, label] = None

  def finish(self) -> Survey:
    """Returns what was counted."""
    return Survey(
      unknown=tuple(
        UnknownCount(
          split,
          field,
          pieces.total(),
          self._unknown_texts[split, field],
          self._texts[split, field],
          dict(pieces.most_common(_NUM_SHOWN)),
        )
        for (split, field), pieces in self._pieces.items()
      ),
      outside=self._list_outside(self._outside),
      respelled=self._list_outside(self._respelled),
      alike=tuple(
        AlikeCount(task, what, len(pairs), next(iter(pairs)))
        for what, by_task in (
          ("labels", self._alike_labels),
          ("choices", self._alike_choices),
        )
        for task, pairs in by_task.items()
      ),
      shared=tuple(self._list_shared()),
    )

  def _list_outside(self, counts) -> tuple[OutsideCount, ...]:
    return tuple(
      OutsideCount(
        task,
        split,
        labels.total(),
        self._labels[task, split],
        dict(labels.most_common(_NUM_SHOWN)),
      )
      for (task, split), labels in counts.items()
    )

  def _list_shared(self) -> Iterator[SharedCount]:
    splits = list(self._exact)
    for index, split in enumerate(splits):
      for earlier in splits[:index]:
        yield SharedCount(
          split,
          earlier,
          self._num_exact[earlier, split],
          self._num_normalized[earlier, split],
          len(self._exact[split]),
          self._first_shared.get((earlier, split), ""),
        )


def _hash(text: str) -> int:
  digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
  return int.from_bytes(digest)


def _fold(label: str) -> str:
  """Makes blanks and case one, and nothing else: "10²" is not "102"."""
  return " ".join(label.split()).casefold()


def _shorten(text: str) -> str:
  is_long = len(text) > _MAX_SHOWN_CHARACTERS
  return repr(text[:_MAX_SHOWN_CHARACTERS] + "..." if is_long else text)


def _list_counts(counts: dict[str, int]) -> str:
  return ", ".join(f"{_shorten(text)} ({n})" for text, n in counts.items())


def _write(path: pathlib.Path, survey: Survey) -> None:
  content = {"format": FORMAT} | dataclasses.asdict(survey)
  atomic.write_text(path, json.dumps(content, indent=2))


def _read(path: pathlib.Path) -> Survey | None:
  """Returns what was counted before; None where it is not to be had."""

  def make(kind, rows: Sequence[dict]):
    return tuple(kind(**row) for row in rows)

  try:
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["format"] != FORMAT:
      return None
    return Survey(
      unknown=make(UnknownCount, content["unknown"]),
      outside=make(OutsideCount, content["outside"]),
      respelled=make(OutsideCount, content["respelled"]),
      alike=tuple(
        AlikeCount(**{**row, "first": tuple(row["first"])})
        for row in content["alike"]
      ),
      shared=make(SharedCount, content["shared"]),
    )
  except (OSError, ValueError, TypeError, KeyError):
    return None
