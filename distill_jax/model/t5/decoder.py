"""T5's decoder: all positions at once for training, one at a time to decode.

Both ways run the same branches of the same layers; they differ in where keys
and values come from.
"""

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from distill_jax.model.layers import layer_stack, masks, shared_bias
from distill_jax.model.layers.attention import Attention, KeyValue
from distill_jax.model.layers.dot_product import AttentionBias
from distill_jax.model.layers.embedding import Embedding
from distill_jax.model.layers.linear import Linear
from distill_jax.model.layers.mlp import MLP
from distill_jax.model.layers.norm import RMSNorm
from distill_jax.model.layers.relative_bias import RelativeBias
from distill_jax.model.t5.config import T5Config
from distill_jax.partitioning.constraint import ConstrainFn, leave_free

_RESIDUAL = ("batch", "length", "embed")


@struct.dataclass
class DecodeCache:
  """What decoding one token at a time carries along.

  Attributes:
    self_attention: a layer's keys and values of the tokens decoded so far,
      [batch, heads, max_decode_length, head_dim]; zeros behind them.
    cross_attention: a layer's keys and values of the encoder's output,
      [batch, heads, encoder_length, head_dim]; decoding only reads them.
    cross_bias: [batch, 1, 1, encoder_length] float32.
  """

  self_attention: tuple[KeyValue, ...]
  cross_attention: tuple[KeyValue, ...]
  # Of `jax.eval_shape` it holds shapes.
  cross_bias: Float[Array | jax.ShapeDtypeStruct, "batch 1 1 encoder_length"]

  def reorder(self, rows: Int[Array, "batch"]) -> "DecodeCache":
    """Returns a cache whose row i continues row `rows[i]`.

    Only what decoding wrote moves: rows change places among the copies of one
    input, whose encoder side is the same.

    Args:
      rows: [batch] int32, each a copy of the same input as the row it goes to.
    """
    return dataclasses.replace(
      self,
      self_attention=jax.tree.map(lambda leaf: leaf[rows], self.self_attention),
    )


