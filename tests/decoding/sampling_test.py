import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.decoding.sampling import sample_decode, sample_tokens
from distill_jax.errors import UserError

NUM_DRAWS = 20_000
PROBS = np.array([0.05, 0.4, 0.25, 0.2, 0.1])


def _make_rngs(count, seed=0):
  return jax.random.split(jax.random.key(seed), count)


def _sample(top_k, top_p, temperature=1.0):
  """Returns the share of each token in many draws from PROBS."""
  logits = jnp.log(jnp.asarray(PROBS, jnp.float32)) / temperature
  tokens = sample_tokens(
    _make_rngs(NUM_DRAWS), jnp.tile(logits, (NUM_DRAWS, 1)), top_k, top_p
  )
  assert tokens.dtype == jnp.int32
  return np.bincount(tokens, minlength=5) / NUM_DRAWS


@pytest.mark.parametrize(
  "top_k,top_p,kept",
  [
    (None, None, [0, 1, 2, 3, 4]),
    (2, None, [1, 2]),
    (9, None, [0, 1, 2, 3, 4]),
    (None, 1.0, [0, 1, 2, 3, 4]),
    (None, 0.6, [1, 2]),
    (None, 0.7, [1, 2, 3]),
    (None, 0.01, [1]),
    # Of the three likeliest, renormalised, the first two hold 0.76.
    (3, 0.7, [1, 2]),
  ],
)
def test_draws_follow_the_probabilities_of_what_is_kept(top_k, top_p, kept):
  expected = np.zeros(5)
  expected[kept] = PROBS[kept] / PROBS[kept].sum()
  # Four standard deviations of a share.
  np.testing.assert_allclose(
    _sample(top_k, top_p), expected, atol=4 * 0.5 / np.sqrt(NUM_DRAWS)
  )
  assert (_sample(top_k, top_p)[expected == 0] == 0).all()


def test_temperature_divides_the_logits(make_table_step):
  def decode(temperature):
    tokens = sample_decode(
      make_table_step(np.tile(np.log(PROBS), (5, 1))),
      None,
      rngs=_make_rngs(NUM_DRAWS),
      batch_size=NUM_DRAWS,
      max_decode_length=1,
      temperature=temperature,
    )
    return np.bincount(tokens[:, 0], minlength=5) / NUM_DRAWS

  for temperature in (0.5, 2.0):
    expected = PROBS ** (1 / temperature)
    np.testing.assert_allclose(
      decode(temperature),
      expected / expected.sum(),
      atol=4 * 0.5 / np.sqrt(NUM_DRAWS),
    )


def test_steps_draw_independently_and_keys_repeat(make_table_step):
  def decode(seed):
    return np.asarray(
      sample_decode(
        make_table_step(np.zeros((64, 64))),
        None,
        rngs=_make_rngs(8, seed),
        batch_size=8,
        max_decode_length=16,
        eos_id=-1,
      )
    )

  tokens = decode(0)
  np.testing.assert_array_equal(tokens, decode(0))
  assert (tokens != decode(1)).mean() > 0.9
  assert (tokens[:, 1:] != tokens[:, :-1]).mean() > 0.9


def test_a_row_depends_on_its_own_key_alone(make_table_step):
  def decode(rngs):
    return np.asarray(
      sample_decode(
        make_table_step(np.zeros((64, 64))),
        None,
        rngs=rngs,
        batch_size=len(rngs),
        max_decode_length=8,
        eos_id=-1,
      )
    )

  rngs = _make_rngs(5)
  tokens = decode(rngs)
  assert len(np.unique(tokens, axis=0)) == 5
  order = np.array([3, 0, 4])
  np.testing.assert_array_equal(decode(rngs[order]), tokens[order])


def test_top_1_is_greedy(golden):
  tokens = golden.decode(
    sample_decode,
    eos_id=int(golden.arrays["eos_id"]),
    rngs=_make_rngs(len(golden.arrays["encoder_input_tokens"])),
    top_k=1,
  )
  np.testing.assert_array_equal(tokens, golden.arrays["greedy_tokens"])


@pytest.mark.parametrize(
  "setting,value",
  [("temperature", 0.0), ("top_k", 0), ("top_p", 0.0), ("top_p", 1.5)],
)
def test_a_bad_setting_is_named(make_table_step, setting, value):
  with pytest.raises(UserError, match=f"{setting} is {value}"):
    sample_decode(
      make_table_step(np.zeros((5, 5))),
      None,
      rngs=_make_rngs(1),
      batch_size=1,
      max_decode_length=1,
      **{setting: value},
    )
