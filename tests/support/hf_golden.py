"""The models in testdata/hf: read by our converter, and what torch computed.

`scripts/make_golden.py` wrote them.
"""

import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import t5_batch
from flax import traverse_util

from distill_jax.checkpoint import hf
from distill_jax.decoding.cache import start_decoding
from distill_jax.model.t5.t5 import T5

FOLDER = pathlib.Path(__file__).parents[1] / "testdata" / "hf"
VARIANTS = ("t5_1_0", "t5_1_1", "mt5", "umt5", "byt5", "asymmetric")


def load(variant):
  """Returns our config, the weights, and torch's numbers.

  `batch` holds the model's four inputs, in the order it takes them;
  `gradients` are by our path and in our layout.
  """
  stored = hf.open_hf(FOLDER / variant)
  with np.load(FOLDER / variant / "golden.npz") as file:
    arrays = dict(file)
  encoder_tokens = arrays["encoder_input_tokens"]
  targets = arrays["decoder_target_tokens"]
  return types.SimpleNamespace(
    config=stored.config,
    params=read_params(stored),
    gradients={
      path: _to_our_layout(path, arrays[f"grad/{tensor.stored_name}"])
      for path, tensor in stored.tensors.items()
    },
    arrays=arrays,
    batch={
      "encoder_input_tokens": encoder_tokens,
      "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
      "encoder_segment_ids": (encoder_tokens > 0).astype(np.int32),
      "decoder_segment_ids": (targets > 0).astype(np.int32),
    },
  )


def read_params(stored):
  """Reads the parameter tree of a stored model."""
  flat = {path: tensor.read() for path, tensor in stored.tensors.items()}
  return traverse_util.unflatten_dict(flat, sep="/")


def _to_our_layout(path, array):
  is_transposed = path.endswith(("/kernel", "/rel_embedding"))
  return array.T if is_transposed else array


def decode(golden, decode_fn, **settings):
  """Decodes the inputs of a loaded model as far as torch did."""
  return decode_tokens(
    golden.config,
    golden.params,
    golden.arrays["encoder_input_tokens"],
    golden.arrays["greedy_tokens"].shape[1],
    decode_fn,
    **settings,
  )


def decode_tokens(
  config, params, tokens, max_decode_length, decode_fn, **settings
):
  """Decodes the targets of encoder tokens [batch, length]."""

  @jax.jit
  def run(params, tokens):
    step_fn, cache = start_decoding(
      T5(config),
      params,
      t5_batch.make_inputs(tokens, (tokens > 0).astype(jnp.int32)),
      max_decode_length,
    )
    return decode_fn(
      step_fn,
      cache,
      batch_size=len(tokens),
      max_decode_length=max_decode_length,
      **settings,
    )

  return run(params, tokens)
