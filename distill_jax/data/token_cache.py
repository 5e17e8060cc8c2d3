"""The token cache: what `prepare` writes and everything after it reads.

Knows no TensorFlow and no SeqIO, so that a host without them can be handed the
folder. One folder holds one task or mixture:

  <cache_dir>/<name>-<fingerprint>/
    cache.json                    manifest; written last, so it marks the end
    <task>-<split>.array_record   one msgpack map an example
    vocabulary.model              the vocabulary the ids belong to

The fingerprint covers everything that decides the bytes: format, package
version, name, settings, vocabulary and the contents of the source files.
"""

import collections
import contextlib
import dataclasses
import difflib
import hashlib
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgpack
import numpy as np
from array_record.python import (
  array_record_module,  # pyright: ignore[reportAttributeAccessIssue] no stub
)
from grain import sources as grain_sources

import distill_jax
from distill_jax.data import task_kinds
from distill_jax.data.token_table import TokenTable
from distill_jax.errors import UserError
from distill_jax.files import unfinished

FORMAT = 2
_MANIFEST = "cache.json"
_UNFINISHED = ".building-"
_VOCABULARY = "vocabulary.model"
# Fields of an example, stored as little-endian int32.
_TOKENS = ("inputs", "targets")
# Read at once: the reader decompresses them on threads of its own.
_RECORDS_A_READ = 4096


@dataclasses.dataclass(frozen=True)
class Example:
  """One tokenized example.

  Attributes:
    id: the record's id; a label row and its rationale row share it.
    inputs: [input_length] int32 ids, no EOS at the end unless the task adds
      one, not trimmed.
    targets: [target_length] int32 ids, as `inputs`.
    inputs_text: what was tokenized.
    targets_text: as `inputs_text`.
    weight: of its targets' tokens in the training loss.
  """

  id: str
  inputs: np.ndarray
  targets: np.ndarray
  inputs_text: str
  targets_text: str
  weight: float = 1.0

  def to_bytes(self) -> bytes:
    """Serializes the example for `ArrayRecord`."""
    fields = dataclasses.asdict(self)
    for key in _TOKENS:
      fields[key] = np.asarray(fields[key], "<i4").tobytes()
    packed = msgpack.packb(fields)
    assert packed is not None  # The stub allows for a streaming packer.
    return packed

  @classmethod
  def from_bytes(cls, serialized: bytes) -> "Example":
    """Inverse of `to_bytes`."""
    fields = msgpack.unpackb(serialized)
    for key in _TOKENS:
      fields[key] = np.frombuffer(fields[key], "<i4").astype(np.int32)
    return cls(**fields)


@dataclasses.dataclass(frozen=True)
class TaskInfo:
  """What training and evaluation must know of a task, without SeqIO.

  Attributes:
    rate: mixing rate in the mixture.
    kind: which loss its targets count in, see `task_kinds.TaskKind`.
    metric: "exact_match" or "equation".
    label_set: the closed set of labels, or None.
    uses_teacher_labels: whether the targets are the teacher's labels.
    inputs_prefix: text that the task puts before each input.
    splits: split name -> number of examples.
    teacher_counts: split -> counts of the teacher's outputs: parse statuses,
      and whether the label is the gold one (see `datasets.count_teacher`).
    lengths: split -> "inputs" or "targets" -> number of tokens, as text, ->
      number of examples; filled in by `write_cache`.
    target: what a target is made of, in order, see `task_kinds.TaskKind`;
      empty: as in the kind of that name.
  """

  rate: float
  kind: Literal["label", "rationale", "joint", "span_corruption"]
  metric: Literal["exact_match", "equation"]
  label_set: tuple[str, ...] | None
  uses_teacher_labels: bool
  inputs_prefix: str
  splits: dict[str, int]
  teacher_counts: dict[str, dict[str, int]]
  lengths: dict[str, dict[str, dict[str, int]]] = dataclasses.field(
    default_factory=dict
  )
  target: tuple[str, ...] = ()

  def __post_init__(self):
    if not self.target:
      object.__setattr__(self, "target", task_kinds.KINDS[self.kind].target)

  @property
  def has_labels(self) -> bool:
    """Whether a label is part of the targets, to be read out and scored."""
    return "label" in self.target

  def count_longer(self, split: str, feature: str, length: int) -> int:
    """Counts the examples of a split that `length` tokens would trim."""
    lengths = self.lengths.get(split, {}).get(feature, {})
    return sum(n for tokens, n in lengths.items() if int(tokens) > length)

  def find_longest(self, feature: str) -> int:
    """Returns the most tokens in any split; 0 where they were not counted."""
    return max(
      (
        int(tokens)
        for features in self.lengths.values()
        for tokens in features.get(feature, {})
      ),
      default=0,
    )


