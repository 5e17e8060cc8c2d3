"""Optimizers, on optax, with the settings of T5X and of the authors' code.

Parameters that hold all layers of a scan are treated as those of each layer by
itself, so that a scanned model trains as one that is not.
"""

import math

import jax
import optax

from distill_jax.errors import UserError
from distill_jax.model.layers import layer_stack

_MU_DTYPES = ("float32", "bfloat16")


def adafactor(
  learning_rate: optax.Schedule,
  decay_rate: float = 0.8,
  clipping_threshold: float | None = 1.0,
  multiply_by_parameter_scale: bool = True,
  min_dim_size_to_factor: int = 128,
  max_grad_norm: float | None = None,
) -> optax.GradientTransformation:
  """Adafactor with the defaults of T5X (`t5x.adafactor.Adafactor`).

  Args:
    learning_rate: schedule; relative to the parameter's scale where
      `multiply_by_parameter_scale`.
    decay_rate: exponent of the second moment's decay, 1 - step**-rate.
    clipping_threshold: of the update's root mean square; None: do not clip.
    multiply_by_parameter_scale: multiply updates by the parameter's root mean
      square, at least 1e-3.
    min_dim_size_to_factor: factor the second moments of matrices whose sides
      are both at least this long.
    max_grad_norm: clip the global gradient norm first; None: do not.
  """
  # The steps of `optax.adafactor` in its order, those that look at a whole
  # parameter once a layer.
  steps = [
    _factoring_within_layers(
      optax.scale_by_factored_rms(
        decay_rate=decay_rate, min_dim_size_to_factor=min_dim_size_to_factor
      ),
      min_dim_size_to_factor,
    ),
  ]
  if clipping_threshold is not None:
    steps.append(_each_layer_apart(optax.clip_by_block_rms(clipping_threshold)))
  steps.append(optax.scale_by_learning_rate(learning_rate, flip_sign=False))
  if multiply_by_parameter_scale:
    steps.append(_each_layer_apart(optax.scale_by_param_block_rms()))
  return _with_clipping(optax.chain(*steps, optax.scale(-1)), max_grad_norm)


def adamw(
  learning_rate: optax.Schedule,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  max_grad_norm: float | None = 1.0,
  mu_dtype: str = "float32",
) -> optax.GradientTransformation:
  """AdamW with the settings of the authors' code (HF Trainer's defaults).

  Args:
    learning_rate: schedule; the paper's runs use 5e-5, decaying linearly.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    weight_decay: times the learning rate and the parameter; not applied to
      vectors (norm scales).
    max_grad_norm: clip the global gradient norm first; None: do not.
    mu_dtype: of the first moment, which "bfloat16" halves. The second stays
      float32: a step changes it by 1 - b2 of itself, less than bfloat16 tells
      apart, and rounded to the nearest it would stand still.

  Raises:
    UserError: `mu_dtype` is another, or a number cannot be.
  """
  if mu_dtype not in _MU_DTYPES:
    raise UserError(
      f"FIRST_MOMENT_DTYPE is {mu_dtype!r}; it must be one of"
      f" {', '.join(map(repr, _MU_DTYPES))}."
    )

  if not 0 <= weight_decay < math.inf:
    raise UserError(
      f"WEIGHT_DECAY is {weight_decay}; it must be a number, 0 or more."
    )

  def decay_mask(params):
    return jax.tree_util.tree_map_with_path(
      lambda path, param: param.ndim - layer_stack.is_scanned(path) > 1, params
    )

  return _with_clipping(
    optax.adamw(
      learning_rate,
      b1=b1,
      b2=b2,
      eps=eps,
      weight_decay=weight_decay,
      mask=decay_mask,
      mu_dtype=mu_dtype,
    ),
    max_grad_norm,
  )


def _with_clipping(optimizer, max_grad_norm):
  if max_grad_norm is None:
    return optimizer
  if not 0 < max_grad_norm < math.inf:
    raise UserError(
      f"MAX_GRAD_NORM is {max_grad_norm}; it must be a number above 0, or None"
      " not to clip."
    )
  return optax.chain(optax.clip_by_global_norm(max_grad_norm), optimizer)


def _factoring_within_layers(
  scale: optax.GradientTransformation, min_dim_size_to_factor: int
) -> optax.GradientTransformation:
  """Checks that factoring takes no axis of layers for one of a matrix.

  optax factors over the two largest dimensions, if both reach the least size,
  and keeps statistics apart along all others: fewer layers than that size are
  never taken, and each is treated as it would be alone.
  """

  def init(params):
    for path, param in jax.tree_util.tree_leaves_with_path(params):
      if layer_stack.is_scanned(path):
        num_layers = param.shape[layer_stack.SCAN_AXIS]
        if num_layers >= min_dim_size_to_factor:
          raise UserError(
            f"SCAN_LAYERS is True for a stack of {num_layers} layers, which"
            " Adafactor would take for the side of a matrix. Give"
            " adafactor.min_dim_size_to_factor a higher number than"
            f" {min_dim_size_to_factor}, or SCAN_LAYERS = False."
          )
    return scale.init(params)

  return optax.GradientTransformation(init, scale.update)


def _each_layer_apart(
  stateless: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Applies what treats every parameter by itself to every layer by itself."""

  def update(updates, state, params=None):
    def update_one(update, param):
      return stateless.update(update, state, param)[0]

    def update_leaf(path, update, param):
      if not layer_stack.is_scanned(path):
        return update_one(update, param)
      axis = layer_stack.SCAN_AXIS
      return jax.vmap(update_one, in_axes=axis, out_axes=axis)(update, param)

    new = jax.tree_util.tree_map_with_path(update_leaf, updates, params)
    return new, state

  return optax.GradientTransformation(stateless.init, update)