class DecoderLayer(nn.Module):
  """Causal self-attention, attention to the encoder, and MLP."""

  config: T5Config
  constrain_fn: ConstrainFn = leave_free

  def setup(self):
    cfg = self.config
    if cfg.per_layer_relative_bias:
      self.relpos_bias = RelativeBias(cfg, is_bidirectional=False)
    self.pre_self_attention_layer_norm = RMSNorm(cfg)
    self.self_attention = Attention(cfg, self.constrain_fn)
    self.pre_cross_attention_layer_norm = RMSNorm(cfg)
    self.encoder_decoder_attention = Attention(cfg, self.constrain_fn)
    self.pre_mlp_layer_norm = RMSNorm(cfg)
    self.mlp = MLP(cfg, self.constrain_fn)
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

  def __call__(
    self,
    x: Float[Array, "batch length embed"],
    encoded: Float[Array, "batch encoder_length embed"],
    self_bias: AttentionBias,
    cross_bias: AttentionBias,
    *,
    enable_dropout: bool,
  ) -> Float[Array, "batch length embed"]:
    """Runs the layer for all tokens.

    Args:
      x: [batch, length, embed], compute dtype.
      encoded: [batch, encoder_length, embed]: the encoder's output.
      self_bias: the mask, and the relative position bias where all layers
        share it.
      cross_bias: the mask.
      enable_dropout: whether to draw from the "dropout" stream.

    Returns:
      [batch, length, embed], compute dtype.
    """
    if self.config.per_layer_relative_bias:
      length = x.shape[1]
      self_bias = self_bias.plus(self.relpos_bias(length, length))
    normed = self.pre_self_attention_layer_norm(x)
    return self._apply_branches(
      x,
      normed,
      self.self_attention.project_key_value(normed),
      self.encoder_decoder_attention.project_key_value(encoded),
      self_bias,
      cross_bias,
      enable_dropout=enable_dropout,
    )

  def decode_step(
    self,
    x: Float[Array, "batch 1 embed"],
    step: Int[Array, ""] | int,
    cached: KeyValue,
    cross: KeyValue,
    self_bias: AttentionBias,
    cross_bias: AttentionBias,
  ) -> tuple[Float[Array, "batch 1 embed"], KeyValue]:
    """Runs the layer for the token at index `step`.

    Args:
      x: [batch, 1, embed], compute dtype.
      step: index of the token.
      cached: keys and values of the tokens before it.
      cross: keys and values of the encoder's output.
      self_bias: as for all tokens, of one query.
      cross_bias: as above.

    Returns:
      The layer's output and `cached` with this token's keys and values.
    """
    if self.config.per_layer_relative_bias:
      max_decode_length = cached.key.shape[2]
      self_bias = self_bias.plus(
        self.relpos_bias.compute_step(step, max_decode_length)
      )
    normed = self.pre_self_attention_layer_norm(x)
    projected = self.self_attention.project_key_value(normed)
    cached = KeyValue(
      *(
        lax.dynamic_update_slice_in_dim(buffer, new, step, axis=2)
        for buffer, new in zip(cached, projected, strict=True)
      )
    )
    x = self._apply_branches(
      x, normed, cached, cross, self_bias, cross_bias, enable_dropout=False
    )
    return x, cached

  def _apply_branches(
    self,
    x: Float[Array, "batch length embed"],
    normed: Float[Array, "batch length embed"],
    self_key_value: KeyValue,
    cross_key_value: KeyValue,
    self_bias: AttentionBias,
    cross_bias: AttentionBias,
    *,
    enable_dropout: bool,
  ) -> Float[Array, "batch length embed"]:
    branch = self.self_attention(
      normed, self_key_value, self_bias, enable_dropout=enable_dropout
    )
    x = x + self.dropout(branch, deterministic=not enable_dropout)
    x = self.constrain_fn(x, _RESIDUAL)
    branch = self.encoder_decoder_attention(
      self.pre_cross_attention_layer_norm(x),
      cross_key_value,
      cross_bias,
      enable_dropout=enable_dropout,
    )
    x = x + self.dropout(branch, deterministic=not enable_dropout)
    x = self.constrain_fn(x, _RESIDUAL)
    branch = self.mlp(self.pre_mlp_layer_norm(x), enable_dropout=enable_dropout)
    x = x + self.dropout(branch, deterministic=not enable_dropout)
    return self.constrain_fn(x, _RESIDUAL)


