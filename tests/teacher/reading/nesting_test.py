"""Shallow values stay; deep ones lose what is deep."""

import json

import pytest

from distill_jax.teacher.reading import nesting


def nest(depth, inner="x", form="[%s]"):
  """Returns lists or dicts in each other, as many as `depth`."""
  begin, end = form.split("%s")
  return json.loads(begin * depth + json.dumps(inner) + end * depth)


@pytest.mark.parametrize("form", ["[%s]", '{"a": %s}'])
@pytest.mark.parametrize("depth", [0, 1, nesting.MAX_DEPTH])
def test_what_is_not_too_deep_stays(depth, form):
  value = nest(depth, form=form)
  assert not nesting.is_too_deep(value)
  assert nesting.cut(value) is value


@pytest.mark.parametrize("form", ["[%s]", '{"a": %s}'])
@pytest.mark.parametrize("depth", [nesting.MAX_DEPTH + 1, 900])
def test_what_is_too_deep_is_none(depth, form):
  value = {"deep": nest(depth, form=form), "kept": [1]}
  assert nesting.is_too_deep(value)
  found = nesting.cut(value)
  assert found["kept"] == [1]
  assert not nesting.is_too_deep(found)
  assert "null" in json.dumps(found)


def test_tuples_are_deep_too():
  value = ()
  for _ in range(900):
    value = (value,)
  assert nesting.is_too_deep(value)