def read_task_info(name: str, fields: Mapping[str, Any]) -> TaskInfo:
  """Makes a task's description of what JSON kept of it.

  Args:
    name: the task's. It tells the order of a joint target where the fields do
      not: those of a run, and caches of earlier versions.
    fields: of a `TaskInfo`.
  """
  _, kind_name = task_kinds.split_task_name(name)
  kind = task_kinds.KINDS.get(kind_name or "")
  is_joint = kind is not None and kind.loss == fields["kind"] == "joint"
  target = fields.get("target") or (kind.target if kind and is_joint else ())
  label_set = fields["label_set"]
  return TaskInfo(
    **{
      **fields,
      "label_set": None if label_set is None else tuple(label_set),
      "target": tuple(target),
    }
  )


def hash_file(path: str | os.PathLike) -> str:
  """Returns the SHA-256 of a file's bytes, in hex."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def make_identity(
  name: str,
  settings: Mapping[str, Any],
  vocabulary_sha256: str,
  source_files: Sequence[pathlib.Path] | None,
) -> dict[str, Any]:
  """Collects everything that decides the bytes of a cache.

  Args:
    name: task or mixture.
    settings: the data settings that shape examples, as plain JSON values.
    vocabulary_sha256: hash of the vocabulary.
    source_files: files the examples are made from; None: not on this machine.

  Returns:
    A JSON object; `fingerprint` hashes it. Source files go by their path below
    the folder they share: data may move between machines.
  """
  return {
    "format": FORMAT,
    "distill_jax": distill_jax.__version__,
    "name": name,
    "settings": json.loads(json.dumps(settings)),
    "vocabulary_sha256": vocabulary_sha256,
    "sources": None if source_files is None else _hash_sources(source_files),
  }


def _hash_sources(files: Sequence[pathlib.Path]) -> dict[str, str]:
  if not files:
    return {}
  shared_folder = os.path.commonpath([file.parent for file in files])
  return {
    file.relative_to(shared_folder).as_posix(): hash_file(file)
    for file in files
  }


def fingerprint(identity: Mapping[str, Any]) -> str:
  """Returns 16 hex digits that change whenever `identity` does."""
  canonical = json.dumps(identity, sort_keys=True).encode()
  return hashlib.sha256(canonical).hexdigest()[:16]


def cache_path(
  cache_dir: str | os.PathLike, identity: Mapping[str, Any]
) -> pathlib.Path:
  """Returns the folder where the cache of `identity` lies or will lie."""
  name = f"{identity['name']}-{fingerprint(identity)}"
  return pathlib.Path(cache_dir).expanduser() / name


def write_cache(
  path: pathlib.Path,
  identity: Mapping[str, Any],
  tasks: Mapping[str, TaskInfo],
  examples: Iterable[tuple[str, str, Example]],
  vocabulary_path: str | None,
  overwrite: bool = False,
) -> None:
  """Writes a cache folder; it appears under its name only when complete.

  Args:
    path: the folder, see `cache_path`.
    identity: see `make_identity`.
    tasks: what to record of each task; split sizes are filled in here.
    examples: (task, split, example), grouped by task and split.
    vocabulary_path: file to put beside the tokens; None when the vocabulary
      is made of bytes.
    overwrite: replace a folder of that name.

  Raises:
    UserError: the folder exists and `overwrite` is not set, it cannot be made,
      or a task has no examples.
  """
  unfinished.remove_dead(path.parent, _UNFINISHED)
  if path.exists() and not overwrite:
    raise UserError(f"{path} exists. Add --overwrite to build it again.")
  work = unfinished.UnfinishedFolder(path, _UNFINISHED)
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(work)
    except OSError as error:
      raise UserError(
        f"The token cache cannot be written: {error}. Give another CACHE_DIR."
      ) from error
    building = work.content
    counts: dict[str, dict[str, int]] = {task: {} for task in tasks}
    lengths: dict[str, Any] = {task: {} for task in tasks}
    for (task, split), rows in itertools.groupby(examples, lambda row: row[:2]):
      # One example a chunk: random access reads just what it returns.
      writer = array_record_module.ArrayRecordWriter(
        str(building / f"{task}-{split}.array_record"), "group_size:1"
      )
      counter = {name: collections.Counter() for name in _TOKENS}
      for _, _, example in rows:
        writer.write(example.to_bytes())
        for name in counter:
          counter[name][str(len(getattr(example, name)))] += 1
      counts[task][split] = counter["inputs"].total()
      lengths[task][split] = {name: dict(n) for name, n in counter.items()}
      writer.close()
    for task, splits in counts.items():
      if not splits:
        raise UserError(
          f"Task {task} has no examples at all (empty data set). Look at its"
          " source files and at the filters that are switched on."
        )
    if vocabulary_path is not None:
      shutil.copyfile(vocabulary_path, building / _VOCABULARY)
    manifest = {
      "identity": identity,
      "tasks": {
        task: dataclasses.asdict(
          dataclasses.replace(info, splits=counts[task], lengths=lengths[task])
        )
        for task, info in tasks.items()
      },
      "files": {
        file.name: {"bytes": file.stat().st_size, "sha256": hash_file(file)}
        for file in sorted(building.iterdir())
      },
    }
    (building / _MANIFEST).write_text(json.dumps(manifest, indent=2))
    work.put_in_place()


class TokenCache:
  """A cache folder, opened and verified.

  Attributes:
    path: the folder.
    identity: what the bytes were made from.
    tasks: task name -> `TaskInfo`.
    file_hashes: file name -> SHA-256, in hex.
  """

  def __init__(self, path: str | os.PathLike):
    """Opens a cache folder.

    Args:
      path: the folder.

    Raises:
      UserError: no manifest, another format, or a file is missing or has
        other bytes than were written.
    """
    self.path = pathlib.Path(path)
    manifest = _read_manifest(self.path)
    self.identity = manifest["identity"]
    if (found := self.identity.get("format")) != FORMAT:
      raise UserError(
        f"{self.path} has format {found}; this version reads {FORMAT}. Build it"
        " again with --run_mode=prepare."
      )
    self.tasks = {
      name: read_task_info(name, info)
      for name, info in manifest["tasks"].items()
    }
    self.file_hashes: dict[str, str] = {}
    for name, expected in manifest["files"].items():
      self._verify(name, expected)
      self.file_hashes[name] = expected["sha256"]

  def _verify(self, name: str, expected: Mapping[str, Any]) -> None:
    file = self.path / name
    try:
      found = file.stat().st_size if file.exists() else None
      if found == expected["bytes"] and hash_file(file) == expected["sha256"]:
        return
    except OSError as error:  # Another host may replace it just now.
      raise UserError(f"{file} cannot be read: {error}") from error
    what = "is missing" if found is None else "has other bytes than written"
    raise UserError(
      f"The token cache is damaged: {file} {what} (expected"
      f" {expected['bytes']} bytes, found {found}). Build it again with"
      " --run_mode=prepare --overwrite, or copy it again."
    )

  @property
  def fingerprint(self) -> str:
    """16 hex digits of what the bytes were made from."""
    return fingerprint(self.identity)

  @property
  def vocabulary_path(self) -> str | None:
    """The vocabulary's file; None when the vocabulary is made of bytes."""
    file = self.path / _VOCABULARY
    return str(file) if file.exists() else None

  def open_split(self, task: str, split: str) -> "_Split":
    """Returns random access to the examples of one task and split.

    Args:
      task: a name in `tasks`.
      split: e.g. "train".

    Raises:
      UserError: the cache has no such task or split.
    """
    if task not in self.tasks or split not in self.tasks[task].splits:
      found = {name: sorted(info.splits) for name, info in self.tasks.items()}
      raise UserError(
        f"{self.path} has no split {split!r} of task {task!r}; it has {found}."
      )
    return _Split(self.path / f"{task}-{split}.array_record")

  def load_tokens(self, task: str, split: str) -> TokenTable:
    """Reads a split's tokens into memory; raises as `open_split`."""
    return TokenTable(self.open_split(task, split).iterate_tokens())


