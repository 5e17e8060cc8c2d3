import dataclasses
import functools

import jax
import numpy as np
import pytest

from distill_jax.model.t5.t5 import T5

pytestmark = pytest.mark.parametrize(
  "golden", ["t5_1_1", "umt5"], indirect=True
)


@functools.partial(jax.jit, static_argnames=("config", "enable_dropout"))
def _encode(config, params, tokens, segment_ids, *, enable_dropout=False, rng):
  return T5(config).apply(
    {"params": params},
    tokens,
    segment_ids,
    enable_dropout=enable_dropout,
    rngs={"dropout": rng},
    method=T5.encode,
  )


# Two examples: in one row; and alone, with rubbish behind them.
TOKENS = np.array(
  [[5, 9, 30, 1, 17, 9, 1, 0], [5, 9, 30, 1, 8, 8, 8, 8], [17, 9, 1, 0] * 2],
  np.int32,
)
SEGMENT_IDS = np.array(
  [[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1] + [0] * 4, [1, 1, 1] + [0] * 5],
  np.int32,
)


def test_packed_segments_encode_as_if_alone_and_unpadded(golden):
  packed, first, second = np.asarray(
    _encode(
      golden.config, golden.params, TOKENS, SEGMENT_IDS, rng=jax.random.key(0)
    )
  )
  np.testing.assert_allclose(packed[:4], first[:4], atol=1e-5)
  np.testing.assert_allclose(packed[4:7], second[:3], atol=1e-5)


def test_dropout_follows_its_switch_and_key(golden):
  config = dataclasses.replace(golden.config, dropout_rate=0.5)

  def encode(config, *, enable_dropout, seed):
    rng = jax.random.key(seed)
    return np.asarray(
      _encode(
        config,
        golden.params,
        TOKENS,
        SEGMENT_IDS,
        enable_dropout=enable_dropout,
        rng=rng,
      )
    )

  kept = encode(golden.config, enable_dropout=False, seed=0)
  dropped = encode(config, enable_dropout=True, seed=0)
  assert np.abs(dropped - kept).max() > 0.1
  np.testing.assert_array_equal(
    encode(config, enable_dropout=True, seed=0), dropped
  )
  assert (encode(config, enable_dropout=True, seed=1) != dropped).any()
  # The output's own dropout takes the same units from every position.
  is_dropped = dropped == 0
  assert is_dropped.any()
  np.testing.assert_array_equal(is_dropped[:, 1:], is_dropped[:, :-1])
