import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import t5_batch
from jax.extend import core as jax_core

from distill_jax.data.feed import batch as batch_lib
from distill_jax.model.t5 import flops
from distill_jax.model.t5.config import REMAT_POLICIES, T5Config
from distill_jax.model.t5.t5 import T5
from distill_jax.objective import chunks
from distill_jax.objective.target_tokens import TargetTokens
from distill_jax.training import state as state_lib

_ROWS, _ENCODER_LENGTH, _DECODER_LENGTH = 3, 10, 7
_CHANGES = {
  "gated": {},
  "ungated": {"mlp_activations": ("relu",)},
  "tied": {"tie_embeddings": True},
  "deep encoder": {"num_encoder_layers": 3},
  "deep decoder": {"num_decoder_layers": 3},
  "umT5": {"per_layer_relative_bias": True},
}


def _make_forward(config):
  """Returns a function of parameters and tokens, and what it is called with."""
  abstract, _ = state_lib.abstract_params(T5(config))

  def forward(params, inputs, targets) -> Any:
    return T5(config).apply(
      {"params": params},
      t5_batch.make_batch(inputs, targets, inputs, targets),
      enable_dropout=False,
    )

  tokens = [
    jax.ShapeDtypeStruct((_ROWS, length), jnp.int32)
    for length in (_ENCODER_LENGTH, _DECODER_LENGTH)
  ]
  return forward, (abstract, *tokens)


def _list_dots(jaxpr, times=1):
  """Yields products, and how often each runs."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      yield equation, times
    # Of all primitives only a scan's have it.
    length = equation.params.get("length", 1)
    for inner in jax_core.jaxprs_in_params(equation.params):
      yield from _list_dots(inner, times * length)


def _count_traced(function, arguments):
  """Adds up the products in what jax makes of a function."""
  total = 0
  for dot, times in _list_dots(jax.make_jaxpr(function)(*arguments).jaxpr):
    (contracted, _), _ = dot.params["dimension_numbers"]
    shape = dot.invars[0].aval.shape
    depth = math.prod(shape[axis] for axis in contracted)
    total += times * 2 * dot.outvars[0].aval.size * depth
  return total


@pytest.mark.parametrize("change", _CHANGES.values(), ids=list(_CHANGES))
def test_forward_counts_every_product_of_the_traced_model(config, change):
  config = dataclasses.replace(config, **change)
  counted = flops.count_forward_flops(
    config, _ROWS, _ENCODER_LENGTH, _DECODER_LENGTH
  )
  assert counted == _count_traced(*_make_forward(config))


def test_training_counts_every_product_of_the_traced_gradient(config):
  forward, arguments = _make_forward(config)
  gradient = jax.grad(lambda *args: jnp.sum(forward(*args)))
  counted = flops.count_train_flops(
    config, _ROWS, _ENCODER_LENGTH, _DECODER_LENGTH
  )
  assert counted == _count_traced(gradient, arguments)


@pytest.mark.parametrize(
  "change, policy, is_scanned",
  [
    *((change, "full", False) for change in _CHANGES),
    *(
      ("deep decoder", policy, is_scanned)
      for policy in REMAT_POLICIES
      for is_scanned in (False, True)
      if (policy, is_scanned) != ("full", False)
    ),
  ],
)
def test_what_is_computed_again_is_what_the_trace_has_besides(
  config, change, policy, is_scanned
):
  config = dataclasses.replace(
    config, **_CHANGES[change], remat_policy=policy, scan_layers=is_scanned
  )
  forward, arguments = _make_forward(config)
  traced = _count_traced(
    jax.grad(lambda *args: jnp.sum(forward(*args))), arguments
  )
  sizes = (config, _ROWS, _ENCODER_LENGTH, _DECODER_LENGTH)
  recomputed = traced - flops.count_train_flops(*sizes)
  assert flops.count_recomputed_flops(*sizes) == recomputed
  assert (recomputed > 0) == (policy != "none")


def test_logits_in_chunks_are_computed_again(config):
  forward, arguments = _make_forward(config)
  del forward

  def compute_loss(params, inputs, targets):
    def run(method, *args, **kwargs):
      return T5(config).apply(
        {"params": params}, *args, method=method, **kwargs
      )

    hidden = run(
      T5.compute_hidden,
      t5_batch.make_batch(inputs, targets, inputs, targets),
      enable_dropout=False,
    )

    def score(arrays):
      hidden, targets = arrays
      batch = {batch_lib.DECODER_TARGET_TOKENS: targets}
      compute_logits = lambda x: run(T5.compute_logits, x)
      return TargetTokens(batch, hidden, compute_logits).cross_entropy

    return jnp.sum(chunks.map_chunks(score, (hidden, targets), _ROWS))

  sizes = (config, _ROWS, _ENCODER_LENGTH, _DECODER_LENGTH)
  traced = _count_traced(jax.grad(compute_loss), arguments)
  recomputed = flops.count_recomputed_flops(*sizes, loss_chunk_tokens=_ROWS)
  assert traced - flops.count_train_flops(*sizes) == recomputed > 0


def test_decoding_costs_what_a_forward_pass_costs(config):
  abstract, _ = state_lib.abstract_params(T5(config))
  model = T5(config)

  def decode(params, inputs):
    def run(method, *args, **kwargs):
      return model.apply({"params": params}, *args, method=method, **kwargs)

    encoded = run(T5.encode, inputs, inputs, enable_dropout=False)
    cache = run(T5.start_decoding, encoded, inputs, _DECODER_LENGTH)
    logits = []
    for step in range(_DECODER_LENGTH):
      score, cache = run(T5.decode_step, inputs[:, 0], step, cache)
      logits.append(score)
    return logits

  inputs = jax.ShapeDtypeStruct((_ROWS, _ENCODER_LENGTH), jnp.int32)
  counted = flops.count_forward_flops(
    config, _ROWS, _ENCODER_LENGTH, _DECODER_LENGTH
  )
  assert counted == _count_traced(decode, (abstract, inputs))


def test_near_what_xla_counts(config):
  # Wide, so that what is no product weighs little.
  config = dataclasses.replace(
    config, vocab_size=256, embed_dim=128, head_dim=64, mlp_dim=256
  )
  forward, arguments = _make_forward(config)
  analysis = jax.jit(forward).lower(*arguments).cost_analysis()
  assert analysis is not None
  counted = flops.count_forward_flops(
    config, _ROWS, _ENCODER_LENGTH, _DECODER_LENGTH
  )
  assert 0 <= analysis["flops"] - counted < 0.03 * counted


def test_near_six_flops_a_parameter_and_token():
  xxl = T5Config(
    vocab_size=32128,
    embed_dim=4096,
    num_heads=64,
    head_dim=64,
    mlp_dim=10240,
    num_encoder_layers=24,
    num_decoder_layers=24,
  )
  length = 512
  looked_up = xxl.vocab_size * xxl.embed_dim
  # The whole model's count is that of gin/models/t5_1_1/xxl.gin.
  rule = 6 * (11_135_332_352 - looked_up) * length
  # The rest is attention, whose cost a token grows with the length.
  counted = flops.count_train_flops(xxl, 1, length, length)
  assert 0 < counted - rule < 0.04 * rule
