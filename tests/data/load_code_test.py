"""Tests of data/load_code.py."""

import functools

from distill_jax.data import datasets, load_code


def _make_load(label):
  return lambda split, settings: [label]


class _Loader:
  """Loads records when it is called."""

  def __init__(self, label):
    self.label = label

  def __call__(self, split, settings):
    return [self.label]


def test_code_that_loads_records_is_told_apart():
  shipped = datasets.get_dataset_spec("svamp").load_fn
  assert load_code.hash_load_fn(shipped) is None
  spaces = [{}, {}]
  for space, label in zip(spaces, "ab", strict=True):
    # As in a notebook: there is no file.
    exec(f"def load(split, settings):\n  return {label!r}", space)
  hashes = [load_code.hash_load_fn(space["load"]) for space in spaces]
  assert len(set(hashes)) == 2
  assert hashes[0] == load_code.hash_load_fn(spaces[0]["load"])
  load = spaces[0]["load"]
  bound = [functools.partial(load, x) for x in "ab"]
  assert len({load_code.hash_load_fn(each) for each in bound}) == 2
  assert len({load_code.hash_load_fn(_make_load(x)) for x in "ab"}) == 2
  objects = [_Loader("a"), _Loader("a"), _Loader("b")]
  hashed = [load_code.hash_load_fn(each) for each in objects]
  assert hashed[0] == hashed[1] != hashed[2]
  own = load_code.hash_load_fn(test_code_that_loads_records_is_told_apart)
  assert own not in (None, *hashes)
