"""Tests of runs/prepare.py: caches are found, missed, and built."""

import dataclasses
import functools
import importlib
import json
import logging
import sys

import numpy as np
import pytest
from small_vocabulary import make_vocabulary
from synthetic_cache import make_cache, make_task_info

from distill_jax.data import (
  datasets,
  own_vocabulary,
  span_corruption,
  task_kinds,
  token_cache,
  vocab,
)
from distill_jax.data import settings as settings_lib
from distill_jax.data.records import Record, write_records
from distill_jax.errors import UserError
from distill_jax.hosts import distributed
from distill_jax.runs import prepare

_SETTINGS = settings_lib.DataSettings(
  word_problems={
    "num_train_examples": 6,
    "num_validation_examples": 2,
    "num_test_examples": 2,
    "teacher_error_rate": 0.5,
  }
)
_NAME = "word_problems_label"


@pytest.fixture(autouse=True)
def fixture_clean_state(monkeypatch):
  monkeypatch.setattr(datasets, "_specs", dict(datasets._specs))
  yield
  settings_lib.use_settings(None)


@pytest.fixture(name="no_seqio")
def fixture_no_seqio(monkeypatch):
  """A machine on which SeqIO and the modules with tasks cannot be imported."""

  def import_module(name):
    raise ImportError(f"No module named {name!r}")

  monkeypatch.setattr(prepare.importlib, "import_module", import_module)


@pytest.fixture(name="messages")
def fixture_messages(caplog):
  caplog.set_level(logging.INFO, logger="distill_jax")
  return lambda: "\n".join(record.getMessage() for record in caplog.records)


def _store(folder, settings=_SETTINGS, name=_NAME):
  """Writes the cache that `find_or_prepare` will look for."""
  vocabulary = vocab.load_vocabulary(settings.vocab_path)
  identity = prepare._make_identity(name, (name,), settings, vocabulary)
  path = token_cache.cache_path(folder, identity)
  ids = [np.asarray([*vocabulary.encode(t), 1], np.int32) for t in ("q", "a")]
  example = token_cache.Example("1", *ids, "q", "a")
  token_cache.write_cache(
    path,
    identity,
    {name: make_task_info("label")},
    [(name, "train", example)],
    vocabulary.path,
  )
  return path


def _find(folder, settings=_SETTINGS, name=_NAME, **kwargs):
  return prepare.find_or_prepare(name, settings, cache_dir=folder, **kwargs)


def _raise_on_one_screen(match, *args, **kwargs):
  with pytest.raises(UserError, match=match) as raised:
    _find(*args, **kwargs)
  assert len(str(raised.value)) < 8 * 80


def test_a_cache_is_found_without_seqio(tmp_path, no_seqio, messages):
  path = _store(tmp_path)
  _store(tmp_path, dataclasses.replace(_SETTINGS, subsample=0.5))
  assert _find(tmp_path).path == path
  assert messages() == f"Using the token cache {path}"


@pytest.mark.parametrize(
  "changes",
  [
    {"data_dir": "/elsewhere"},
    {"max_not_ok_share": 0.5},
    {"vocab_path": vocab.load_vocabulary(None).path},
  ],
)
def test_what_shapes_no_example_makes_no_cache_stale(
  tmp_path, no_seqio, changes
):
  path = _store(tmp_path)
  assert _find(tmp_path, dataclasses.replace(_SETTINGS, **changes)).path == path


def test_settings_of_later_versions_are_in_no_older_fingerprint():
  """Else every cache of before them would be made again."""
  vocabulary = vocab.load_vocabulary(None)

  def list_settings(**changes):
    settings = dataclasses.replace(_SETTINGS, **changes)
    identity = prepare._make_identity(_NAME, (_NAME,), settings, vocabulary)
    return identity["settings"]

  assert set(list_settings()) == {
    "label_prefix",
    "on_rationale_label_conflict",
    "rationale_prefix",
    "splits",
    "subsample",
    "subsample_seed",
    "teacher_parse",
    "word_problems",
  }
  assert list_settings(shuffle_rationales=True)["shuffle_rationales"] is True
  assert list_settings(animal_legs={"seed": 1})["animal_legs"] == {"seed": 1}


