import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.decoding.loop import decode_tokens

EOS_ID, PAD_ID = 1, 0


def _decode(script, calls):
  """Decodes a script [batch, length] of tokens, counting the steps."""
  script = jnp.asarray(script, jnp.int32)

  def step_fn(tokens, step, cache):
    jax.debug.callback(lambda: calls.append(1))
    seen = cache.at[:, step].set(tokens)
    return jnp.zeros((len(script), 9)), seen

  tokens = decode_tokens(
    step_fn,
    jnp.zeros_like(script),
    lambda logits, step: script[:, step],
    batch_size=len(script),
    max_decode_length=script.shape[1],
    eos_id=EOS_ID,
    pad_id=PAD_ID,
  )
  jax.effects_barrier()
  return np.asarray(tokens)


def test_padding_follows_the_end_and_the_loop_stops_with_the_last_row():
  calls = []
  script = [[5, 6, 1, 7, 8, 8], [1, 5, 1, 5, 1, 5], [4, 4, 4, 1, 4, 4]]
  np.testing.assert_array_equal(
    _decode(script, calls),
    [[5, 6, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [4, 4, 4, 1, 0, 0]],
  )
  assert len(calls) == 4


def test_a_row_without_end_is_cut():
  calls = []
  script = [[5, 6, 7], [1, 1, 1]]
  np.testing.assert_array_equal(_decode(script, calls), [[5, 6, 7], [1, 0, 0]])
  assert len(calls) == 3
