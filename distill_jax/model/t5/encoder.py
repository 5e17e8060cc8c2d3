"""T5's encoder: from tokens to normalised vectors."""

from flax import linen as nn
from jaxtyping import Array, Float, Int

from distill_jax.model.layers import layer_stack, masks, shared_bias
from distill_jax.model.layers.attention import Attention
from distill_jax.model.layers.dot_product import AttentionBias
from distill_jax.model.layers.embedding import Embedding
from distill_jax.model.layers.mlp import MLP
from distill_jax.model.layers.norm import RMSNorm
from distill_jax.model.layers.relative_bias import RelativeBias
from distill_jax.model.t5.config import T5Config
from distill_jax.partitioning.constraint import ConstrainFn, leave_free

_RESIDUAL = ("batch", "length", "embed")


class EncoderLayer(nn.Module):
  """Self-attention and MLP, each on a normalised residual branch."""

  config: T5Config
  constrain_fn: ConstrainFn = leave_free

  def setup(self):
    cfg = self.config
    if cfg.per_layer_relative_bias:
      self.relpos_bias = RelativeBias(cfg, is_bidirectional=True)
    self.pre_attention_layer_norm = RMSNorm(cfg)
    self.attention = Attention(cfg, self.constrain_fn)
    self.pre_mlp_layer_norm = RMSNorm(cfg)
    self.mlp = MLP(cfg, self.constrain_fn)
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

  def __call__(
    self,
    x: Float[Array, "batch length embed"],
    bias: AttentionBias,
    *,
    enable_dropout: bool,
  ) -> Float[Array, "batch length embed"]:
    """Runs the layer.

    Args:
      x: [batch, length, embed], compute dtype.
      bias: the mask, and the relative position bias where all layers share it.
      enable_dropout: whether to draw from the "dropout" stream.

    Returns:
      [batch, length, embed], compute dtype.
    """
    if self.config.per_layer_relative_bias:
      length = x.shape[1]
      bias = bias.plus(self.relpos_bias(length, length))
    normed = self.pre_attention_layer_norm(x)
    branch = self.attention(
      normed,
      self.attention.project_key_value(normed),
      bias,
      enable_dropout=enable_dropout,
    )
    x = x + self.dropout(branch, deterministic=not enable_dropout)
    x = self.constrain_fn(x, _RESIDUAL)
    branch = self.mlp(self.pre_mlp_layer_norm(x), enable_dropout=enable_dropout)
    x = x + self.dropout(branch, deterministic=not enable_dropout)
    return self.constrain_fn(x, _RESIDUAL)


class Encoder(nn.Module):
  """The stack of encoder layers, from tokens to normalised vectors."""

  config: T5Config
  token_embedder: Embedding
  constrain_fn: ConstrainFn = leave_free

  def setup(self):
    cfg = self.config
    if not cfg.per_layer_relative_bias:
      self.relpos_bias = RelativeBias(cfg, is_bidirectional=True)
    if cfg.scan_layers:
      self.encoder = EncoderLayer(cfg, self.constrain_fn)
    else:
      self.layers = [
        EncoderLayer(cfg, self.constrain_fn)
        for _ in range(cfg.num_encoder_layers)
      ]
    self.encoder_norm = RMSNorm(cfg)
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

  def __call__(
    self,
    tokens: Int[Array, "batch length"],
    segment_ids: Int[Array, "batch length"],
    *,
    enable_dropout: bool,
  ) -> Float[Array, "batch length embed"]:
    """Encodes [batch, length] ids to [batch, length, embed]."""
    length = tokens.shape[1]
    mask = masks.make_segment_mask(
      segment_ids, segment_ids, is_causal=False
    )  # [batch, 1, length, length]
    position_bias = None
    if not self.config.per_layer_relative_bias:
      position_bias = self.relpos_bias(length, length)
    give_bias = shared_bias.prepare(
      position_bias, mask, self.config, self.constrain_fn
    )
    x = self.dropout(
      self.token_embedder(tokens), deterministic=not enable_dropout
    )
    x = self.constrain_fn(x, _RESIDUAL)
    x = layer_stack.run_layers(
      lambda layer, x: layer(x, give_bias(), enable_dropout=enable_dropout),
      self.encoder if self.config.scan_layers else self.layers,
      x,
      self.config.num_encoder_layers,
      self.config.remat_policy,
    )
    return self.dropout(self.encoder_norm(x), deterministic=not enable_dropout)