def test_a_data_set_brings_its_own_vocabulary(tmp_path, no_seqio):
  name = "animal_legs_label"
  own = own_vocabulary.fill_in(name, _SETTINGS)
  path = _store(tmp_path, own, name)
  assert _find(tmp_path, name=name).path == path
  assert settings_lib.current_settings() == own
  identity = prepare.identify(name, (name,), _SETTINGS)
  assert identity == token_cache.TokenCache(path).identity
  # A model's own vocabulary, which `eval` asks for, goes before it.
  with pytest.raises(UserError, match="no token cache for animal_legs_label"):
    _find(tmp_path, dataclasses.replace(own, vocab_path="bytes"), name)


def test_shuffled_rationales_are_told(tmp_path, no_seqio):
  told = "rationales of train are shuffled: each example has another's"
  for is_shuffled in (False, True):
    settings = dataclasses.replace(_SETTINGS, shuffle_rationales=is_shuffled)
    _store(tmp_path, settings)
    cache = _find(tmp_path, settings)
    assert (told in prepare.describe(cache)) == is_shuffled


@pytest.mark.parametrize(
  "changes, told",
  [
    ({"subsample": 0.5}, "settings.subsample: 1.0 -> 0.5"),
    ({"label_prefix": "[label] "}, "settings.label_prefix: predict:  -> [lab"),
    ({"vocab_path": "bytes"}, "vocabulary_sha256: "),
    ({"word_problems": {"seed": 1}}, "settings.word_problems.seed: None -> 1"),
  ],
)
def test_a_stale_cache_is_named_with_what_changed(
  tmp_path, no_seqio, messages, changes, told
):
  path = _store(tmp_path)
  with pytest.raises(UserError):
    _find(tmp_path, dataclasses.replace(_SETTINGS, **changes))
  assert f"The token cache {path} is stale for these settings" in messages()
  assert told in messages()
  assert path.is_dir()


def test_a_cache_of_another_version_is_stale(
  tmp_path, no_seqio, messages, monkeypatch
):
  _store(tmp_path)
  now = token_cache.FORMAT
  monkeypatch.setattr(token_cache, "FORMAT", now + 1)
  with pytest.raises(UserError):
    _find(tmp_path)
  assert f"(format: {now} -> {now + 1})" in messages()


def test_the_nearest_stale_cache_is_named(tmp_path, no_seqio, messages):
  near = dataclasses.replace(_SETTINGS, subsample=0.5)
  path = _store(tmp_path, near)
  _store(tmp_path, dataclasses.replace(near, vocab_path="bytes"))
  with pytest.raises(UserError):
    _find(tmp_path)
  assert f"{path} is stale" in messages()


def test_without_cache_and_seqio_the_message_says_where_to_go(
  tmp_path, no_seqio
):
  _raise_on_one_screen(
    "no token cache for word_problems_label .*pip install .*copy the cache",
    tmp_path,
  )


def test_damage_of_another_cache_is_no_hindrance(tmp_path, no_seqio):
  path = _store(tmp_path)
  other = _store(tmp_path, dataclasses.replace(_SETTINGS, subsample=0.5))
  (other / "vocabulary.model").unlink()
  assert _find(tmp_path).path == path
  (path / "vocabulary.model").unlink()
  _raise_on_one_screen("vocabulary.model is missing", tmp_path)


def _register_jsonl(folder, name="my_set"):
  """Registers a data set of three files in `folder`."""
  folder.mkdir(exist_ok=True)
  for split in datasets.SPLITS:
    rows = [
      Record(f"{split}-{i}", f"is {i} odd ?", "ny"[i % 2], "so") for i in (0, 1)
    ]
    write_records(folder / f"{split}.jsonl", rows)
  datasets.register_dataset(
    datasets.jsonl_dataset(name, f"{folder}/{{split}}.jsonl", "exact_match")
  )


def test_new_source_files_make_a_cache_stale(tmp_path, no_seqio, messages):
  _register_jsonl(tmp_path / "data")
  path = _store(tmp_path, name="my_set_label")
  assert _find(tmp_path, name="my_set_label").path == path
  with open(tmp_path / "data" / "test.jsonl", "a") as file:
    file.write("\n")
  with pytest.raises(UserError):
    _find(tmp_path, name="my_set_label")
  assert "(sources.test.jsonl: " in messages()


