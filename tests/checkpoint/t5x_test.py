"""Tests of t5x.py: T5X's own files, and ours in its form."""

import numpy as np
import pytest
import stored_models
import t5x_fixtures
from flax import serialization, traverse_util

from distill_jax.checkpoint import orbax_params, t5x
from distill_jax.errors import UserError

FLOAT32 = np.dtype(np.float32)
shared, needs_fixtures = t5x_fixtures.MARKS


def read_all(stored):
  return {name: tensor.read() for name, tensor in stored.tensors.items()}


@pytest.fixture(name="tensors")
def fixture_tensors():
  return stored_models.make_tensors(stored_models.GATED)


@pytest.mark.parametrize("name", stored_models.CONFIGS)
def test_what_is_written_is_read(tmp_path, name):
  tensors = stored_models.make_tensors(stored_models.CONFIGS[name])
  t5x.write_t5x(tmp_path, tensors, FLOAT32)
  folder = tmp_path / "checkpoint_0"
  for path in (folder, folder / "checkpoint"):
    stored = t5x.open_t5x(path)
    assert stored.file_format == "t5x"
    stored_models.assert_same_tensors(stored.tensors, tensors)


def write_single_file(path, tensors):
  target = {name: tensor.read() for name, tensor in tensors.items()}
  content = {
    "version": 3,
    "optimizer": {
      "target": traverse_util.unflatten_dict(target, sep="/"),
      "state": {"step": np.int32(7), "param_states": {}},
    },
  }
  path.write_bytes(serialization.msgpack_serialize(content))


def test_a_single_file_is_a_checkpoint(tmp_path, tensors):
  write_single_file(tmp_path / "model.checkpoint_7", tensors)
  stored = t5x.open_t5x(tmp_path / "model.checkpoint_7")
  stored_models.assert_same_tensors(stored.tensors, tensors)


@pytest.mark.parametrize("name", ["gated", "per_layer"])
def test_scanned_layers_are_taken_apart(tmp_path, name):
  tensors = stored_models.make_tensors(stored_models.CONFIGS[name])
  scanned, layers = {}, {}
  for path, tensor in tensors.items():
    stack, layer, *rest = path.split("/")
    if layer.startswith("layers_"):
      scanned_path = "/".join([stack, stack, *rest])
      layers.setdefault(scanned_path, []).append(tensor.read())
    else:
      scanned[path] = tensor
  for path, arrays in layers.items():
    scanned[path] = stored_models.wrap(path, np.stack(arrays, axis=1))
  t5x.write_t5x(tmp_path, scanned, FLOAT32)
  stored = t5x.open_t5x(tmp_path / "checkpoint_0")
  stored_models.assert_same_tensors(stored.tensors, tensors)


@pytest.fixture(name="folder")
def fixture_folder(tmp_path, tensors):
  t5x.write_t5x(tmp_path, tensors, FLOAT32)
  return tmp_path / "checkpoint_0"


def test_a_leaf_names_no_other_folder(folder, tensors):
  """The index may say what it likes: folders follow from parameters' names."""
  index = folder / "checkpoint"
  content = serialization.msgpack_restore(index.read_bytes())
  embedding = content["optimizer"]["target"]["token_embedder"]["embedding"]
  embedding["kvstore"] = {"driver": "file", "path": "/etc/passwd"}
  index.write_bytes(serialization.msgpack_serialize(content))
  stored_models.assert_same_tensors(t5x.open_t5x(folder).tensors, tensors)


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b'model_checkpoint_path: "x"',
    serialization.msgpack_serialize({"params": {}}),
    serialization.msgpack_serialize({"optimizer": {"target": 3}}),
  ],
)
def test_another_file_is_refused(tmp_path, content):
  (tmp_path / "checkpoint").write_bytes(content)
  with pytest.raises(UserError, match="is no T5X checkpoint"):
    t5x.open_t5x(tmp_path)


def test_a_truncated_index_is_refused(folder):
  index = folder / "checkpoint"
  index.write_bytes(index.read_bytes()[:-100])
  with pytest.raises(UserError, match="is no T5X checkpoint"):
    t5x.open_t5x(folder)


def test_a_lost_array_is_named(folder):
  lost = folder / "target.encoder.encoder_norm.scale"
  (lost / ".zarray").unlink()
  with pytest.raises(UserError, match=f"{lost} cannot be read"):
    t5x.open_t5x(folder)


def test_nothing_there(tmp_path):
  assert not t5x.is_t5x(str(tmp_path))
  with pytest.raises(UserError, match="There is no T5X checkpoint at"):
    t5x.open_t5x(tmp_path / "nothing")


@shared
@needs_fixtures
def test_both_forms_of_t5x_hold_the_same():
  legacy = t5x.open_t5x(t5x_fixtures.FOLDER / "legacy/checkpoint_1000")
  orbax = orbax_params.open_orbax(t5x_fixtures.FOLDER / "orbax/checkpoint_1000")
  assert legacy.config == orbax.config
  assert (legacy.config.num_heads, legacy.config.tie_embeddings) == (4, False)
  assert len(legacy.tensors) == 52
  stored_models.assert_same_tensors(legacy.tensors, orbax.tensors)


@shared
@needs_fixtures
def test_we_write_what_t5x_writes(tmp_path):
  """Structure, specs and shapes, optimizer state included; not chunk sizes."""
  theirs = t5x_fixtures.FOLDER / t5x_fixtures.LEGACY
  stored = t5x.open_t5x(theirs)
  t5x.write_t5x(tmp_path, stored.tensors, FLOAT32)
  ours = tmp_path / "checkpoint_0"
  stored_models.assert_same_tensors(t5x.open_t5x(ours).tensors, stored.tensors)

  def read(folder):
    content = serialization.msgpack_restore(
      (folder / "checkpoint").read_bytes()
    )
    flat = traverse_util.flatten_dict(
      content["optimizer"],
      sep="/",
      is_leaf=lambda _, value: "driver" in value,
    )
    return {
      name: tuple(leaf["metadata"]["shape"])
      if isinstance(leaf, dict)
      else np.shape(leaf)
      for name, leaf in flat.items()
    }, content["optimizer"]["target"]["token_embedder"]["embedding"]

  (shapes, leaf), (expected_shapes, expected) = read(ours), read(theirs)
  assert shapes == expected_shapes
  assert leaf["kvstore"] == expected["kvstore"]
  assert leaf["metadata"].keys() == expected["metadata"].keys()
  assert leaf["metadata"]["compressor"]["id"] == "gzip"


def test_fresh_statistics_are_factored_like_t5x():
  def get_shapes(*shape):
    return {
      name: value.shape
      for name, value in t5x._make_adafactor_state(shape).items()
    }

  unused = {"m": (1,), "v": (1,), "v_row": (1,), "v_col": (1,)}
  assert get_shapes(512, 384) == unused | {"v_row": (384,), "v_col": (512,)}
  assert get_shapes(127, 512) == unused | {"v": (127, 512)}
  assert get_shapes(512) == unused | {"v": (512,)}


@shared
@needs_fixtures
def test_t5x_single_file_of_t5x():
  stored = t5x.open_t5x(t5x_fixtures.FOLDER / t5x_fixtures.SINGLE_FILE)
  assert stored.config.head_dim == 3
  assert all(array.size for array in read_all(stored).values())