class _Split(Sequence[Example]):
  """Examples of one file. Grain's source is made anew after unpickling."""

  def __init__(self, file: pathlib.Path):
    self._source = grain_sources.ArrayRecordDataSource(str(file))

  def __len__(self) -> int:
    return len(self._source)  # pyright: ignore[reportArgumentType] it has one

  def __getitem__(self, index) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(index)  # What ends iteration over a sequence.
    return Example.from_bytes(self._source[index])

  def iterate_tokens(self) -> Iterator[tuple[str, bytes, bytes, float]]:
    """Yields what a `TokenTable` is made of, in order."""
    indices = range(len(self))
    for start in range(0, len(self), _RECORDS_A_READ):
      records = self._source.__getitems__(  # pyright: ignore[reportAttributeAccessIssue] of ArrayRecord's
        list(indices[start : start + _RECORDS_A_READ])
      )
      for serialized in records:
        fields = msgpack.unpackb(serialized)
        inputs, targets = (fields[key] for key in _TOKENS)
        yield fields["id"], inputs, targets, fields["weight"]

  def __repr__(self) -> str:
    return repr(self._source)


def _read_manifest(path: pathlib.Path) -> dict[str, Any]:
  try:
    manifest = json.loads((path / _MANIFEST).read_text())
    if absent := {"identity", "tasks", "files"} - manifest.keys():
      raise ValueError(f"no {', '.join(sorted(absent))} in {_MANIFEST}")
  except (OSError, ValueError, AttributeError) as error:
    raise UserError(
      f"{path} is not a readable token cache ({error}). Build it again with"
      " --run_mode=prepare --overwrite."
    ) from error
  return manifest