def test_an_edited_load_fn_makes_a_cache_stale(
  tmp_path, no_seqio, messages, monkeypatch
):
  source = (
    "from distill_jax.data.records import Record\n"
    "def load(split, settings):\n"
    "  return [Record(str(i), 'is it odd ?', 'n', 'so') for i in range(3)]\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / "loads_records.py").write_text(source)
  loads = __import__("loads_records")
  spec = datasets.DatasetSpec(
    "my_set", functools.partial(loads.load), "exact_match", lambda _: []
  )
  datasets.register_dataset(spec)
  path = _store(tmp_path, name="my_set_label")
  assert _find(tmp_path, name="my_set_label").path == path
  edited = source.replace("'n'", "'y'")
  (tmp_path / "loads_records.py").write_text(edited)
  with pytest.raises(UserError):
    _find(tmp_path, name="my_set_label")
  assert "my_set.load_fn: " in messages()


def test_a_host_without_the_data_trusts_its_cache(tmp_path, no_seqio):
  _register_jsonl(tmp_path / "data")
  path = _store(tmp_path, name="my_set_label")
  # Neither the module that registers the data set nor its files are here.
  datasets._specs.pop("my_set")
  found = _find(tmp_path, name="my_set_label", task_module="my_tasks")
  assert found.path == path
  settings = dataclasses.replace(_SETTINGS, subsample=0.5)
  with pytest.raises(UserError, match=r"pip install 'distill_jax\[data\]'"):
    _find(tmp_path, settings, "my_set_label", task_module="my_tasks")


def test_only_span_corruption_tells_its_copies_apart():
  def identify(kind, copies):
    name = f"word_problems_{kind}"
    changed = dataclasses.replace(_SETTINGS, span_corruption_copies=copies)
    return prepare.identify(name, (name,), changed)

  # A cache of an earlier version, which knew no such setting, is still found.
  assert identify("label", 3) == identify("label", 4)
  assert "span_corruption_copies" not in identify("label", 3)["settings"]
  for copies in (3, 4):
    stored = identify("span_corruption", copies)["settings"]
    assert stored["span_corruption_copies"] == copies


@pytest.mark.tf
def test_corrupted_texts_of_a_data_set(tmp_path, capsys):
  """As `span_corruption` draws them; another build has the same bytes."""
  pytest.importorskip("seqio")
  name = "word_problems_span_corruption"
  data = dataclasses.replace(_SETTINGS, span_corruption_copies=3)
  caches = [
    prepare.run(prepare.PrepareRun(name, data, cache_dir=str(tmp_path / each)))
    for each in "ab"
  ]
  assert caches[0].file_hashes == caches[1].file_hashes
  assert f"  {name}: train 36, validation 4, test 4" in capsys.readouterr().out
  info = caches[0].tasks[name]
  assert (info.kind, info.has_labels) == ("span_corruption", False)
  vocabulary = vocab.load_vocabulary(None)
  for split, copies in (("train", 3), ("validation", 1), ("test", 1)):
    records = datasets.load_records("word_problems", split, data)
    rows = span_corruption.make_rows(records, vocabulary, copies)
    found = caches[0].open_split(name, split)
    for row, example in zip(rows, found, strict=True):
      assert example.id == row["id"]
      assert example.inputs.tolist() == [*row["inputs"], 1]
      assert example.targets.tolist() == [*row["targets"], 1]
      assert example.targets_text == row["targets_pretokenized"]


def test_a_mixture_across_data_sets_knows_the_sources_of_all(tmp_path):
  for name in ("my_set", "your_set"):
    _register_jsonl(tmp_path / name, name)
  tasks = ("my_set_label", "your_set_label")
  sources = prepare._make_identity(
    "my_mixture", tasks, _SETTINGS, vocab.load_vocabulary(None)
  )["sources"]
  assert sorted(sources) == [
    f"{name}/{split}.jsonl"
    for name in ("my_set", "your_set")
    for split in ("test", "train", "validation")
  ]


def _store_odd(folder, vocabulary_path, label_set):
  """Writes a cache whose texts the vocabulary cannot all spell."""
  settings = dataclasses.replace(_SETTINGS, vocab_path=vocabulary_path)
  vocabulary = vocab.load_vocabulary(vocabulary_path)
  identity = prepare._make_identity(_NAME, (_NAME,), settings, vocabulary)
  path = token_cache.cache_path(folder, identity)
  info = dataclasses.replace(make_task_info("label"), label_set=label_set)
  rows = []
  for split in ("train", "test"):
    ids = [np.asarray([*vocabulary.encode(t), 1], np.int32) for t in ("q", "<")]
    rows.append((_NAME, split, token_cache.Example("1", *ids, "q", "<")))
  token_cache.write_cache(path, identity, {_NAME: info}, rows, vocabulary.path)
  return settings


def test_what_texts_hold_is_told_each_time(
  tmp_path, no_seqio, messages, capsys, caplog
):
  small = make_vocabulary(tmp_path).path
  settings = _store_odd(tmp_path, small, None)
  for _ in range(2):
    caplog.clear()
    cache = _find(tmp_path, settings)
    assert "cannot spell 1 of 1 labels of train: 1 unknown ids" in messages()
    assert "test shares 1 of its 1 inputs with train" in messages()
  prepare.run(prepare.PrepareRun(_NAME, settings, cache_dir=str(tmp_path)))
  assert capsys.readouterr().out.splitlines()[2:] == [
    "  unknown ids in train label: 1, in 1 of 1 texts",
    "  unknown ids in test label: 1, in 1 of 1 texts",
    "  inputs of test that train has too: 1 of 1, 1 after normalizing blanks"
    " and case",
  ]
  assert cache.path.is_dir()


def test_labels_that_are_one_to_the_vocabulary_are_refused(tmp_path, no_seqio):
  small = make_vocabulary(tmp_path).path
  settings = _store_odd(tmp_path, small, ("<", ">"))
  _raise_on_one_screen(
    f"{_NAME}: The labels '<' and '>' have the same token ids: .* VOCAB_PATH",
    tmp_path,
    settings,
  )
  # Bytes spell them.
  settings = _store_odd(tmp_path, vocab.BYTES, ("<", ">"))
  assert _find(tmp_path, settings)


@pytest.mark.parametrize(
  "statuses, limit, is_refused",
  [
    ({"ok": 9, "truncated": 1}, 0.1, False),
    ({"ok": 8, "truncated": 1, "ambiguous": 1}, 0.1, True),
    ({"ok": 8, "truncated": 2}, 0.2, False),
    ({"truncated": 1}, 1.0, False),
    ({"ok": 10, "labels_wrong": 10}, 0.0, False),
    ({"labels_wrong": 0}, 0.0, False),
  ],
)
def test_teacher_labels_are_refused_when_too_many_are_bad(
  tmp_path, statuses, limit, is_refused
):
  cache = make_cache(tmp_path, num_examples=1)
  cache.tasks = {
    "toy_label": dataclasses.replace(
      make_task_info("label"), teacher_counts={"train": {"truncated": 1}}
    ),
    "toy_teacher_label": dataclasses.replace(
      make_task_info("label"),
      uses_teacher_labels=True,
      teacher_counts={"train": statuses},
    ),
  }
  if not is_refused:
    prepare.check_teacher_labels(cache, limit)
    return
  with pytest.raises(
    UserError,
    match=r"toy_teacher_label .* 20.0% of its 10 training rows are not ok"
    r" \(ambiguous 1, ok 8, truncated 1\); the limit is 10.0%",
  ):
    prepare.check_teacher_labels(cache, limit)


# --- With SeqIO -------------------------------------------------------------


def test_one_process_prepares_and_the_others_open_its_cache(
  tmp_path, monkeypatch
):
  cache = make_cache(tmp_path, 3)
  asked, problems = [], []

  def find(*arguments):
    asked.append(arguments)
    return cache

  monkeypatch.setattr(prepare, "find_or_prepare", find)
  monkeypatch.setattr(
    distributed, "agree", lambda name, problem: problems.append(problem)
  )
  # As process 0 does it, then as another.
  assert prepare.find_for_all("toy_distill", _SETTINGS) is cache
  monkeypatch.setattr(distributed, "share", lambda *_: str(cache.path))
  found = prepare.find_for_all("toy_distill", _SETTINGS)
  assert found is not cache and found.path == cache.path
  assert (asked, problems) == ([("toy_distill", _SETTINGS)], [None, None])


def test_a_host_that_has_not_the_cache_tells_all(tmp_path, monkeypatch):
  def agree(name, problem):
    raise UserError(problem)

  monkeypatch.setattr(distributed, "agree", agree)
  monkeypatch.setattr(distributed, "share", lambda *_: str(tmp_path / "gone"))
  with pytest.raises(UserError, match="gone is not a .* CACHE_DIR that all ho"):
    prepare.find_for_all("toy_distill", _SETTINGS)


@pytest.fixture(name="tasks_module")
def fixture_tasks_module(tmp_path, monkeypatch):
  """A user's own module: returns its name, and the folder of its data."""
  seqio = pytest.importorskip("seqio")
  monkeypatch.setattr(datasets, "_specs", dict(datasets._specs))
  _register_jsonl(tmp_path / "data")
  datasets._specs.pop("my_set")
  (tmp_path / "my_tasks.py").write_text(f"""
from distill_jax.data import datasets
from distill_jax.tasks import register

register.register_dataset(
  datasets.jsonl_dataset(
    "my_set", "{tmp_path}/data/{{split}}.jsonl", metric="exact_match"
  )
)
""")
  monkeypatch.syspath_prepend(tmp_path)
  importlib.invalidate_caches()
  yield "my_tasks", tmp_path / "data"
  sys.modules.pop("my_tasks", None)
  for registry, kinds in (
    (seqio.TaskRegistry, task_kinds.KINDS),
    (seqio.MixtureRegistry, task_kinds.MIXTURES),
  ):
    for kind in kinds:
      registry.remove(f"my_set_{kind}")


@pytest.mark.tf
def test_a_missing_cache_is_built_and_then_found(tmp_path, capsys, monkeypatch):
  pytest.importorskip("seqio")
  settings = prepare.PrepareRun(_NAME, _SETTINGS, cache_dir=str(tmp_path))
  cache = prepare.run(settings)
  records = datasets.load_records("word_problems", "train", _SETTINGS)
  num_wrong = datasets.count_conflicts(records, "equation")
  assert 0 < num_wrong < 6
  assert capsys.readouterr().out.splitlines()[:3] == [
    f"Token cache {cache.path}",
    "  word_problems_label: train 6, validation 2, test 2",
    f"  teacher on train: {6 - num_wrong} of 6 labels right"
    f" ({1 - num_wrong / 6:.2%}), {num_wrong} argue for another answer; ok 6",
  ]
  vocabulary = vocab.load_vocabulary(None)
  assert cache.identity["vocabulary_sha256"] == vocabulary.sha256
  examples = cache.open_split(_NAME, "train")
  assert len(examples) == len(records)
  for index, record in enumerate(records):
    example = examples[index]
    assert example.id == record.id
    inputs = vocabulary.encode(f"predict: {record.input}")
    assert example.inputs.tolist() == [*inputs, 1]
    assert vocabulary.decode(example.targets) == record.label
  with monkeypatch.context() as patch:
    patch.setattr(prepare, "_import_tasks", None)
    assert prepare.run(settings).path == cache.path
  (cache.path / "mark").touch()
  assert prepare.run(settings, overwrite=True).path == cache.path
  assert not (cache.path / "mark").exists()


@pytest.mark.tf
def test_a_stale_cache_is_left_alone(tmp_path, messages):
  pytest.importorskip("seqio")
  stale = _store(tmp_path)
  before = {file: file.read_bytes() for file in stale.iterdir()}
  built = _find(tmp_path, dataclasses.replace(_SETTINGS, label_prefix="L "))
  assert "settings.label_prefix: predict:  -> L " in messages()
  assert {file: file.read_bytes() for file in stale.iterdir()} == before
  assert built.path != stale
  assert built.tasks[_NAME].inputs_prefix == "L "


@pytest.mark.tf
def test_own_data_from_a_module(tmp_path, tasks_module, messages):
  module, data = tasks_module
  cache = _find(tmp_path, name="my_set_label", task_module=module)
  assert cache.tasks["my_set_label"].splits == {
    "train": 2,
    "validation": 2,
    "test": 2,
  }
  example = cache.open_split("my_set_label", "test")[1]
  assert (example.id, example.inputs_text, example.targets_text) == (
    "test-1",
    "predict: is 1 odd ?",
    "y",
  )
  found = _find(tmp_path, name="my_set_label", task_module=module)
  assert found.path == cache.path
  write_records(
    data / "train.jsonl", [Record("0", "is 2 odd ?", "n", "two is even")]
  )
  rebuilt = _find(tmp_path, name="my_set_label", task_module=module)
  assert "(sources.train.jsonl: " in messages()
  assert rebuilt.tasks["my_set_label"].splits["train"] == 1
  assert cache.path.is_dir() and rebuilt.path != cache.path


def _write_labels(data, labels):
  for split in datasets.SPLITS:
    write_records(
      data / f"{split}.jsonl",
      [
        Record(f"{split}-{i}", f"{split} {i} ?", label, "so")
        for i, label in enumerate(labels)
      ],
    )


@pytest.mark.tf
def test_labels_that_cannot_be_told_apart_are_refused_before_the_work(
  tmp_path, tasks_module, monkeypatch
):
  module, data = tasks_module
  _write_labels(data, ["<", ">"])
  importlib.import_module(module)
  spec = datasets._specs["my_set"]
  closed = dataclasses.replace(spec, label_set=("<", ">"))
  monkeypatch.setitem(datasets._specs, "my_set", closed)
  settings = dataclasses.replace(
    _SETTINGS, vocab_path=make_vocabulary(tmp_path).path
  )
  caches = tmp_path / "caches"
  _raise_on_one_screen(
    "my_set_label: The labels '<' and '>' have the same token ids",
    caches,
    settings,
    "my_set_label",
    task_module=module,
  )
  assert not caches.exists()
  found = _find(caches, name="my_set_label", task_module=module)
  assert found.tasks["my_set_label"].label_set == ("<", ">")


@pytest.mark.tf
def test_gold_labels_outside_the_set_are_told(
  tmp_path, tasks_module, monkeypatch, messages
):
  module, data = tasks_module
  _write_labels(data, ["yes", "YES", "maybe", "no"])
  importlib.import_module(module)
  spec = datasets._specs["my_set"]
  closed = dataclasses.replace(spec, label_set=("yes", "no"))
  monkeypatch.setitem(datasets._specs, "my_set", closed)
  cache = _find(tmp_path, name="my_set_label", task_module=module)
  told = "1 of 4 labels of my_set_label test are no answer of the task: 'maybe'"
  assert told in messages()
  assert "labels of my_set_label test that are no answer: 1 of 4" in (
    prepare.describe(cache)
  )


@pytest.mark.tf
def test_joint_tasks_keep_their_order(tmp_path, tasks_module):
  module, _ = tasks_module
  for kind, order in (
    ("joint", ("rationale", "label")),
    ("joint_label_first", ("label", "rationale")),
  ):
    name = f"my_set_{kind}"
    cache = _find(tmp_path, name=name, task_module=module)
    assert cache.tasks[name].target == order


@pytest.mark.tf
@pytest.mark.parametrize(
  "line, told",
  [
    ("{", r"train\.jsonl:2: not JSON"),
    ('{"id": "3"}', r"train\.jsonl:2:input: missing"),
    (json.dumps({"id": "3", "input": 3}), r"train\.jsonl:2:input: 3 is not te"),
    (None, "Empty data set: my_set train has no records"),
  ],
)
def test_bad_records_are_named(tmp_path, tasks_module, line, told):
  module, data = tasks_module
  good = json.dumps({"id": "1", "input": "a", "label": "b"})
  content = "" if line is None else f"{good}\n{line}\n"
  (data / "train.jsonl").write_text(content)
  caches = tmp_path / "caches"
  _raise_on_one_screen(told, caches, name="my_set_label", task_module=module)
  assert not caches.exists() or list(caches.iterdir()) == []


@pytest.mark.tf
@pytest.mark.parametrize(
  "name, changes, told",
  [
    ("word_problem_distill", {}, "Did you mean 'word_problems_distill'"),
    ("svamp_label", {}, "where that lies was not given. DATA_DIR"),
    ("svamp_label", {"data_dir": "/absent"}, "/absent/svamp is no folder"),
    (_NAME, {"vocab_path": "/absent.model"}, "/absent.model cannot be read"),
  ],
)
def test_mistakes_are_named(tmp_path, name, changes, told):
  pytest.importorskip("seqio")
  settings = dataclasses.replace(_SETTINGS, **changes)
  _raise_on_one_screen(told, tmp_path, settings, name)


@pytest.mark.tf
def test_a_module_that_is_not_there(tmp_path):
  pytest.importorskip("seqio")
  _raise_on_one_screen(
    "No module named 'absent_tasks'", tmp_path, task_module="absent_tasks"
  )
