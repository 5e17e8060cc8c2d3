import dataclasses

import jax
import numpy as np
import pytest

from distill_jax.model.t5.t5 import T5


def test_a_target_has_no_influence_on_logits_before_it(golden, score):
  before = score(golden.config, golden.params, golden.batch)
  changed = golden.batch["decoder_input_tokens"].copy()
  changed[0, 5] = 60
  batch = golden.batch | {"decoder_input_tokens": changed}
  after = score(golden.config, golden.params, batch)
  np.testing.assert_array_equal(before[0, :5], after[0, :5])
  assert np.abs(before[0, 5] - after[0, 5]).max() > 1e-3


def test_what_stands_in_padding_changes_nothing(golden, score):
  batch = golden.batch
  is_target = batch["decoder_segment_ids"] > 0
  rubbish = {
    f"{side}_input_tokens": np.where(
      batch[f"{side}_segment_ids"] > 0, batch[f"{side}_input_tokens"], 33
    )
    for side in ("encoder", "decoder")
  }
  np.testing.assert_array_equal(
    score(golden.config, golden.params, batch | rubbish)[is_target],
    score(golden.config, golden.params, batch)[is_target],
  )


def test_packed_segments_score_as_if_alone(golden, score):
  # The two shortest examples fit into one row, here the last one.
  packed = {name: array.copy() for name, array in golden.batch.items()}
  lengths = {}
  for side in ("encoder", "decoder"):
    is_token = golden.batch[f"{side}_segment_ids"] > 0
    lengths[side] = length = is_token[2].sum()
    for name, array in packed.items():
      if name.startswith(side):
        second = array[3].copy()
        array[3] = np.concatenate([array[2, :length], second[:-length]])
    packed[f"{side}_segment_ids"][3, length:] *= 2
  alone = score(golden.config, golden.params, golden.batch)
  logits = score(golden.config, golden.params, packed)
  length = lengths["decoder"]
  num_targets = golden.batch["decoder_segment_ids"][3].sum()
  np.testing.assert_allclose(logits[3, :length], alone[2, :length], atol=1e-5)
  np.testing.assert_allclose(
    logits[3, length : length + num_targets],
    alone[3, :num_targets],
    atol=1e-5,
  )


@pytest.mark.parametrize(
  "golden,dtype,atol",
  [
    ("t5_1_0", "float32", 1e-5),
    ("t5_1_1", "float32", 1e-5),
    ("umt5", "float32", 1e-5),
    # Both ways round alike, but not in the same order.
    ("t5_1_1", "bfloat16", 0.1),
  ],
  indirect=["golden"],
)
def test_cached_decoding_equals_teacher_forcing(golden, score, dtype, atol):
  config = dataclasses.replace(golden.config, dtype=dtype)
  model, variables = T5(config), {"params": golden.params}
  decoder_inputs = golden.batch["decoder_input_tokens"]
  # More room than targets: the empty tail of the buffers must not be seen.
  max_decode_length = decoder_inputs.shape[1] + 3

  @jax.jit
  def start(tokens, segment_ids):
    encoded = model.apply(
      variables, tokens, segment_ids, enable_dropout=False, method=T5.encode
    )
    return model.apply(
      variables,
      encoded,
      segment_ids,
      max_decode_length,
      method=T5.start_decoding,
    )

  @jax.jit
  def decode_step(tokens, step, cache):
    return model.apply(variables, tokens, step, cache, method=T5.decode_step)

  cache = start(
    golden.batch["encoder_input_tokens"], golden.batch["encoder_segment_ids"]
  )
  for leaf in jax.tree.leaves(cache):
    assert leaf.shape[0] == len(decoder_inputs)
  forced = score(config, golden.params, golden.batch)
  for step in range(decoder_inputs.shape[1]):
    logits, cache = decode_step(decoder_inputs[:, step], step, cache)
    is_target = golden.batch["decoder_segment_ids"][:, step] > 0
    np.testing.assert_allclose(
      logits[is_target], forced[is_target, step], atol=atol
    )
