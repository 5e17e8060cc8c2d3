"""Tests of orbax_params.py: parameters in Orbax's form."""

import json

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import stored_models
from etils import epath
from flax import traverse_util
from tiny_run import fixture_model_dir as fixture_model_dir
from tiny_run import fixture_own_model_dir as fixture_own_model_dir

from distill_jax.checkpoint import orbax_params
from distill_jax.errors import UserError

FLOAT32 = np.dtype(np.float32)


@pytest.mark.parametrize("name", stored_models.CONFIGS)
def test_what_is_written_is_read(tmp_path, name):
  config = stored_models.CONFIGS[name]
  tensors = stored_models.make_tensors(config)
  orbax_params.write_orbax(tmp_path, config, tensors, FLOAT32)
  stored = orbax_params.open_orbax(tmp_path)
  assert (stored.file_format, stored.config) == ("orbax", config)
  stored_models.assert_same_tensors(stored.tensors, tensors)


def test_orbax_itself_reads_what_is_written(tmp_path):
  tensors = stored_models.make_tensors(stored_models.GATED)
  dtype = np.dtype(ml_dtypes.bfloat16)
  orbax_params.write_orbax(tmp_path, stored_models.GATED, tensors, dtype)
  restored = ocp.PyTreeCheckpointer().restore(epath.Path(tmp_path / "state"))
  restored = traverse_util.flatten_dict(restored["params"], sep="/")
  assert restored.keys() == tensors.keys()
  for name, array in restored.items():
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, tensors[name].read().astype(dtype))


def test_a_tensor_is_read_when_its_turn_comes(tmp_path):
  """At no time are two tensors held: all of one are written before another."""
  written, seen = tmp_path / "state", []
  arrays = stored_models.make_tensors(stored_models.GATED)

  def watch(name, tensor):
    def read(index):
      # Orbax writes aside and renames at the end.
      files = sum(path.is_file() for path in tmp_path.rglob("*"))
      seen.append(files)
      return tensor.read(index)

    return type(tensor)(name, tensor.shape, tensor.dtype, read)

  tensors = {name: watch(name, tensor) for name, tensor in arrays.items()}
  orbax_params.write_orbax(tmp_path, stored_models.GATED, tensors, FLOAT32)
  assert written.is_dir()
  assert len(seen) == len(arrays)
  assert seen[-1] > seen[0]


def test_t5x_keeps_parameters_under_target(tmp_path):
  tensors = stored_models.make_tensors(stored_models.GATED)
  target = {name: tensor.read() for name, tensor in tensors.items()}
  ocp.PyTreeCheckpointer().save(
    epath.Path(tmp_path / "state"),
    {
      "target": traverse_util.unflatten_dict(target, sep="/"),
      "state": {"step": np.int32(3)},
    },
  )
  stored = orbax_params.open_orbax(tmp_path)
  assert stored.file_format == "t5x"
  stored_models.assert_same_tensors(stored.tensors, tensors)


def test_a_run_knows_its_model_and_vocabulary(model_dir):
  stored = orbax_params.open_orbax(model_dir / "checkpoints" / "2")
  assert stored.config.dropout_rate == 0.0
  assert stored.uses_bytes
  assert stored.vocabulary_path is None


def test_without_its_run_the_shapes_tell(own_model_dir):
  (own_model_dir / "run.json").unlink()
  stored = orbax_params.open_orbax(own_model_dir / "checkpoints" / "2")
  assert stored.config.embed_dim == 16
  assert not stored.uses_bytes


def test_something_else_in_orbax_is_refused(tmp_path):
  ocp.PyTreeCheckpointer().save(
    epath.Path(tmp_path / "state"), {"weights": np.ones(3)}
  )
  with pytest.raises(UserError, match="holds no parameters: .* but weights"):
    orbax_params.open_orbax(tmp_path)


@pytest.mark.parametrize("content", ["{", json.dumps({"vocab_size": 3})])
def test_a_damaged_configuration_is_named(tmp_path, content):
  tensors = stored_models.make_tensors(stored_models.GATED)
  orbax_params.write_orbax(tmp_path, stored_models.GATED, tensors, FLOAT32)
  (tmp_path / "model_config.json").write_text(content)
  with pytest.raises(UserError, match=r"model_config.json cannot be read"):
    orbax_params.open_orbax(tmp_path)
