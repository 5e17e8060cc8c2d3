"""What the layers read of a configuration, whichever family's it is."""

from collections.abc import Sequence

from distill_jax.model.config import ModelConfig

# Fused kernels of GPUs: in half precision alone, and they take masks.
GPU_ATTENTION = ("cudnn", "tokamax")
# A damaged file must not make a model without end.
MAX_LAYERS = 1000


class LayerConfig(ModelConfig):
  """Fields that a layer may read; a family has those of the layers it uses."""

  embed_dim: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  mlp_activations: Sequence[str]
  dropout_rate: float
  relative_attention_num_buckets: int
  relative_attention_max_distance: int
  layer_norm_epsilon: float
  attention_implementation: str