class Decoder(nn.Module):
  """The stack of decoder layers, and the logits."""

  config: T5Config
  token_embedder: Embedding
  constrain_fn: ConstrainFn = leave_free

  def setup(self):
    cfg = self.config
    if not cfg.per_layer_relative_bias:
      self.relpos_bias = RelativeBias(cfg, is_bidirectional=False)
    if cfg.scan_layers:
      self.decoder = DecoderLayer(cfg, self.constrain_fn)
    else:
      self.layers = [
        DecoderLayer(cfg, self.constrain_fn)
        for _ in range(cfg.num_decoder_layers)
      ]
    self.decoder_norm = RMSNorm(cfg)
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))
    if not cfg.tie_embeddings:
      self.logits_dense = Linear(
        cfg.embed_dim, cfg.vocab_size, ("embed", "vocab")
      )

  def __call__(
    self,
    tokens: Int[Array, "batch length"],
    encoded: Float[Array, "batch encoder_length embed"],
    segment_ids: Int[Array, "batch length"],
    encoder_segment_ids: Int[Array, "batch encoder_length"],
    *,
    enable_dropout: bool,
  ) -> Float[Array, "batch length embed"]:
    """Returns what the logits of every index are made of."""
    length = tokens.shape[1]
    self_mask = masks.make_segment_mask(
      segment_ids, segment_ids, is_causal=True
    )  # [batch, 1, length, length]
    position_bias = None
    if not self.config.per_layer_relative_bias:
      position_bias = self.relpos_bias(length, length)
    give_self_bias = shared_bias.prepare(
      position_bias, self_mask, self.config, self.constrain_fn
    )
    cross_mask = masks.make_segment_mask(
      segment_ids, encoder_segment_ids, is_causal=False
    )  # [batch, 1, length, encoder_length]
    give_cross_bias = shared_bias.prepare(
      None, cross_mask, self.config, self.constrain_fn
    )
    x = self.dropout(
      self.token_embedder(tokens), deterministic=not enable_dropout
    )
    x = self.constrain_fn(x, _RESIDUAL)
    x = layer_stack.run_layers(
      lambda layer, x: layer(
        x,
        encoded,
        give_self_bias(),
        give_cross_bias(),
        enable_dropout=enable_dropout,
      ),
      self.decoder if self.config.scan_layers else self.layers,
      x,
      self.config.num_decoder_layers,
      self.config.remat_policy,
    )
    return self.dropout(self.decoder_norm(x), deterministic=not enable_dropout)

  def start_decoding(
    self,
    encoded: Float[Array, "batch encoder_length embed"],
    encoder_segment_ids: Int[Array, "batch encoder_length"],
    max_decode_length: int,
  ) -> DecodeCache:
    """Projects the encoder's output once and makes room for the tokens."""
    cfg = self.config
    # The encoder's rows may be divided otherwise.
    encoded = self.constrain_fn(encoded, _RESIDUAL)
    shape = (encoded.shape[0], cfg.num_heads, max_decode_length, cfg.head_dim)
    buffer = self.constrain_fn(
      jnp.zeros(shape, encoded.dtype), ("batch", "heads", "length", "kv")
    )
    is_token = (encoder_segment_ids > 0).astype(jnp.int32)
    return DecodeCache(
      self_attention=(KeyValue(buffer, buffer),) * cfg.num_decoder_layers,
      cross_attention=tuple(
        layer.encoder_decoder_attention.project_key_value(encoded)
        for layer in self._list_layers()
      ),
      cross_bias=masks.to_bias(
        masks.make_segment_mask(
          jnp.ones_like(is_token[:, :1]), is_token, is_causal=False
        )
      ),
    )

  def decode_step(
    self,
    tokens: Int[Array, "batch"],
    step: Int[Array, ""] | int,
    cache: DecodeCache,
  ) -> tuple[Float[Array, "batch vocab"], DecodeCache]:
    """Scores the token after `tokens`, which stand at index `step`."""
    max_decode_length = cache.self_attention[0].key.shape[2]
    self_bias = AttentionBias(masks.make_step_bias(step, max_decode_length))
    if not self.config.per_layer_relative_bias:
      self_bias = self_bias.plus(
        self.relpos_bias.compute_step(step, max_decode_length)
      )
    x = self.token_embedder(tokens[:, None])  # [batch, 1, embed]
    x = self.constrain_fn(x, _RESIDUAL)
    written = []
    cross_bias = AttentionBias(cast(Array, cache.cross_bias))
    for layer, cached, cross in zip(
      self._list_layers(),
      cache.self_attention,
      cache.cross_attention,
      strict=True,
    ):
      x, cached = layer.decode_step(
        x, step, cached, cross, self_bias, cross_bias
      )
      written.append(cached)
    logits = self.compute_logits(self.decoder_norm(x))
    return logits[:, 0], dataclasses.replace(
      cache, self_attention=tuple(written)
    )

  def compute_logits(
    self, x: Float[Array, "batch length embed"]
  ) -> Float[Array, "batch length vocab"]:
    """Scores every token: [batch, length, vocab] float32."""
    if self.config.tie_embeddings:
      logits = self.token_embedder.compute_logits(x)
    else:
      logits = self.logits_dense(x.astype(jnp.float32))
    return self.constrain_fn(logits, ("batch", "length", "vocab"))

  def _list_layers(self) -> list[nn.Module]:
    if not self.config.scan_layers:
      return list(self.layers)
    return [
      layer_stack.select_layer(self.decoder, index)
      for index in range(self.config.num_decoder_layers)
    ]
