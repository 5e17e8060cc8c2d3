import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.decoding.beam import beam_decode
from distill_jax.decoding.greedy import greedy_decode
from distill_jax.errors import UserError
from distill_jax.model.layers.attention import KeyValue
from distill_jax.model.t5.decoder import DecodeCache

EOS_ID = 1
MAX_DECODE_LENGTH = 4


class _ToyModel:
  """A next-token distribution that depends on every token decoded so far.

  The history is kept where a model keeps its keys, so that it must follow its
  row when rows change places; the input's number is kept with its encoder side.
  """

  vocab_size = 5

  def __init__(self, batch_size, max_decode_length):
    shape = (max_decode_length, self.vocab_size, self.vocab_size)
    rng = np.random.default_rng(0)
    self.weights = jnp.asarray(rng.normal(size=shape), jnp.float32)
    history = jnp.zeros((batch_size, max_decode_length, 1, 1))
    rows = jnp.arange(batch_size, dtype=jnp.float32)[:, None, None, None]
    self.cache = DecodeCache(
      self_attention=(KeyValue(history, history),),
      cross_attention=(),
      cross_bias=rows,
    )

  def compute_logits(self, row, history):
    """Scores [vocab] the token after `history` [length] in an input's row."""
    picked = self.weights[jnp.arange(len(history)), history]
    return 2.0 * jnp.sin(picked.sum(0) * (1.0 + row))

  def step(self, tokens, step, cache):
    """The step function."""
    ((history, unused),) = cache.self_attention
    history = history.at[:, step, 0, 0].set(tokens.astype(jnp.float32))
    is_written = jnp.arange(history.shape[1]) <= step
    picked = self.weights[
      jnp.arange(history.shape[1])[None],
      history[:, :, 0, 0].astype(jnp.int32),
    ]  # [batch, length, vocab]
    total = jnp.where(is_written[None, :, None], picked, 0.0).sum(1)
    logits = 2.0 * jnp.sin(total * (1.0 + cache.cross_bias[:, 0, 0]))
    return logits, cache.replace(self_attention=(KeyValue(history, unused),))


def _make_rows(batch_size):
  """A cache of a model that remembers nothing."""
  empty = jnp.zeros((batch_size, 1, 1, 1))
  return DecodeCache(
    self_attention=(KeyValue(empty, empty),),
    cross_attention=(),
    cross_bias=empty,
  )


def _enumerate(toy, row, length_penalty):
  """Returns every finished sequence with its score, best first."""
  others = [token for token in range(toy.vocab_size) if token != EOS_ID]
  found = []
  for length in range(1, MAX_DECODE_LENGTH + 1):
    for prefix in itertools.product(others, repeat=length - 1):
      sequence = (*prefix, EOS_ID)
      inputs = np.array((0, *prefix))
      total = 0.0
      for step, token in enumerate(sequence):
        logits = np.asarray(toy.compute_logits(row, inputs[: step + 1]))
        total += logits[token] - np.log(np.exp(logits).sum())
      padding = (0,) * (MAX_DECODE_LENGTH - length)
      score = total / ((5 + length) / 6) ** length_penalty
      found.append((score, sequence + padding))
  return sorted(found, reverse=True)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_a_search_that_prunes_nothing_finds_the_best(length_penalty):
  toy = _ToyModel(2, MAX_DECODE_LENGTH)
  # A step keeps twice as many candidates as beams: here all of 4 ** 3 prefixes
  # times 5 tokens.
  num_beams = 160
  tokens, scores = jax.jit(
    lambda cache: beam_decode(
      toy.step,
      cache,
      batch_size=2,
      max_decode_length=MAX_DECODE_LENGTH,
      num_beams=num_beams,
      length_penalty=length_penalty,
    )
  )(toy.cache)
  for row in range(2):
    expected = _enumerate(toy, row, length_penalty)
    num_found = len(expected)
    assert num_found == 1 + 4 + 4**2 + 4**3
    np.testing.assert_allclose(
      scores[row, :num_found],
      [score for score, _ in expected],
      rtol=1e-5,
      atol=1e-5,
    )
    assert (scores[row, num_found:] == -jnp.inf).all()
    found = {tuple(sequence) for sequence in tokens[row, :num_found].tolist()}
    assert found == {sequence for _, sequence in expected}


def test_tokens_and_scores_equal_those_of_transformers(golden):
  tokens, scores = golden.decode(
    beam_decode,
    num_beams=golden.arrays["beam_tokens"].shape[1],
    length_penalty=0.0,
    eos_id=-1,
  )
  np.testing.assert_array_equal(tokens, golden.arrays["beam_tokens"])
  np.testing.assert_allclose(
    scores, golden.arrays["beam_scores"], rtol=1e-5, atol=1e-4
  )


@pytest.mark.parametrize("golden", ["t5_1_1"], indirect=True)
def test_one_beam_follows_the_greedy_path(golden):
  endless, _ = golden.decode(beam_decode, num_beams=1, eos_id=-1)
  np.testing.assert_array_equal(
    endless[:, 0], golden.decode(greedy_decode, eos_id=-1)
  )
  # Without a penalty the best end lies on that path.
  eos_id = int(golden.arrays["eos_id"])
  ended, _ = golden.decode(
    beam_decode, num_beams=1, length_penalty=0.0, eos_id=eos_id
  )
  for sequence, path in zip(ended[:, 0].tolist(), endless[:, 0], strict=True):
    length = (sequence + [eos_id]).index(eos_id)
    assert sequence[:length] == path[:length].tolist()


@pytest.mark.parametrize("length_penalty,num_steps", [(0.0, 2), (0.6, 4)])
def test_the_search_stops_when_no_live_sequence_can_win(
  make_table_step, length_penalty, num_steps
):
  # A token other than the end costs 20. From step 2 on the worse of two ended
  # sequences has paid once, over 1.1 with the penalty; a live one has paid
  # once a step, over 3.8 at most, and is beaten by paying 2 or 4 times.
  calls = []
  table = np.full((3, 3), -20.0)
  table[:, EOS_ID] = 0.0
  step_fn = make_table_step(table)

  def counting_step(tokens, step, cache):
    jax.debug.callback(lambda: calls.append(1))
    return step_fn(tokens, step, cache)

  tokens, _ = beam_decode(
    counting_step,
    _make_rows(2),
    batch_size=2,
    max_decode_length=50,
    num_beams=2,
    length_penalty=length_penalty,
  )
  jax.effects_barrier()
  np.testing.assert_array_equal(tokens[:, 0, :2], [[EOS_ID, 0]] * 2)
  assert len(calls) == num_steps


@pytest.mark.parametrize(
  "setting,value", [("num_beams", 0), ("length_penalty", -0.5)]
)
def test_a_bad_setting_is_named(make_table_step, setting, value):
  settings = {"num_beams": 1} | {setting: value}
  with pytest.raises(UserError, match=f"{setting} is {value}"):
    beam_decode(
      make_table_step(np.zeros((5, 5))),
      _make_rows(1),
      batch_size=1,
      max_decode_length=1,
      **settings,
    )
