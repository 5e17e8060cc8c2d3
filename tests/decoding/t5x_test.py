"""Decoding against what T5X itself decoded, from its checkpoint."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from flax import traverse_util

from distill_jax.decoding.beam import beam_decode
from distill_jax.decoding.cache import start_decoding
from distill_jax.decoding.greedy import greedy_decode
from distill_jax.decoding.sampling import sample_decode
from distill_jax.model.config import T5Config
from distill_jax.model.t5 import T5

FIXTURES = pathlib.Path(__file__).parents[2].parent / "shared/fixtures/t5x_tiny"
pytestmark = [
  pytest.mark.shared,
  pytest.mark.skipif(
    not FIXTURES.exists(), reason="no T5X fixtures beside this checkout"
  ),
]
CONFIG = T5Config(
  vocab_size=384,
  embed_dim=64,
  num_heads=4,
  head_dim=16,
  mlp_dim=128,
  num_encoder_layers=2,
  num_decoder_layers=2,
  dropout_rate=0.0,
)


@pytest.fixture(scope="module")
def expected():
  """What T5X decoded, by name."""
  with np.load(FIXTURES / "decode.npz") as file:
    return dict(file)


def _decode(expected, decode_fn, **settings):
  params = {}
  for path in (FIXTURES / "legacy/checkpoint_1000").glob("target.*"):
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(path)}}
    array = tensorstore.open(spec).result().read().result()
    params[tuple(path.name.split(".")[1:])] = array
  max_decode_length = int(expected["max_decode_len"])

  @jax.jit
  def run(params, tokens):
    segment_ids = (tokens > 0).astype(jnp.int32)
    return decode_fn(
      *start_decoding(
        T5(CONFIG), params, tokens, segment_ids, max_decode_length
      ),
      batch_size=len(tokens),
      max_decode_length=max_decode_length,
      **settings,
    )

  return run(
    traverse_util.unflatten_dict(params), expected["encoder_input_tokens"]
  )


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
