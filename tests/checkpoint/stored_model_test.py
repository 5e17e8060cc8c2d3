"""Tests of stored_model.py: what fits, and what the shapes tell."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
import stored_models

from distill_jax.checkpoint.stored_model import (
  FLOATS,
  LazyTensor,
  StoredModel,
  check_tensors,
  flatten_params,
  group_by_array,
  stack_layers,
  unstack_layers,
)
from distill_jax.errors import UserError


def make_shapes(config):
  return {
    name: tensor.shape
    for name, tensor in stored_models.make_tensors(config).items()
  }


def make_stored(config):
  tensors = stored_models.make_tensors(config)
  return StoredModel("hf", "/some/folder", config, tensors)


def test_a_model_that_fits_is_described():
  stored = make_stored(stored_models.GATED)
  check_tensors(stored, make_shapes(stored_models.GATED))
  num_tensors = len(stored.tensors)
  assert f"hf checkpoint /some/folder: {num_tensors} tensors" in (
    stored.describe()
  )


@pytest.mark.parametrize(
  ("changes", "lines"),
  [
    (
      {"vocab_size": 64},
      [
        "2 tensors of another shape, 0 missing, 0 unexpected",
        "token_embedder/embedding (token_embedder/embedding): shape found"
        " (40, 16), expected (64, 16)",
        "vocab_size 40",
      ],
    ),
    (
      {"num_encoder_layers": 4},
      [
        "0 tensors of another shape, 18 missing, 0 unexpected",
        "encoder/layers_2/attention/key/kernel: missing, expected (16, 12)",
        "... and 10 more",
      ],
    ),
    (
      {"num_decoder_layers": 2},
      ["0 missing, 14 unexpected", "decoder/layers_2/mlp/wi_0/kernel"],
    ),
  ],
)
def test_what_does_not_fit_is_counted_and_named(changes, lines):
  wanted = make_shapes(dataclasses.replace(stored_models.GATED, **changes))
  with pytest.raises(UserError) as error:
    check_tensors(make_stored(stored_models.GATED), wanted)
  for line in lines:
    assert line in str(error.value)


def test_flatten_params():
  assert flatten_params({"a": {"b": 1}, "c": 2}) == {"a/b": 1, "c": 2}


def stack_arrays(tensors):
  """What `stack_layers` must read, made by numpy."""
  stacked = {}
  for name, tensor in tensors.items():
    found = re.fullmatch(r"(encoder|decoder)/layers_(\d+)/(.*)", name)
    if not found:
      stacked[name] = tensor.read()
    elif found[2] == "0":
      layers = itertools.takewhile(
        lambda layer_name: layer_name in tensors,
        (f"{found[1]}/layers_{i}/{found[3]}" for i in itertools.count()),
      )
      stacked[f"{found[1]}/{found[1]}/{found[3]}"] = np.stack(
        [tensors[layer_name].read() for layer_name in layers], axis=1
      )
  return stacked


@pytest.mark.parametrize("name", stored_models.CONFIGS)
def test_layers_stack_and_come_apart_again(name):
  tensors = stored_models.make_tensors(stored_models.CONFIGS[name])
  expected = stack_arrays(tensors)
  assert "decoder/decoder/mlp/wo/kernel" in expected
  stacked = stack_layers(tensors)
  assert_reads(stacked, expected)
  # As a scanned checkpoint has them: arrays of their own.
  stored = {
    name: stored_models.wrap(name, array) for name, array in expected.items()
  }
  apart = unstack_layers(stored)
  stored_models.assert_same_tensors(apart, tensors)
  # Stacked once more they are what was stored, read in one piece.
  again = stack_layers(apart)
  assert_reads(again, expected)
  kernel = "encoder/encoder/mlp/wo/kernel"
  assert again[kernel] is stored[kernel]


def assert_reads(tensors, arrays):
  assert tensors.keys() == arrays.keys()
  for name, tensor in tensors.items():
    array = arrays[name]
    assert tensor.shape == array.shape
    np.testing.assert_array_equal(tensor.read(), array, err_msg=name)
    for start, stop in ((1, None), (0, 1), (None, None)):
      index = tuple(slice(start, stop) for _ in array.shape)
      np.testing.assert_array_equal(tensor.read(index), array[index])


def test_a_part_of_a_stack_reads_the_layers_it_needs():
  read = []

  def make(layer):
    array = np.full((4, 6), layer, np.float32)

    def read_fn(index):
      read.append((layer, index))
      return array[index]

    return LazyTensor(f"stored_{layer}", array.shape, array.dtype, read_fn)

  stacked = stack_layers(
    {f"encoder/layers_{i}/mlp/wo/kernel": make(i) for i in range(12)}
  )
  (tensor,) = stacked.values()
  assert tensor.shape == (4, 12, 6)
  part = tensor.read((slice(0, 2), slice(10, 12), slice(3, 6)))
  np.testing.assert_array_equal(part, np.full((2, 2, 3), [[[10], [11]]] * 2))
  within = (slice(0, 2), slice(3, 6))
  assert read == [(10, within), (11, within)]


def test_layers_of_one_array_come_together():
  tensors = stored_models.make_tensors(stored_models.GATED)
  arrays = {}

  def watch(name, array):
    def read_fn(index):
      arrays[name] = array[index]
      return arrays[name]

    return LazyTensor(name, array.shape, array.dtype, read_fn)

  apart = unstack_layers(
    {name: watch(name, array) for name, array in stack_arrays(tensors).items()}
  )
  seen = []
  for group in group_by_array(apart):
    for name, tensor in group.items():
      np.testing.assert_array_equal(tensor.read(), tensors[name].read())
      seen.append(name)
    assert len(arrays) == 1
    arrays.clear()
  assert sorted(seen) == sorted(tensors)


def test_layers_with_a_gap_stay_apart():
  tensors = stored_models.make_tensors(stored_models.GATED)
  lost = "decoder/layers_1/mlp/wo/kernel"
  del tensors[lost]
  stacked = stack_layers(tensors)
  assert "decoder/layers_2/mlp/wo/kernel" in stacked
  assert "decoder/decoder/mlp/wo/kernel" not in stacked
  assert "decoder/decoder/mlp/wi_0/kernel" in stacked


@pytest.mark.parametrize(
  ("source", "target", "value"),
  [
    ("bfloat16", "float16", 1e5),
    ("float32", "float16", -1e5),
    ("float64", "float16", 1e5),
    ("float64", "float32", 1e39),
    ("float64", "bfloat16", 3.4e38),
    ("float32", "bfloat16", 3.4e38),
  ],
)
def test_numbers_too_large_for_a_type_are_refused(source, target, value):
  array = np.ones(5, FLOATS[source])
  array[3] = value
  tensor = stored_models.wrap("wo", array)
  largest = f"{abs(float(array[3])):.4g}"
  with pytest.raises(UserError, match=re.escape(f"is {largest}. Choose")):
    tensor.read_as(FLOATS[target])
  assert tensor.read_as(FLOATS[target], (slice(0, 3),)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("target", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(source, target, value):
  array = np.ones(5, FLOATS[source])
  array[3:] = value
  tensor = stored_models.wrap("wo", array)
  with pytest.raises(UserError, match="wo holds 2 numbers of 5 that are NaN"):
    tensor.read_as(FLOATS[target])


@pytest.mark.parametrize("source", ["float32", "bfloat16"])
def test_numbers_too_small_for_a_type_are_counted(source, caplog):
  array = np.full(1000, 1e-9, FLOATS[source])
  array[10:] = 1e-3
  tensor = stored_models.wrap("wo", array)
  tensor.read_as(FLOATS["float32"])
  tensor.read_as(FLOATS["float16"], (slice(10, None),))
  assert not caplog.records
  tensor.read_as(FLOATS["float16"])
  assert "wo: 10 numbers of 1000 are too small for float16" in caplog.text
