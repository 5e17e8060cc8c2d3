"""Settings of a run out of its gin file, as the program builds them."""

import pathlib

import pytest

import gin
from distill_jax.config import gin_bindings
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError


def make_builder(monkeypatch, gin_file, settings_class, *bindings):
  """Yields what builds settings from more bindings; forgets them at the end.

  Args:
    monkeypatch: pytest's.
    gin_file: below the repository.
    settings_class: what to build.
    *bindings: always given, such as those that are required.
  """

  def build(*more_bindings):
    gin.clear_config()
    gin_bindings.parse(
      [gin_file],
      [*more_bindings, *bindings],
      [str(pathlib.Path(__file__).parents[2])],
    )
    gin_bindings.set_default("MODEL_CONFIG", "None")  # As `main` does.
    return gin_bindings.build(settings_class)

  monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", [""])
  yield build
  gin.clear_config()


def check_decoding_macros(build):
  """Checks that every macro of decoding arrives, and that idle ones do not."""
  sampling = build(
    "DECODING = 'sample'",
    "TEMPERATURE = 0.5",
    "TOP_K = 4",
    "TOP_P = 0.9",
    "SEED = 7",
  )
  assert sampling.decoding == DecodingConfig(
    strategy="sample", temperature=0.5, top_k=4, top_p=0.9, seed=7
  )
  beam = build("NUM_BEAMS = 4", "LENGTH_PENALTY = 1.0", "MAX_DECODE_LENGTH = 5")
  assert beam.decoding == DecodingConfig("beam", 4, 1.0, max_decode_length=5)
  with pytest.raises(UserError, match="TOP_K is 4, which only DECODING='sampl"):
    build("TOP_K = 4")
