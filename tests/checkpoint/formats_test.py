"""Tests of formats.py: any checkpoint opens, and loads onto any mesh."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import stored_models
from tiny_run import fixture_model_dir as fixture_model_dir

from distill_jax.checkpoint import formats, hf, orbax_params, t5x, zarr_arrays
from distill_jax.checkpoint.stored_model import flatten_params, stack_layers
from distill_jax.errors import UserError
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.training import state as state_lib

FLOAT32 = np.dtype(np.float32)
CONFIG = stored_models.GATED


def make_target(config, mesh_axes):
  mesh = mesh_lib.make_mesh(mesh_axes)
  abstract, logical_axes = state_lib.abstract_params(T5(config))
  shardings = sharding.shard_params(logical_axes, abstract, mesh)
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    abstract,
    shardings,
  )


def write(folder, file_format):
  tensors = stored_models.make_tensors(CONFIG)
  if file_format == "hf":
    hf.write_hf(folder, CONFIG, tensors, FLOAT32)
  elif file_format == "t5x":
    t5x.write_t5x(folder, tensors, FLOAT32)
  else:
    orbax_params.write_orbax(folder, CONFIG, tensors, FLOAT32)
  return tensors


@pytest.mark.parametrize("file_format", ["hf", "t5x", "orbax"])
def test_files_tell_their_format(tmp_path, file_format):
  tensors = write(tmp_path, file_format)
  stored = formats.open_checkpoint(tmp_path)
  assert stored.file_format == file_format
  stored_models.assert_same_tensors(stored.tensors, tensors)


@pytest.mark.parametrize("file_format", ["hf", "t5x", "orbax"])
@pytest.mark.parametrize(
  "mesh_axes", [{"data": 8}, {"data": 2, "fsdp": 2, "model": 2}]
)
def test_every_device_gets_its_part(tmp_path, file_format, mesh_axes):
  tensors = write(tmp_path, file_format)
  target = make_target(CONFIG, mesh_axes)
  params = formats.load_params(formats.open_checkpoint(tmp_path), target)
  for name, leaf in flatten_params(params).items():
    np.testing.assert_array_equal(leaf, tensors[name].read())
    assert leaf.sharding == flatten_params(target)[name].sharding


@pytest.mark.parametrize(
  "mesh_axes", [{"data": 4, "model": 2}, {"data": 2, "fsdp": 2, "model": 2}]
)
def test_each_byte_is_read_once(tmp_path, mesh_axes):
  write(tmp_path, "hf")
  stored, num_read = formats.open_checkpoint(tmp_path), []

  def watch(tensor):
    def read(index):
      value = tensor.read_fn(index)
      num_read.append(value.size)
      return value

    return dataclasses.replace(tensor, read_fn=read)

  stored = dataclasses.replace(
    stored,
    tensors={name: watch(tensor) for name, tensor in stored.tensors.items()},
  )
  formats.load_params(stored, make_target(CONFIG, mesh_axes))
  assert sum(num_read) == sum(
    np.prod(tensor.shape) for tensor in stored.tensors.values()
  )


@pytest.mark.parametrize("is_scanned", [False, True])
@pytest.mark.parametrize(
  "mesh_axes", [{"data": 8}, {"data": 2, "fsdp": 2, "model": 2}]
)
def test_each_byte_of_stacked_layers_is_read_once(
  monkeypatch, tmp_path, mesh_axes, is_scanned
):
  """Not once a layer: what is on disk is counted, whoever asks for it."""
  tensors = stored_models.make_tensors(CONFIG)
  scanned = dataclasses.replace(CONFIG, scan_layers=True)
  orbax_params.write_orbax(tmp_path, scanned, stack_layers(tensors), FLOAT32)
  open_array, num_read = zarr_arrays.ArrayFolder.open, []

  def open_and_watch(self, name):
    tensor = open_array(self, name)

    def read(index):
      value = tensor.read_fn(index)
      num_read.append(value.size)
      return value

    return dataclasses.replace(tensor, read_fn=read)

  monkeypatch.setattr(zarr_arrays.ArrayFolder, "open", open_and_watch)
  stored = formats.open_checkpoint(tmp_path)
  target = make_target(scanned if is_scanned else CONFIG, mesh_axes)
  params = flatten_params(formats.load_params(stored, target))
  assert sum(num_read) == sum(leaf.size for leaf in params.values())
  # A device's part is one reading, not as many as it has layers.
  num_parts = [
    len(set(map(str, leaf.sharding.devices_indices_map(leaf.shape).values())))
    for leaf in flatten_params(make_target(scanned, mesh_axes)).values()
  ]
  assert len(num_read) == sum(num_parts)


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_weights_that_are_no_floats_are_refused(tmp_path, dtype):
  tensors = stored_models.make_tensors(CONFIG)
  name = "token_embedder/embedding"
  value = tensors[name].read().astype(dtype)
  t5x.write_t5x(tmp_path, tensors, FLOAT32)
  folder = tmp_path / "checkpoint_0"
  shutil.rmtree(folder / "target.token_embedder.embedding")
  zarr_arrays.write_array(folder, "target.token_embedder.embedding", value)
  with pytest.raises(UserError, match=f"{name} .* as {dtype}; weights are"):
    formats.load_params(
      formats.open_checkpoint(tmp_path), make_target(CONFIG, {"data": 8})
    )


def test_other_programs_files_beside_do_not_mislead(tmp_path):
  write(tmp_path, "hf")
  (tmp_path / "state").mkdir()
  (tmp_path / "checkpoint").write_text('model_checkpoint_path: "x"')
  assert formats.open_checkpoint(tmp_path).file_format == "hf"


def test_a_run_means_its_best_checkpoint(model_dir):
  stored = formats.open_checkpoint(model_dir)
  assert stored.path == str(model_dir / "checkpoints" / "2")
  assert stored.file_format == "orbax"


def test_a_t5x_run_means_its_newest_checkpoint(tmp_path):
  write(tmp_path, "t5x")
  for step in (5, 40, 300):
    shutil.copytree(tmp_path / "checkpoint_0", tmp_path / f"checkpoint_{step}")
  (tmp_path / "checkpoint_junk").mkdir()
  stored = formats.open_checkpoint(tmp_path)
  assert stored.path.endswith("checkpoint_300")


def test_half_precision_loads_as_float32(tmp_path):
  tensors = stored_models.make_tensors(CONFIG)
  hf.write_hf(tmp_path, CONFIG, tensors, np.dtype(np.float16))
  target = make_target(CONFIG, {"data": 8})
  params = formats.load_params(formats.open_checkpoint(tmp_path), target)
  embedding = params["token_embedder"]["embedding"]
  assert embedding.dtype == np.float32
  np.testing.assert_array_equal(
    embedding,
    tensors["token_embedder/embedding"].read().astype(np.float16),
  )


def test_another_model_is_refused(tmp_path):
  write(tmp_path, "hf")
  target = make_target(stored_models.TIED, {"data": 8})
  with pytest.raises(UserError, match="does not fit the model: 0 tensors of"):
    formats.load_params(formats.open_checkpoint(tmp_path), target)


FOUND = {
  "hf": "a Hugging Face folder",
  "t5x": "a T5X checkpoint",
  "orbax": "a checkpoint of distill-jax",
}


@pytest.mark.parametrize("asked", FOUND)
@pytest.mark.parametrize("found", FOUND)
def test_another_form_than_asked_is_named(tmp_path, asked, found):
  write(tmp_path, found)
  if asked == found:
    stored = formats.open_checkpoint(tmp_path, asked)
    assert stored.file_format == found
    return
  with pytest.raises(
    UserError, match=f"is {FOUND[found]} .*, not {FOUND[asked]} "
  ):
    formats.open_checkpoint(tmp_path, asked)


@pytest.mark.parametrize("asked", ["hf", "t5x"])
def test_a_run_is_no_other_form(model_dir, asked):
  with pytest.raises(UserError, match="is a checkpoint of distill-jax .*, not"):
    formats.open_checkpoint(model_dir, asked)


@pytest.mark.parametrize("asked", [None, "hf", "t5x"])
def test_a_file_of_a_hugging_face_folder(tmp_path, asked):
  write(tmp_path, "hf")
  for file in ("model.safetensors", "config.json"):
    with pytest.raises(UserError, match="is a file of a Hugging Face folder"):
      formats.open_checkpoint(tmp_path / file, asked)


@pytest.mark.parametrize("asked", [None, "hf", "t5x", "orbax"])
def test_weights_without_a_configuration(tmp_path, asked):
  write(tmp_path, "hf")
  (tmp_path / "config.json").unlink()
  with pytest.raises(UserError, match=r"has model.safetensors, .* no config"):
    formats.open_checkpoint(tmp_path, asked)


def test_weights_that_are_no_numbers_are_not_loaded(tmp_path):
  write(tmp_path, "hf")
  stored = formats.open_checkpoint(tmp_path)
  name = "encoder/encoder_norm/scale"
  broken = stored_models.wrap(name, np.full(16, np.nan, np.float32))
  stored = dataclasses.replace(stored, tensors={**stored.tensors, name: broken})
  with pytest.raises(UserError, match=f"Tensor {name} holds .* NaN or infin"):
    formats.load_params(stored, make_target(CONFIG, {"data": 8}))


@pytest.mark.parametrize("path", ["nothing", "."])
def test_nothing_there(tmp_path, path):
  with pytest.raises(UserError, match="There is no checkpoint at"):
    formats.open_checkpoint(tmp_path / path)


@pytest.mark.parametrize("file_format", ["hf", "t5x", "orbax", "scanned"])
@pytest.mark.parametrize("is_scanned", [False, True])
def test_a_model_may_scan_what_was_stored_otherwise(
  tmp_path, file_format, is_scanned
):
  tensors = stored_models.make_tensors(CONFIG)
  scanned = dataclasses.replace(CONFIG, scan_layers=True)
  if file_format == "scanned":
    # What a run that scans its layers saves.
    orbax_params.write_orbax(tmp_path, scanned, stack_layers(tensors), FLOAT32)
  else:
    write(tmp_path, file_format)
  stored = formats.open_checkpoint(tmp_path)
  assert not stored.config.scan_layers
  stored_models.assert_same_tensors(stored.tensors, tensors)
  mesh_axes = {"data": 2, "fsdp": 2, "model": 2}
  target = make_target(scanned if is_scanned else CONFIG, mesh_axes)
  params = flatten_params(formats.load_params(stored, target))
  expected = stack_layers(tensors) if is_scanned else tensors
  assert params.keys() == expected.keys()
  for name, leaf in params.items():
    np.testing.assert_array_equal(leaf, expected[name].read())
    assert leaf.sharding == flatten_params(target)[name].sharding


def test_a_scanned_model_of_more_layers_is_refused(tmp_path):
  write(tmp_path, "hf")
  config = dataclasses.replace(CONFIG, scan_layers=True, num_encoder_layers=4)
  with pytest.raises(
    UserError, match=r"shape found \(12, 2, 16\), expected \(12, 4, 16\)"
  ):
    formats.load_params(
      formats.open_checkpoint(tmp_path), make_target(config, {"data": 8})
    )