def read_identity(path: pathlib.Path) -> tuple[dict[str, Any], tuple[str, ...]]:
  """Reads what a cache was made from, without verifying its files.

  Args:
    path: the folder.

  Returns:
    Its identity and the names of its tasks.

  Raises:
    UserError: no manifest, or a broken one.
  """
  manifest = _read_manifest(path)
  return manifest["identity"], tuple(manifest["tasks"])


def list_caches(cache_dir: str | os.PathLike, name: str) -> list[pathlib.Path]:
  """Returns the folders of caches of `name`, newest first."""
  folder = pathlib.Path(cache_dir).expanduser()
  prefix_length = len(name) + 1
  found = [
    path
    for path in folder.glob(f"{name}-*")
    if (path / _MANIFEST).is_file() and "-" not in path.name[prefix_length:]
  ]
  return sorted(found, key=lambda path: -path.stat().st_mtime)


def describe_differences(
  found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> list[str]:
  """Says in words how two identities differ.

  Args:
    found: identity of a cache.
    wanted: identity asked for.

  Returns:
    One string a difference, as "settings.subsample: 1.0 -> 0.5".
  """
  lines = []
  flat_found, flat_wanted = _flatten(found), _flatten(wanted)
  for key in sorted(flat_found.keys() | flat_wanted.keys()):
    before, after = flat_found.get(key), flat_wanted.get(key)
    if before != after:
      lines.append(f"{key}: {before} -> {after}")
  return lines


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      flat |= _flatten(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = value
  return flat


def suggest(name: str, known: Iterable[str]) -> str:
  """Returns " Did you mean 'x'?" for the nearest known name, or ""."""
  close = difflib.get_close_matches(name, list(known), n=1)
  return f" Did you mean {close[0]!r}?" if close else ""
