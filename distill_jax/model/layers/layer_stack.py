"""The equal layers of a stack, run one after another or as one scan.

A scan compiles one layer instead of all of them, and keeps each parameter of
all layers in one array, where T5X's scalable_t5 keeps it:
`encoder/encoder/mlp/wo/kernel`, [mlp, layers, embed]. Dropout draws other masks
than in separate layers; nothing else differs but rounding.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

STACKS = ("encoder", "decoder")
# Where the layers lie in every parameter of a scan.
SCAN_AXIS = 1
_AXIS_NAME = "layers"

# What runs fused attention forward, as JAX calls it: cuDNN's; and Tokamax', the
# one function here whose derivative leaves its forward pass to remat.
_FUSED_ATTENTION = ("dot_product_attention_fwd_wrapper", "remat_opt")


def _is_kept_by_minimal(primitive: Any, *args, **params) -> bool:
  return (
    primitive.name in _FUSED_ATTENTION
    or jax.checkpoint_policies.dots_with_no_batch_dims_saveable(
      primitive, *args, **params
    )
  )


# T5X's names. "full" keeps a layer's input alone and computes the rest again
# in the backward pass; "minimal" keeps products with parameters too, and what
# a GPU's fused attention made: with cuDNN little more than one projection, with
# Tokamax about two, the bias and the mask. Other attention is computed again.
REMAT_POLICIES: dict[str, Callable | None] = {
  "none": None,
  "full": jax.checkpoint_policies.nothing_saveable,
  "minimal": _is_kept_by_minimal,
}

# (layer, x) -> x after the layer.
RunLayerFn = Callable[[Any, Array], Array]


def is_scanned(path: Sequence[Any]) -> bool:
  """Whether a parameter holds all layers of a scan.

  Args:
    path: keys of a parameter tree, plain or as JAX's tree functions give them.
  """
  names = [getattr(key, "key", key) for key in path[:2]]
  return len(path) > 2 and names[0] in STACKS and names[0] == names[1]


def run_layers(
  run_layer_fn: RunLayerFn,
  layers: nn.Module | Sequence[nn.Module],
  x: Float[Array, "batch length embed"],
  num_layers: int,
  remat_policy: str,
) -> Float[Array, "batch length embed"]:
  """Runs a stack.

  Args:
    run_layer_fn: calls one layer. What it closes over is the same for all.
    layers: every layer, or the one module that stands for all in a scan.
    x: [batch, length, embed], compute dtype.
    num_layers: how many.
    remat_policy: of `REMAT_POLICIES`.

  Returns:
    [batch, length, embed], compute dtype.

  Source: T5X scalable_t5 `network.py`.
  """
  is_scan = isinstance(layers, nn.Module)
  if remat_policy != "none":
    run_layer_fn = nn.remat(
      run_layer_fn,
      policy=REMAT_POLICIES[remat_policy],
      # A loop keeps the two computations apart by itself.
      prevent_cse=not is_scan,
    )
  if not is_scan:
    for layer in layers:
      x = run_layer_fn(layer, x)
    return x
  scan = nn.scan(
    lambda layer, x, _: (run_layer_fn(layer, x), None),
    variable_axes={"params": SCAN_AXIS},
    split_rngs={"params": True, "dropout": True},
    length=num_layers,
    metadata_params={nn.PARTITION_NAME: _AXIS_NAME},
  )
  x, _ = scan(layers, x, None)
  return x


def select_layer(layer: nn.Module, index: int) -> nn.Module:
  """Returns one layer of a scan, with its part of the parameters.

  Decoding runs the layers apart: a loop over them inside the loop over tokens
  would copy parameters and cache at every token.

  Args:
    layer: the module that stands for all.
    index: of the layer.
  """
  params = jax.tree.map(
    lambda leaf: jax.lax.index_in_dim(leaf, index, SCAN_AXIS, keepdims=False),
    layer.variables["params"],
  )
  return layer.clone(parent=None).bind({"params": params})
