"""A family of its own, as a user would write one: a small decoder alone.

Two layers, rotary positions, attention to earlier tokens of the same segment.
Registers itself when it is imported.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from distill_jax.data.feed import batch_layout
from distill_jax.model import hf_form, registry
from distill_jax.model.layers import masks
from distill_jax.model.layers.layer_config import LayerConfig
from distill_jax.model.layers.linear import Linear
from distill_jax.model.layers.norm import RMSNorm
from distill_jax.model.layers.parameter import make_parameter
from distill_jax.partitioning.constraint import ConstrainFn, leave_free


@dataclasses.dataclass(frozen=True)
class ToyConfig(LayerConfig):
  """Sizes of the toy."""

  vocab_size: int = 384
  embed_dim: int = 32
  num_heads: int = 2
  mlp_dim: int = 48
  num_layers: int = 2
  dropout_rate: float = 0.0
  layer_norm_epsilon: float = 1e-6
  dtype: str = "float32"

  @property
  def head_dim(self):
    return self.embed_dim // self.num_heads


def rotate(x, positions):
  """Turns pairs of [batch, heads, length, dim] by their positions."""
  half = x.shape[-1] // 2
  rates = 100.0 ** (-jnp.arange(half) / half)
  angles = positions[:, None, :, None] * rates[None, None, None]
  sine, cosine = jnp.sin(angles), jnp.cos(angles)
  first, second = x[..., :half], x[..., half:]
  return jnp.concatenate(
    [first * cosine - second * sine, first * sine + second * cosine], -1
  )


class ToyLayer(nn.Module):
  config: ToyConfig
  constrain_fn: ConstrainFn

  def setup(self):
    dim, mlp_dim = self.config.embed_dim, self.config.mlp_dim
    self.attention_norm, self.mlp_norm = (
      RMSNorm(self.config),
      RMSNorm(self.config),
    )
    self.query, self.key, self.value = (
      Linear(dim, dim, ("embed", "joined_kv")) for _ in range(3)
    )
    self.out = Linear(dim, dim, ("joined_kv", "embed"))
    self.wi = Linear(dim, mlp_dim, ("embed", "mlp"))
    self.wo = Linear(mlp_dim, dim, ("mlp", "embed"))
    self.dropout = nn.Dropout(self.config.dropout_rate)

  def project(self, x, positions):
    """Returns keys and values, [batch, heads, length, dim] each."""
    x = self.attention_norm(x)
    return (
      rotate(self.split_heads(self.key(x)), positions),
      self.split_heads(self.value(x)),
    )

  def split_heads(self, x):
    shape = (*x.shape[:2], self.config.num_heads, self.config.head_dim)
    return jnp.swapaxes(x.reshape(shape), 1, 2)

  def __call__(self, x, positions, keys, values, bias, enable_dropout):
    queries = self.split_heads(self.query(self.attention_norm(x)))
    queries = rotate(queries, positions) * self.config.head_dim**-0.5
    scores = jnp.einsum("bhqd,bhkd->bhqk", queries, keys) + bias
    mixed = jnp.einsum("bhqk,bhkd->bqhd", nn.softmax(scores), values)
    mixed = self.out(mixed.reshape(x.shape))
    x = x + self.dropout(mixed, deterministic=not enable_dropout)
    hidden = nn.gelu(self.wi(self.mlp_norm(x)))
    x = x + self.dropout(self.wo(hidden), deterministic=not enable_dropout)
    return self.constrain_fn(x, ("batch", "length", "embed"))


class ToyDecoder(nn.Module):
  config: ToyConfig
  constrain_fn: ConstrainFn = leave_free

  def setup(self):
    shape = (self.config.vocab_size, self.config.embed_dim)
    self.embedding = make_parameter(
      self,
      "embedding",
      nn.initializers.normal(1.0),
      shape,
      ("vocab", "embed"),
    )
    self.layers = [
      ToyLayer(self.config, self.constrain_fn)
      for _ in range(self.config.num_layers)
    ]
    self.norm = RMSNorm(self.config)
    self.head = Linear(*shape[::-1], ("embed", "vocab"))

  def __call__(self, batch, *, enable_dropout):
    hidden = self.compute_hidden(batch, enable_dropout=enable_dropout)
    return self.compute_logits(hidden)

  def compute_hidden(self, batch, *, enable_dropout):
    ids = batch["decoder_segment_ids"]
    bias = masks.to_bias(masks.make_segment_mask(ids, ids, is_causal=True))
    positions = batch["decoder_positions"]
    x = jnp.take(self.embedding, batch["decoder_input_tokens"], axis=0)
    for layer in self.layers:
      keys, values = layer.project(x, positions)
      x = layer(x, positions, keys, values, bias, enable_dropout)
    return self.norm(x)

  def compute_logits(self, hidden):
    return self.head(hidden)

  def encode_inputs(self, inputs):
    return (
      inputs["decoder_input_tokens"],
      inputs["decoder_segment_ids"],
      inputs["decoder_positions"],
    )

  def start_decoding(self, tokens, segment_ids, positions, max_decode_length):
    # The last token of the inputs is step 0's.
    lengths = jnp.sum(segment_ids > 0, axis=1)
    indices = jnp.arange(tokens.shape[1])[None]
    is_before = indices < lengths[:, None] - 1
    bias = masks.to_bias(
      masks.make_segment_mask(segment_ids, segment_ids, is_causal=True)
    )
    room = ((0, 0), (0, 0), (0, max_decode_length), (0, 0))
    x, cached = jnp.take(self.embedding, tokens, axis=0), []
    for layer in self.layers:
      keys, values = layer.project(x, positions)
      x = layer(x, positions, keys, values, bias, False)
      cached.append((jnp.pad(keys, room), jnp.pad(values, room)))
    return {
      "layers": cached,
      "is_before": is_before,
      "lengths": lengths,
      "last": jnp.take_along_axis(tokens, lengths[:, None] - 1, axis=1)[:, 0],
    }

  def decode_step(self, tokens, step, cache):
    tokens = jnp.where(step == 0, cache["last"], tokens)
    positions = (cache["lengths"] - 1 + step)[:, None]
    num_inputs = cache["is_before"].shape[1]
    num_decoded = cache["layers"][0][0].shape[2] - num_inputs
    is_decoded = jnp.arange(num_decoded) <= step
    is_seen = jnp.concatenate(
      [
        cache["is_before"],
        jnp.broadcast_to(is_decoded, (len(tokens), num_decoded)),
      ],
      axis=1,
    )
    bias = masks.to_bias(is_seen)[:, None, None]
    x, written = jnp.take(self.embedding, tokens[:, None], axis=0), []
    for layer, cached in zip(self.layers, cache["layers"], strict=True):
      keys, values = (
        lax.dynamic_update_slice_in_dim(buffer, new, num_inputs + step, axis=2)
        for buffer, new in zip(cached, layer.project(x, positions), strict=True)
      )
      x = layer(x, positions, keys, values, bias, False)
      written.append((keys, values))
    logits = self.compute_logits(self.norm(x))
    return logits[:, 0], {**cache, "layers": written}


def make_names(config):
  """Names parameters for Hugging Face's files, kernels transposed."""
  names = {
    "embedding": hf_form.HFName("embed.weight", False),
    "norm/scale": hf_form.HFName("norm.weight", False),
    "head/kernel": hf_form.HFName("head.weight", True),
  }
  for number in range(config.num_layers):
    for part in ("query", "key", "value", "out", "wi", "wo"):
      names[f"layers_{number}/{part}/kernel"] = hf_form.HFName(
        f"layers.{number}.{part}.weight", True
      )
    for part in ("attention_norm", "mlp_norm"):
      names[f"layers_{number}/{part}/scale"] = hf_form.HFName(
        f"layers.{number}.{part}.weight", False
      )
  return names


_MODEL_TYPE = "toy_decoder"


def read_model(hf_config, tensors, path):
  fields = dict(hf_config)
  for name in ("model_type", "pad_token_id", "eos_token_id", "weights"):
    fields.pop(name)
  return hf_form.HFModel(ToyConfig(**fields), tensors, set())


def make_hf_config(config, dtype):
  return config.list_fields() | {
    "model_type": _MODEL_TYPE,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "weights": dtype,
  }


FAMILY = registry.register(
  registry.Family(
    name=_MODEL_TYPE,
    config_class=ToyConfig,
    module_class=ToyDecoder,
    layout=batch_layout.DECODER,
    hf=hf_form.HFForm(
      model_types=(_MODEL_TYPE,),
      auto_class="AutoModelForCausalLM",
      find_type_fn=lambda content: (
        _MODEL_TYPE if content.get("model_type") == _MODEL_TYPE else None
      ),
      read_fn=read_model,
      make_names_fn=make_names,
      make_config_fn=make_hf_config,
    ),
  )
)
