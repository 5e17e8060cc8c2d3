"""Decoding against what T5X itself decoded, from its checkpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5_batch
import t5x_fixtures

from distill_jax.decoding.beam import beam_decode
from distill_jax.decoding.cache import start_decoding
from distill_jax.decoding.greedy import greedy_decode
from distill_jax.decoding.sampling import sample_decode
from distill_jax.model.t5.t5 import T5

pytestmark = t5x_fixtures.MARKS


@pytest.fixture(scope="module")
def expected():
  """What T5X decoded, by name."""
  return t5x_fixtures.load_arrays("decode.npz")


def _decode(expected, decode_fn, **settings):
  config, params = t5x_fixtures.open_checkpoint()
  max_decode_length = int(expected["max_decode_len"])

  @jax.jit
  def run(params, tokens):
    segment_ids = (tokens > 0).astype(jnp.int32)
    return decode_fn(
      *start_decoding(
        T5(config),
        params,
        t5_batch.make_inputs(tokens, segment_ids),
        max_decode_length,
      ),
      batch_size=len(tokens),
      max_decode_length=max_decode_length,
      **settings,
    )

  return run(params, expected["encoder_input_tokens"])


@pytest.mark.parametrize(
  "decode_fn",
  [
    greedy_decode,
    lambda *arguments, batch_size, **settings: sample_decode(
      *arguments,
      rngs=jax.random.split(jax.random.key(0), batch_size),
      batch_size=batch_size,
      top_k=1,
      **settings,
    ),
  ],
  ids=["greedy", "top_1"],
)
def test_greedy_tokens(expected, decode_fn):
  np.testing.assert_array_equal(
    _decode(expected, decode_fn), expected["greedy_tokens"]
  )


def test_four_beams(expected):
  tokens, scores = _decode(expected, beam_decode, num_beams=4)
  np.testing.assert_array_equal(tokens[:, ::-1], expected["beam4_tokens"])
  np.testing.assert_allclose(
    scores[:, ::-1], expected["beam4_scores"], rtol=1e-5
  )


def test_one_beam(expected):
  tokens, scores = _decode(expected, beam_decode, num_beams=1)
  np.testing.assert_array_equal(tokens[:, 0], expected["beam1_tokens"])
  np.testing.assert_allclose(scores[:, 0], expected["beam1_scores"], rtol=1e-5)
