"""What one pass of the model costs in floating point operations.

Layer 0; imports the model's config. Only matrix products count, 2 m n k each,
and a pass counts what its maths asks for: what is computed again to save memory
is not counted, so that "model FLOPs utilization" does not rise with waste.

Source: Chowdhery et al. 2022 (arXiv:2204.02311), appendix B, whose 6N + 12LHQT
a token is this sum for a decoder-only model.
"""

from distill_jax.model.config import T5Config


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

  def count_products(q_length: int, k_length: int) -> int:
    """Scores, and values weighted by them."""
    return 2 * 2 * q_length * k_length * joined_dim

  # Query, key, value and output.
  encoder_layer = encoder_length * (4 * projection + mlp) + count_products(
    encoder_length, encoder_length
  )
  # Cross-attention projects its keys and values from the encoder's tokens.
  decoder_layer = (
    decoder_length * ((4 + 2) * projection + mlp)
    + encoder_length * 2 * projection
    + count_products(decoder_length, decoder_length)
    + count_products(decoder_length, encoder_length)
  )
  logits = decoder_length * 2 * config.embed_dim * config.vocab_size
  return num_rows * (
    config.num_encoder_layers * encoder_layer
    + config.num_decoder_layers * decoder_layer
    + logits
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
    encoder_length: likewise.
    decoder_length: likewise.

  Returns:
    Three times the forward pass.
  """
  return 3 * count_forward_flops(
    config, num_rows, encoder_length, decoder_length
  )
