"""Tests of model_card.py: what a folder says of itself is true and usable."""

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import stored_models
from tiny_run import fixture_model_dir as fixture_model_dir
from tiny_run import fixture_own_model_dir as fixture_own_model_dir

from distill_jax.checkpoint import hf, model_card
from distill_jax.checkpoint.stored_model import StoredModel
from distill_jax.data import vocab
from distill_jax.runs import convert

HOSTILE = "```\n\"; import os # '` \\ \u2028 | <b> \udc80"


def convert_run(model_dir, tmp_path):
  convert.convert(
    str(model_dir), str(tmp_path / "student"), destination_format="hf"
  )
  return tmp_path / "student"


def read_code(card):
  (code,) = re.findall(
    r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE
  )
  return code


def read_prefix(code):
  for node in ast.parse(code).body:
    if (
      isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "prefix"
    ):
      return ast.literal_eval(node.value)
  raise AssertionError(code)


def test_a_run_tells_its_task_prefixes_and_lengths(model_dir, tmp_path):
  folder = convert_run(model_dir, tmp_path)
  card = (folder / "README.md").read_text()
  assert '`"toy_distill"`, step 2' in card
  assert '`"predict: "`: task `"toy_label"`' in card
  assert '`"explain: "`: task `"toy_rationale"`' in card
  assert "To be filled in" in card
  assert str(model_dir) not in card
  assert read_prefix(read_code(card)) == "predict: "
  assert json.loads((folder / "generation_config.json").read_text()) == {
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "max_new_tokens": 12,
  }
  settings = json.loads((folder / "tokenizer_config.json").read_text())
  assert settings["model_max_length"] == 32


def test_no_text_of_the_data_breaks_the_card(own_model_dir, tmp_path):
  record = json.loads((own_model_dir / "run.json").read_text())
  identity = record["identity"]
  identity["task"] = HOSTILE
  identity["initial_checkpoint_path"] = f"/home/me/{HOSTILE.replace('/', '')}"
  tasks = identity["tasks"]
  identity["tasks"] = {
    HOSTILE + name: info | {"inputs_prefix": HOSTILE}
    for name, info in tasks.items()
  }
  (own_model_dir / "run.json").write_text(json.dumps(record))
  folder = convert_run(own_model_dir, tmp_path)
  card = (folder / "README.md").read_text(encoding="utf-8")
  assert read_prefix(read_code(card)) == HOSTILE
  fences = [line for line in card.split("\n") if line.startswith("```")]
  assert fences == ["```python", "```"]
  assert "/home/me" not in card


def test_of_other_sources_it_says_what_is_known(tmp_path):
  source = tmp_path / "some_model"
  source.mkdir()
  tensors = stored_models.make_tensors(stored_models.GATED)
  hf.write_hf(source, stored_models.GATED, tensors, np.dtype(np.float32))
  folder = tmp_path / "made"
  convert.convert(str(source), str(folder), destination_format="hf")
  card = (folder / "README.md").read_text()
  assert '# `"some_model"`' in card
  assert "Not known: converted from a checkpoint of hf." in card
  assert "max_new_tokens=256" in read_code(card)
  generation = json.loads((folder / "generation_config.json").read_text())
  assert "max_new_tokens" not in generation
  # Of this model, whose decoder is deeper than its encoder.
  assert generation["use_cache"] is False


def test_a_checkpoint_in_a_numbered_folder_is_no_run(tmp_path):
  path = str(tmp_path / "a" / "100")
  stored = StoredModel("orbax", path, stored_models.GATED, {})
  (tmp_path / "generation_config.json").write_text("{}")
  model_card.write_card(tmp_path, stored)
  assert "Not known" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("num_layers, is_cached", [(1, True), (3, False)])
def test_a_deeper_decoder_generates_without_a_cache(
  tmp_path, num_layers, is_cached
):
  config = dataclasses.replace(
    stored_models.GATED, num_encoder_layers=2, num_decoder_layers=num_layers
  )
  generation = tmp_path / "generation_config.json"
  generation.write_text("{}")
  model_card.write_card(
    tmp_path, StoredModel("orbax", str(tmp_path / "a"), config, {})
  )
  assert json.loads(generation.read_text()).get("use_cache", True) == is_cached


@pytest.mark.parametrize(
  "has_own_bias, is_tied", [(True, False), (True, True), (False, False)]
)
def test_the_card_names_what_transformers_does_otherwise(
  tmp_path, has_own_bias, is_tied
):
  config = dataclasses.replace(
    stored_models.GATED,
    per_layer_relative_bias=has_own_bias,
    tie_embeddings=is_tied,
  )
  (tmp_path / "generation_config.json").write_text("{}")
  (tmp_path / "tokenizer_config.json").write_text("{}")
  model_card.write_card(
    tmp_path, StoredModel("orbax", str(tmp_path / "a"), config, {})
  )
  card = (tmp_path / "README.md").read_text()
  names_setting = "`model.config.tie_word_embeddings = False`" in card
  assert names_setting == (has_own_bias and not is_tied)
  assert "transformers loses that mark" in card


@pytest.mark.reference
def test_transformers_runs_the_example(model_dir, tmp_path):
  transformers = pytest.importorskip("transformers")
  folder = convert_run(model_dir, tmp_path)
  generation = transformers.GenerationConfig.from_pretrained(folder)
  assert generation.max_new_tokens == 12
  assert generation.decoder_start_token_id == 0
  assert (generation.eos_token_id, generation.pad_token_id) == (1, 0)
  run_example(folder)


@pytest.mark.reference
@pytest.mark.parametrize("num_decoder_layers", [1, 2, 3])
def test_transformers_runs_it_with_a_sentencepiece_model(
  tmp_path, num_decoder_layers
):
  pytest.importorskip("transformers")
  config = dataclasses.replace(
    stored_models.GATED, vocab_size=1024, num_decoder_layers=num_decoder_layers
  )
  source = tmp_path / "source"
  source.mkdir()
  tensors = stored_models.make_tensors(config)
  hf.write_hf(source, config, tensors, np.dtype(np.float32))
  shipped = vocab.load_vocabulary(None).path
  assert shipped is not None
  shutil.copyfile(shipped, source / "spiece.model")
  convert.convert(str(source), str(tmp_path / "made"), destination_format="hf")
  run_example(tmp_path / "made")


def run_example(folder):
  code = read_code((folder / "README.md").read_text())
  result = subprocess.run(
    [sys.executable, "-c", code.replace("path/to/this/folder", str(folder))],
    capture_output=True,
    text=True,
    env=os.environ | {"HF_HUB_OFFLINE": "1"},
  )
  assert result.returncode == 0, result.stderr
