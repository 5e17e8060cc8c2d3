"""The T5 encoder-decoder of the whole family, with T5X's parameter tree.

It holds no optimizer, vocabulary, loss or mesh. Dropout sits where T5X has it
(embedded tokens, attention probabilities, MLP hidden layer, every residual
branch, each stack's output) and always draws once for all positions of a row,
as Mesh TensorFlow's T5 did; T5X does so too but for the encoder's output.
"""

from collections.abc import Mapping

from flax import linen as nn
from jaxtyping import Array, Float, Int

from distill_jax.data.feed import batch as batch_lib
from distill_jax.model.layers.embedding import Embedding
from distill_jax.model.t5.config import T5Config
from distill_jax.model.t5.decoder import DecodeCache, Decoder
from distill_jax.model.t5.encoder import Encoder
from distill_jax.partitioning.constraint import ConstrainFn, leave_free


class T5(nn.Module):
  """The whole model. Its methods are called through `apply(..., method=)`.

  Attributes:
    config: sizes and choices.
    constrain_fn: called on activations with their logical axis names.
  """

  config: T5Config
  constrain_fn: ConstrainFn = leave_free

  def setup(self):
    self.token_embedder = Embedding(self.config, self.constrain_fn)
    self.encoder = Encoder(self.config, self.token_embedder, self.constrain_fn)
    self.decoder = Decoder(self.config, self.token_embedder, self.constrain_fn)

  def __call__(
    self, batch: Mapping[str, Array], *, enable_dropout: bool
  ) -> Float[Array, "batch decoder_length vocab"]:
    """Scores every next target token, given those before it.

    Args:
      batch: as for `compute_hidden`.
      enable_dropout: whether to draw from the "dropout" stream.

    Returns:
      [batch, decoder_length, vocab] float32; meaningless on padding.
    """
    hidden = self.compute_hidden(batch, enable_dropout=enable_dropout)
    return self.compute_logits(hidden)

  def compute_hidden(
    self, batch: Mapping[str, Array], *, enable_dropout: bool
  ) -> Float[Array, "batch decoder_length embed"]:
    """Runs all of the model but its last product, the largest array by far.

    Args:
      batch: of it are read
        `encoder_input_tokens`, [batch, encoder_length] int32;
        `decoder_input_tokens`, [batch, decoder_length] int32, targets shifted
        right inside each segment;
        `encoder_segment_ids`, [batch, encoder_length] int32: 1.. for each
        packed example, 0 on padding; not packed: `encoder_input_tokens > 0`;
        `decoder_segment_ids`, [batch, decoder_length] int32, as above; not
        packed: `decoder_target_tokens > 0`, because the first input is 0 too.
      enable_dropout: whether to draw from the "dropout" stream.

    Returns:
      [batch, decoder_length, embed], compute dtype.
    """
    encoder_segment_ids = batch[batch_lib.ENCODER_SEGMENT_IDS]
    encoded = self.encode(
      batch[batch_lib.ENCODER_INPUT_TOKENS],
      encoder_segment_ids,
      enable_dropout=enable_dropout,
    )
    return self.decoder(
      batch[batch_lib.DECODER_INPUT_TOKENS],
      encoded,
      batch[batch_lib.DECODER_SEGMENT_IDS],
      encoder_segment_ids,
      enable_dropout=enable_dropout,
    )

  def compute_logits(
    self, hidden: Float[Array, "batch length embed"]
  ) -> Float[Array, "batch length vocab"]:
    """Scores every token at each position by itself.

    Args:
      hidden: [batch, length, embed]: of `compute_hidden`, any part of it.

    Returns:
      [batch, length, vocab] float32.
    """
    return self.decoder.compute_logits(hidden)

  def encode(
    self,
    tokens: Int[Array, "batch length"],
    segment_ids: Int[Array, "batch length"],
    *,
    enable_dropout: bool,
  ) -> Float[Array, "batch length embed"]:
    """Returns the encoder's output.

    Args:
      tokens: [batch, length] int32.
      segment_ids: [batch, length] int32, as for the whole model.
      enable_dropout: whether to draw from the "dropout" stream.

    Returns:
      [batch, length, embed], compute dtype.
    """
    return self.encoder(tokens, segment_ids, enable_dropout=enable_dropout)

  def encode_inputs(
    self, inputs: Mapping[str, Array]
  ) -> tuple[
    Float[Array, "batch encoder_length embed"],
    Int[Array, "batch encoder_length"],
  ]:
    """Returns what decoding starts from.

    Args:
      inputs: `encoder_input_tokens` and `encoder_segment_ids` of a batch that
        is not packed.

    Returns:
      The encoder's output, and the segment ids.
    """
    segment_ids = inputs[batch_lib.ENCODER_SEGMENT_IDS]
    tokens = inputs[batch_lib.ENCODER_INPUT_TOKENS]
    return self.encode(tokens, segment_ids, enable_dropout=False), segment_ids

  def start_decoding(
    self,
    encoded: Float[Array, "batch encoder_length embed"],
    encoder_segment_ids: Int[Array, "batch encoder_length"],
    max_decode_length: int,
  ) -> DecodeCache:
    """Returns the cache to decode with, no token decoded yet.

    Args:
      encoded: [batch, encoder_length, embed]: what `encode` returned.
      encoder_segment_ids: [batch, encoder_length] int32, 0 on padding; all
        others are attended to, so rows must not be packed.
      max_decode_length: tokens there is room for.

    Returns:
      A cache whose leaves all lead with the batch axis.
    """
    return self.decoder.start_decoding(
      encoded, encoder_segment_ids, max_decode_length
    )

  def decode_step(
    self,
    tokens: Int[Array, "batch"],
    step: Int[Array, ""] | int,
    cache: DecodeCache,
  ) -> tuple[Float[Array, "batch vocab"], DecodeCache]:
    """Scores one next token a row, without dropout.

    Args:
      tokens: [batch] int32: the decoder's input at index `step`; at step 0 the
        padding id.
      step: how many tokens the cache holds; int32, possibly traced.
      cache: of the step before.

    Returns:
      Logits [batch, vocab] float32, and the cache with this token added.
    """
    return self.decoder.decode_step(tokens, step, cache)
