"""Tests of data/token_cache.py: round trip, identity, damage."""

import dataclasses
import json
import os
import pathlib
import pickle
import stat

import numpy as np
import pytest
from synthetic_cache import make_cache, make_example, make_task_info

from distill_jax.data import token_cache
from distill_jax.errors import UserError
from distill_jax.files import process_identity

_INFO = dataclasses.replace(
  make_task_info("label", rate=0.5, prefix="predict: "),
  label_set=("yes", "no"),
  uses_teacher_labels=True,
  teacher_counts={"train": {"ok": 3, "truncated": 1}},
)


def _make_examples(count):
  rng = np.random.default_rng(1)
  return [make_example(rng, "toy_label", index) for index in range(count)]


def _write(path, examples=None, vocabulary=None, overwrite=False):
  """Writes a cache with one task, toy_label, of three training examples."""
  identity = token_cache.make_identity("toy_label", {"subsample": 1}, "0", [])
  if examples is None:
    examples = (("toy_label", "train", row) for row in _make_examples(3))
  token_cache.write_cache(
    path, identity, {"toy_label": _INFO}, examples, vocabulary, overwrite
  )
  return token_cache.TokenCache(path)


def _assert_equal(found, wanted):
  assert dataclasses.asdict(found).keys() == dataclasses.asdict(wanted).keys()
  for field, value in vars(wanted).items():
    np.testing.assert_array_equal(getattr(found, field), value)


def test_round_trip(tmp_path):
  written = _make_examples(3)
  written[1] = dataclasses.replace(
    written[1],
    id="",
    inputs=np.asarray([2**31 - 1, 0], np.int32),
    targets=np.zeros(0, np.int32),
    inputs_text="Ω</s>\n\U0001f600\0",
    weight=2 / 3,
  )
  vocabulary = tmp_path / "my.model"
  vocabulary.write_bytes(b"\0pieces")
  cache = _write(
    tmp_path / "cache",
    [
      ("toy_label", split, row)
      for split in ("train", "test")
      for row in written
    ],
    str(vocabulary),
  )
  info = cache.tasks["toy_label"]
  assert dataclasses.replace(info, lengths={}) == dataclasses.replace(
    _INFO, splits={"train": 3, "test": 3}
  )
  num_inputs = sorted(len(row.inputs) for row in written)
  assert info.count_longer("train", "inputs", num_inputs[0]) == sum(
    length > num_inputs[0] for length in num_inputs
  )
  assert info.count_longer("train", "targets", 10**6) == 0
  assert info.find_longest("targets") == max(
    len(row.targets) for row in written
  )
  assert info.find_longest("labels") == 0
  assert cache.identity["settings"] == {"subsample": 1}
  assert pathlib.Path(cache.vocabulary_path).read_bytes() == b"\0pieces"
  for split in ("train", "test"):
    found = cache.open_split("toy_label", split)
    assert len(found) == 3
    assert found[1].inputs.dtype == found[1].targets.dtype == np.int32
    for index in (2, 0, 1):
      _assert_equal(found[index], written[index])
    for row, loaded in zip(
      written, cache.load_tokens("toy_label", split), strict=True
    ):
      assert (loaded.id, loaded.weight) == (row.id, row.weight)
      np.testing.assert_array_equal(loaded.inputs, row.inputs)
      np.testing.assert_array_equal(loaded.targets, row.targets)
    # A split may go to another process.
    _assert_equal(pickle.loads(pickle.dumps(found))[1], written[1])


def test_without_a_vocabulary_file(tmp_path):
  assert _write(tmp_path / "cache").vocabulary_path is None


def test_a_split_that_is_not_there(tmp_path):
  cache = _write(tmp_path / "cache")
  with pytest.raises(UserError, match=r"no split 'test' .*it has .*'train'"):
    cache.open_split("toy_label", "test")
  with pytest.raises(UserError, match="of task 'toy'"):
    cache.open_split("toy", "train")


def test_others_may_read_what_is_written(tmp_path):
  modes = tmp_path / "a_new_folder", _write(tmp_path / "cache").path
  modes[0].mkdir()
  wanted, found = (stat.S_IMODE(path.stat().st_mode) for path in modes)
  assert found == wanted


