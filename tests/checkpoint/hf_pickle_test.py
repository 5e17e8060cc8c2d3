"""Tests of hf_pickle.py: weights are read, programs are not run."""

import pathlib
import sys
import types

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import stored_models

from distill_jax.checkpoint import hf, hf_pickle
from distill_jax.errors import UserError

FLOAT32 = np.dtype(np.float32)


@pytest.fixture(name="folder")
def fixture_folder(tmp_path):
  tensors = stored_models.make_tensors(stored_models.GATED)
  hf.write_hf(tmp_path, stored_models.GATED, tensors, FLOAT32)
  return tmp_path


def test_an_unsafe_torch_is_refused(tmp_path, monkeypatch):
  monkeypatch.setitem(
    sys.modules, "torch", types.SimpleNamespace(__version__="2.5.1+cpu")
  )
  with pytest.raises(UserError, match=r"torch 2.5.1\+cpu can be made to run"):
    hf_pickle.open_pickled(tmp_path / "pytorch_model.bin")


@pytest.mark.reference
def test_parameters_are_weights_too_but_sparse_tensors_are_not(tmp_path):
  torch = pytest.importorskip("torch")
  path = tmp_path / "pytorch_model.bin"
  torch.save({"a": torch.nn.Parameter(torch.ones(2, 3))}, path)
  np.testing.assert_array_equal(
    hf_pickle.open_pickled(path)["a"].read(), np.ones((2, 3))
  )
  for tensor in (torch.ones(2, 3).to_sparse(), torch.ones(2, device="meta")):
    torch.save({"a": tensor}, path)
    with pytest.raises(UserError, match="tensor a is float32"):
      hf_pickle.open_pickled(path)


class _Code:
  """Pickles to a call that leaves a trace."""

  def __init__(self, trace):
    self.trace = trace

  def __reduce__(self):
    return pathlib.Path.touch, (self.trace,)


@pytest.mark.reference
def test_a_pickle_with_code_in_it_runs_nothing(folder, tmp_path):
  torch = pytest.importorskip("torch")
  (folder / "model.safetensors").unlink()
  trace = tmp_path / "trace"
  torch.save({"shared.weight": _Code(trace)}, folder / "pytorch_model.bin")
  with pytest.raises(UserError, match="nothing of it was run"):
    hf.open_hf(folder)
  assert not trace.exists()


@pytest.mark.reference
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pickle_of_weights_is_read(folder, is_zip, dtype):
  torch = pytest.importorskip("torch")
  expected = hf.open_hf(folder).tensors
  state = {
    name: torch.from_numpy(array).to(getattr(torch, dtype))
    for name, array in safetensors.numpy.load_file(
      folder / "model.safetensors"
    ).items()
  }
  torch.save(
    state,
    folder / "pytorch_model.bin",
    _use_new_zipfile_serialization=is_zip,
  )
  expected = {
    name: stored_models.wrap(
      name, tensor.read().astype(getattr(ml_dtypes, dtype, dtype))
    )
    for name, tensor in expected.items()
  }
  (folder / "model.safetensors").unlink()
  stored_models.assert_same_tensors(hf.open_hf(folder).tensors, expected)


@pytest.mark.reference
def test_a_damaged_pickle_is_refused(folder):
  torch = pytest.importorskip("torch")
  path = folder / "pytorch_model.bin"
  (folder / "model.safetensors").unlink()
  torch.save({"shared.weight": torch.zeros(2)}, path)
  for content in (path.read_bytes()[:200], b"", b"junk"):
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged|nothing of it was run"):
      hf.open_hf(folder)


def test_a_pickle_needs_torch(folder, monkeypatch):
  (folder / "model.safetensors").unlink()
  (folder / "pytorch_model.bin").write_bytes(b"")
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(UserError, match=r"pip install 'distill_jax\[hf\]'"):
    hf.open_hf(folder)
