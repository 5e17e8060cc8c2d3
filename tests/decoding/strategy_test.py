import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.decoding.beam import beam_decode
from distill_jax.decoding.strategy import DecodingConfig, decode
from distill_jax.errors import UserError

VOCAB_SIZE = 64
SAMPLE = DecodingConfig("sample", top_k=9, seed=3)


def _decode(config, make_table_step, row_ids, length=8):
  """Decodes rows of a model that likes every token alike and never ends."""
  tokens = decode(
    config,
    make_table_step(np.zeros((VOCAB_SIZE, VOCAB_SIZE))),
    None,
    jnp.asarray(row_ids, jnp.int32),
    max_decode_length=length,
    eos_id=-1,
  )
  return np.asarray(tokens)


def _decode_golden(golden, config):
  """Decodes the golden inputs; returns each one's first sample."""

  def run(step_fn, cache, *, batch_size, **arguments):
    row_ids = jnp.arange(batch_size, dtype=jnp.int32)
    return decode(config, step_fn, cache, row_ids, **arguments)

  return golden.decode(run, eos_id=int(golden.arrays["eos_id"]))[:, 0]


@pytest.mark.parametrize("golden", ["t5_1_1"], indirect=True)
def test_greedy_is_what_transformers_decodes(golden):
  np.testing.assert_array_equal(
    _decode_golden(golden, DecodingConfig()), golden.arrays["greedy_tokens"]
  )


@pytest.mark.parametrize("golden", ["t5_1_1"], indirect=True)
@pytest.mark.parametrize("length_penalty", [None, 3.0])
def test_of_beams_the_best_by_the_penalty_given(golden, length_penalty):
  config = DecodingConfig("beam", num_beams=3, length_penalty=length_penalty)
  expected, _ = golden.decode(
    beam_decode,
    num_beams=3,
    length_penalty=0.6 if length_penalty is None else length_penalty,
    eos_id=int(golden.arrays["eos_id"]),
  )
  np.testing.assert_array_equal(_decode_golden(golden, config), expected[:, 0])


@pytest.mark.parametrize("golden", ["t5_1_1"], indirect=True)
def test_samples_are_of_their_own_input(golden):
  """The likeliest sample of each input is its greedy decoding."""
  config = DecodingConfig("sample", top_k=1, num_samples=3)

  def run(step_fn, cache, *, batch_size, **arguments):
    row_ids = jnp.arange(batch_size, dtype=jnp.int32)
    return decode(config, step_fn, cache, row_ids, **arguments)

  tokens = golden.decode(run, eos_id=int(golden.arrays["eos_id"]))
  for sample in range(3):
    np.testing.assert_array_equal(
      tokens[:, sample], golden.arrays["greedy_tokens"]
    )


def test_a_sample_is_drawn_by_seed_row_and_its_own_number(make_table_step):
  config = dataclasses.replace(SAMPLE, num_samples=3)
  tokens = _decode(config, make_table_step, [0, 1, 7, 8])
  assert tokens.shape == (4, 3, 8)
  assert len(np.unique(tokens.reshape(12, 8), axis=0)) == 12
  np.testing.assert_array_equal(
    _decode(config, make_table_step, [8, 0]), tokens[[3, 0]]
  )
  # Fewer samples are the first ones of more.
  np.testing.assert_array_equal(
    _decode(SAMPLE, make_table_step, [0, 1, 7, 8]), tokens[:, :1]
  )
  other = dataclasses.replace(config, seed=4)
  assert (_decode(other, make_table_step, [0, 1, 7, 8]) != tokens).mean() > 0.5


def test_every_setting_of_samples_arrives(make_table_step):
  ids = np.arange(200)
  few = _decode(SAMPLE, make_table_step, ids, 1)
  assert len(np.unique(few)) == 9
  half = _decode(DecodingConfig("sample", top_p=0.5), make_table_step, ids, 1)
  assert half.max() < VOCAB_SIZE / 2
  table = np.tile(np.arange(VOCAB_SIZE), (VOCAB_SIZE, 1))
  cold = decode(
    DecodingConfig("sample", temperature=0.01),
    make_table_step(table),
    None,
    jnp.asarray(ids, jnp.int32),
    max_decode_length=1,
  )
  assert (cold == VOCAB_SIZE - 1).all()


def test_several_beams_make_greedy_a_beam_search():
  config = DecodingConfig(num_beams=4)
  assert config == DecodingConfig("beam", num_beams=4, length_penalty=0.6)
  assert DecodingConfig(num_beams=1).strategy == "greedy"
  assert DecodingConfig("beam", num_beams=1).strategy == "beam"


def test_what_is_described_is_what_is_read():
  assert DecodingConfig(max_decode_length=9).describe() == {
    "strategy": "greedy",
    "max_decode_length": 9,
  }
  assert DecodingConfig(num_beams=2).describe() == {
    "strategy": "beam",
    "num_beams": 2,
    "length_penalty": 0.6,
    "max_decode_length": None,
  }
  assert SAMPLE.describe() == {
    "strategy": "sample",
    "temperature": 1.0,
    "top_k": 9,
    "top_p": None,
    "seed": 3,
    "num_samples": 1,
    "max_decode_length": None,
  }


@pytest.mark.usefixtures("any_type")
@pytest.mark.parametrize(
  "settings, told",
  [
    (
      {"strategy": "beams"},
      "strategy is 'beams'; .*'greedy', 'beam', 'sample'",
    ),
    ({"strategy": "beam"}, "num_beams was not given. Give 4"),
    ({"num_beams": 0}, "num_beams is 0; it must be a whole number >= 1"),
    ({"num_beams": "4"}, "num_beams is '4'; it must be a whole"),
    ({"num_beams": True}, "num_beams is True; it must be a whole"),
    ({"num_beams": 2, "length_penalty": -0.5}, "length_penalty is -0.5"),
    ({"strategy": "sample", "temperature": 0.0}, "temperature is 0.0; .*above"),
    ({"strategy": "sample", "temperature": math.nan}, "temperature is nan"),
    ({"strategy": "sample", "top_k": 0}, "top_k is 0; it must be a whole"),
    ({"strategy": "sample", "top_k": 2.0}, "top_k is 2.0; it must be a whole"),
    ({"strategy": "sample", "top_p": 1.5}, "top_p is 1.5; it must be a number"),
    ({"strategy": "sample", "seed": -1}, "seed is -1; it must be a whole"),
    ({"strategy": "sample", "seed": 2**31}, "seed is 2147483648; it must be"),
    ({"strategy": "sample", "num_samples": None}, "num_samples is None"),
    ({"max_decode_length": 0}, "max_decode_length is 0"),
    (
      {"top_k": 5},
      "top_k is 5, which only strategy='sample' reads; it is 'greedy'",
    ),
    ({"seed": 0}, "seed is 0, which only strategy='sample' reads"),
    ({"num_samples": 2}, "num_samples is 2, which only strategy='sample'"),
    (
      {"length_penalty": 0.6},
      "length_penalty is 0.6, which only.*'beam' reads",
    ),
    ({"num_beams": 4, "top_p": 0.9}, "top_p is 0.9, .*it is 'beam'"),
    ({"strategy": "sample", "num_beams": 4}, "num_beams is 4, which only"),
  ],
)
def test_a_setting_that_cannot_be_is_named(settings, told):
  with pytest.raises(UserError, match=told):
    DecodingConfig(**settings)


def test_the_greatest_seed_makes_a_key(make_table_step):
  config = DecodingConfig("sample", seed=2**31 - 1)
  assert _decode(config, make_table_step, [0]).shape == (1, 1, 8)
  jax.random.key(config.seed)