def test_every_part_of_the_identity_changes_the_fingerprint(tmp_path):
  (tmp_path / "train.json").write_bytes(b"1")
  (tmp_path / "llm").mkdir()
  (tmp_path / "llm" / "train.json").write_bytes(b"2")
  sources = [tmp_path / "train.json", tmp_path / "llm" / "train.json"]

  def identify(name="a", settings=None, vocabulary="0", files=sources):
    return token_cache.make_identity(
      name, settings or {"x": (1, 2), "y": "1"}, vocabulary, files
    )

  identities = [
    identify(),
    identify(name="b"),
    identify(settings={"x": (1, 3), "y": "1"}),
    identify(settings={"x": (1, 2), "y": 1}),
    identify(vocabulary="1"),
    identify(files=sources[:1]),
    identify(files=[]),
    identify(files=None),
  ]
  for source in sources:
    before = source.read_bytes()
    source.write_bytes(b"3")
    identities.append(identify())
    source.write_bytes(before)
  fingerprints = {token_cache.fingerprint(value) for value in identities}
  assert len(fingerprints) == len(identities)
  assert identify() == identities[0]
  assert identify(settings={"y": "1", "x": [1, 2]}) == identities[0]


def test_data_may_move_to_another_folder(tmp_path):
  identities = []
  for folder in (tmp_path / "here", tmp_path / "there" / "deeper"):
    files = [folder / "train" / "rows.jsonl", folder / "test" / "rows.jsonl"]
    for file in files:
      file.parent.mkdir(parents=True)
      file.write_text(file.parent.name)
    identities.append(token_cache.make_identity("a", {}, "0", files))
  assert identities[0] == identities[1]
  assert set(identities[0]["sources"]) == {
    "train/rows.jsonl",
    "test/rows.jsonl",
  }


def test_differences_are_told_in_words():
  found = {
    "name": "a",
    "settings": {"subsample": 1.0, "word_problems": {}, "same": 0},
    "sources": {"train.jsonl": "00", "test.jsonl": "01"},
  }
  wanted = {
    "name": "a",
    "settings": {"subsample": 0.5, "word_problems": {"seed": 1}, "same": 0},
    "sources": {"train.jsonl": "02", "test.jsonl": "01"},
  }
  assert token_cache.describe_differences(found, wanted) == [
    "settings.subsample: 1.0 -> 0.5",
    "settings.word_problems: {} -> None",
    "settings.word_problems.seed: None -> 1",
    "sources.train.jsonl: 00 -> 02",
  ]
  assert token_cache.describe_differences(found, found) == []


def _truncate(file):
  file.write_bytes(file.read_bytes()[:-1])


def _flip_a_byte(file):
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


@pytest.mark.parametrize(
  "damage, told",
  [
    (_truncate, "has other bytes than written"),
    (_flip_a_byte, "has other bytes than written"),
    (pathlib.Path.unlink, "is missing"),
  ],
)
@pytest.mark.parametrize(
  "name", ["toy_label-train.array_record", "vocabulary.model"]
)
def test_damage_is_noticed(tmp_path, name, damage, told):
  vocabulary = tmp_path / "my.model"
  vocabulary.write_bytes(b"pieces")
  file = _write(tmp_path / "cache", vocabulary=str(vocabulary)).path / name
  damage(file)
  with pytest.raises(UserError, match=f"{name} {told}.*--run_mode=prepare"):
    token_cache.TokenCache(tmp_path / "cache")


@pytest.mark.parametrize(
  "manifest",
  ["", '{"identity": {}', "[]", "{}", '{"identity": {}, "tasks": {"a": {}}}'],
)
def test_a_broken_manifest_is_noticed(tmp_path, manifest):
  cache = _write(tmp_path / "cache")
  (cache.path / "cache.json").write_text(manifest)
  with pytest.raises(UserError, match="cache is not a readable token cache"):
    token_cache.TokenCache(cache.path)


def test_a_missing_manifest_is_noticed(tmp_path):
  with pytest.raises(UserError, match="absent is not a readable token cache"):
    token_cache.TokenCache(tmp_path / "absent")


