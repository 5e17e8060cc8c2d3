import numpy as np

from distill_jax.decoding.greedy import greedy_decode


def test_tokens_equal_those_of_transformers(golden):
  tokens = golden.decode(greedy_decode, eos_id=int(golden.arrays["eos_id"]))
  np.testing.assert_array_equal(tokens, golden.arrays["greedy_tokens"])
  # The golden rows end at different steps, and one not at all.
  lengths = (np.asarray(tokens) > 0).sum(axis=1)
  assert len(set(lengths.tolist())) >= 3


def test_it_starts_from_padding_and_follows_the_likeliest(make_table_step):
  table = np.zeros((5, 5))
  for last, likeliest in ((0, 3), (3, 2), (2, 4), (4, 1)):
    table[last, likeliest] = 1.0
  tokens = greedy_decode(
    make_table_step(table), None, batch_size=2, max_decode_length=6
  )
  np.testing.assert_array_equal(tokens, [[3, 2, 4, 1, 0, 0]] * 2)
