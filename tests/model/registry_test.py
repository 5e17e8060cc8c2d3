"""Tests of registry.py: families by name, and the one place of each."""

import dataclasses
import io
import json
import pathlib
import re
import tokenize

import pytest
import tiny_student
import toy_decoder

from distill_jax.errors import UserError
from distill_jax.model import registry
from distill_jax.model.config import ModelConfig

PACKAGE = pathlib.Path(registry.__file__).parents[1]


def test_families_are_found_by_name_and_by_configuration():
  names = [family.name for family in registry.list_families()]
  assert {"t5", "toy_decoder"} <= set(names)
  for family in registry.list_families():
    assert registry.get(family.name) is family
  config = toy_decoder.ToyConfig()
  assert registry.find(config) is toy_decoder.FAMILY
  assert type(registry.make_module(config)) is toy_decoder.ToyDecoder


def test_what_is_not_registered_is_named():
  with pytest.raises(UserError, match=r"'llama'; known are .*t5"):
    registry.get("llama")
  with pytest.raises(UserError, match="is a ModelConfig, which no family"):
    registry.find(ModelConfig())


def test_a_name_and_a_class_are_one_familys():
  assert registry.register(toy_decoder.FAMILY) is toy_decoder.FAMILY
  for changes in (
    {"name": "t5"},
    {"name": "another"},
    {"config_class": tiny_student.T5Config},
  ):
    with pytest.raises(UserError, match="cannot be registered"):
      registry.register(dataclasses.replace(toy_decoder.FAMILY, **changes))
  assert registry.get("toy_decoder") is toy_decoder.FAMILY


@pytest.mark.parametrize(
  "config", [tiny_student.CONFIG, toy_decoder.ToyConfig(num_layers=3)]
)
def test_a_configuration_is_stated_and_read(config):
  stated = json.loads(json.dumps(registry.state_config(config)))
  assert registry.read_config(stated) == config


def test_a_configuration_without_a_family_is_of_the_first():
  """As runs have it that were trained while there was one."""
  stated = registry.state_config(tiny_student.CONFIG)
  assert registry.FAMILY not in stated
  assert registry.state_config(toy_decoder.ToyConfig())["family"] == (
    "toy_decoder"
  )


def test_shapes_of_no_family_are_refused():
  with pytest.raises(UserError, match="somewhere is no T5 encoder-decoder"):
    registry.infer_config({"kernel": (2, 3)}, "somewhere")


_STARTS = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


def read_code(path):
  """Returns the code of a file without comments and docstrings."""
  kept, is_start = [], True
  for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
    if token.type in (tokenize.NL, tokenize.COMMENT):
      continue
    if not (is_start and token.type == tokenize.STRING):
      kept.append(token.string)
    is_start = token.type in _STARTS
  return " ".join(kept)


@pytest.mark.parametrize(
  "folder",
  sorted(
    path.parent.relative_to(PACKAGE).as_posix()
    for path in PACKAGE.glob("model/*/family.py")
  ),
)
def test_no_code_outside_its_folder_names_a_family(folder):
  """But T5X, its networks, ByT5's vocabulary, and paths of gin files."""
  name = folder.rpartition("/")[2]
  pattern = re.compile(rf"{name}(?!x|_1_)|\.{name}\b", re.IGNORECASE)
  allowed = re.compile(
    rf"by{name}|gin/models/{name}\w*|network\.{name}Config", re.I
  )
  named = {}
  for path in sorted(PACKAGE.rglob("*.py")):
    if path.is_relative_to(PACKAGE / folder):
      continue
    found = pattern.findall(allowed.sub("", read_code(path)))
    if found:
      named[path.relative_to(PACKAGE).as_posix()] = found
  assert named == {}