def test_another_format_is_noticed(tmp_path):
  cache = _write(tmp_path / "cache")
  manifest = json.loads((cache.path / "cache.json").read_text())
  manifest["identity"]["format"] = 0
  (cache.path / "cache.json").write_text(json.dumps(manifest))
  with pytest.raises(UserError, match="has format 0; this version reads 2"):
    token_cache.TokenCache(cache.path)


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing(tmp_path, error):
  def examples():
    yield "toy_label", "train", _make_examples(1)[0]
    raise error

  with pytest.raises(type(error)):
    _write(tmp_path / "caches" / "cache", examples())
  assert list((tmp_path / "caches").iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="cannot be written: .*another CACHE_DIR"):
    _write(tmp_path / "file" / "cache")


def test_a_killed_write_is_not_taken_for_a_cache(tmp_path):
  cache = _write(tmp_path / "toy_label-0123456789abcdef")
  # What SIGKILL leaves behind: a folder under another name, or no manifest.
  cache.path.with_name(".building-1").mkdir()
  cache.path.with_name("toy_label-0000000000000000").mkdir()
  assert token_cache.list_caches(tmp_path, "toy_label") == [cache.path]


def test_the_next_write_removes_what_a_kill_left(tmp_path, caplog):
  left = tmp_path / ".building-toy-1"
  left.mkdir()
  owner = process_identity.describe() | {"pid": 2**22 + 1, "folder": "toy"}
  (left / "owner.json").write_text(json.dumps(owner))
  cache = _write(tmp_path / "cache")
  assert "left unfinished" in caplog.text
  assert list(tmp_path.iterdir()) == [cache.path]


def test_caches_are_listed_by_exact_name_newest_first(tmp_path):
  for age, name in enumerate(["a-00", "a-01", "a-b-02", "a_b-03", "b-04"]):
    os.utime(_write(tmp_path / name).path, (0, 1000 - age))
  listed = [path.name for path in token_cache.list_caches(tmp_path, "a")]
  assert listed == ["a-00", "a-01"]


def test_overwriting_is_asked_for(tmp_path):
  _write(tmp_path / "cache")
  rows = [("toy_label", "train", row) for row in _make_examples(5)]
  with pytest.raises(UserError, match="cache exists. Add --overwrite"):
    _write(tmp_path / "cache", rows)
  assert token_cache.TokenCache(tmp_path / "cache").tasks[
    "toy_label"
  ].splits == {"train": 3}
  cache = _write(tmp_path / "cache", rows, overwrite=True)
  assert cache.tasks["toy_label"].splits == {"train": 5}
  assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_failed_overwrite_keeps_the_old_cache(tmp_path):
  _write(tmp_path / "cache")

  def examples():
    yield "toy_label", "train", _make_examples(1)[0]
    raise OSError("full")

  with pytest.raises(OSError):
    _write(tmp_path / "cache", examples(), overwrite=True)
  cache = token_cache.TokenCache(tmp_path / "cache")
  assert cache.tasks["toy_label"].splits == {"train": 3}


def test_a_task_without_examples_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"toy_label has no examples .*empty"):
    _write(tmp_path / "cache", [])
  assert list(tmp_path.iterdir()) == []


def test_the_synthetic_cache_opens(tmp_path):
  cache = make_cache(tmp_path, num_examples=2)
  assert cache.path == token_cache.cache_path(tmp_path, cache.identity)
  assert cache.fingerprint in cache.path.name


def test_suggest():
  known = ["svamp_label", "cqa_label"]
  assert token_cache.suggest("svamp_lable", known) == (
    " Did you mean 'svamp_label'?"
  )
  assert token_cache.suggest("imdb", known) == ""


@pytest.mark.parametrize(
  "name, target",
  [
    ("toy_joint", ("rationale", "label")),
    ("toy_joint_label_first", ("label", "rationale")),
    ("my_own", ("rationale", "label")),
  ],
)
def test_the_order_of_a_joint_target(name, target):
  fields = dataclasses.asdict(make_task_info("joint"))
  # Earlier versions did not keep it, nor does a run.
  del fields["target"]
  assert token_cache.read_task_info(name, fields).target == target
  kept = dataclasses.replace(make_task_info("joint"), target=target)
  fields = json.loads(json.dumps(dataclasses.asdict(kept)))
  assert token_cache.read_task_info("any", fields) == kept
