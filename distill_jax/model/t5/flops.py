"""What one pass of the model costs in floating point operations.

Only matrix products count, 2 m n k each, and a pass counts what its maths asks
for: what is computed again to save memory is counted apart, so that "model
FLOPs utilization" does not rise with waste.

Source: Chowdhery et al. 2022 (arXiv:2204.02311), appendix B, whose 6N + 12LHQT
a token is this sum for a decoder-only model.
"""

from distill_jax.model.layers.layer_config import GPU_ATTENTION
from distill_jax.model.t5.config import T5Config


def count_forward_flops(
  config: T5Config, num_rows: int, encoder_length: int, decoder_length: int
) -> int:
  """Counts the FLOPs of one forward pass, logits included.

  With the shapes of a batch this is what the padded batch costs. What its
  examples need, without padding and without attention from one packed example
  to another, is the sum over them of one row with the example's own lengths.

  Decoding `decoder_length` tokens with a cache of that many costs the same: the
  same products, one position at a time, each over the whole cache.

  Args:
    config: sizes.
    num_rows: rows of the batch.
    encoder_length: encoder tokens of a row.
    decoder_length: decoder tokens of a row.

  Returns:
    The number. Embedding lookups, norms, softmax and activations are none.
  """
  joined_dim = config.num_heads * config.head_dim
  projection = 2 * config.embed_dim * joined_dim  # of one token
  mlp = (
    2 * config.embed_dim * config.mlp_dim * (len(config.mlp_activations) + 1)
  )

  # Query, key, value and output.
  encoder_layer = encoder_length * (4 * projection + mlp)
  # Cross-attention projects its keys and values from the encoder's tokens.
  decoder_layer = (
    decoder_length * ((4 + 2) * projection + mlp)
    + encoder_length * 2 * projection
  )
  layers = (
    config.num_encoder_layers * encoder_layer
    + config.num_decoder_layers * decoder_layer
  )
  return (
    num_rows * layers
    + _count_attention_flops(config, num_rows, encoder_length, decoder_length)
    + _count_logits_flops(config, num_rows, decoder_length)
  )


def count_train_flops(
  config: T5Config, num_rows: int, encoder_length: int, decoder_length: int
) -> int:
  """Counts the FLOPs of a forward and a backward pass.

  The backward pass has two products for each of the forward pass. The
  optimizer has none.

  Args:
    config: sizes.
    num_rows: as for `count_forward_flops`, like those that follow.
    encoder_length: as above.
    decoder_length: as above.

  Returns:
    Three times the forward pass.
  """
  return 3 * count_forward_flops(
    config, num_rows, encoder_length, decoder_length
  )


def count_recomputed_flops(
  config: T5Config,
  num_rows: int,
  encoder_length: int,
  decoder_length: int,
  loss_chunk_tokens: int | None = None,
) -> int:
  """Counts the FLOPs that a backward pass does again to save memory.

  Under the remat policy "full" these are all products of the layers but each
  layer's last one, whose result no gradient asks for; under "minimal" those of
  attention, which have no parameter; a GPU's fused one is kept.

  Args:
    config: sizes, and the policy.
    num_rows: as for `count_forward_flops`, like those that follow.
    encoder_length: as above.
    decoder_length: as above.
    loss_chunk_tokens: as for training; if not None, the logits are computed
      again too.

  Returns:
    The number. What fused attention kernels do again is not counted, nor what
    fills up the last chunk of logits.
  """
  sizes = (config, num_rows, encoder_length, decoder_length)
  logits = _count_logits_flops(config, num_rows, decoder_length)
  recomputed = 0
  if config.remat_policy == "full":
    last_product = 2 * config.mlp_dim * config.embed_dim  # of one token
    tokens = (
      config.num_encoder_layers * encoder_length
      + config.num_decoder_layers * decoder_length
    )
    recomputed = count_forward_flops(*sizes) - logits
    recomputed -= num_rows * tokens * last_product
  elif (
    config.remat_policy == "minimal"
    and config.attention_implementation not in GPU_ATTENTION
  ):
    recomputed = _count_attention_flops(*sizes)
  return recomputed + (0 if loss_chunk_tokens is None else logits)


def _count_attention_flops(
  config: T5Config, num_rows: int, encoder_length: int, decoder_length: int
) -> int:
  """Counts scores, and values weighted by them."""
  joined_dim = config.num_heads * config.head_dim
  pairs = (
    config.num_encoder_layers * encoder_length * encoder_length
    + config.num_decoder_layers
    * decoder_length
    * (decoder_length + encoder_length)
  )
  return num_rows * 2 * 2 * pairs * joined_dim


def _count_logits_flops(
  config: T5Config, num_rows: int, decoder_length: int
) -> int:
  return num_rows * decoder_length * 2 * config.embed_dim * config.vocab_size
