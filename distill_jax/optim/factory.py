"""Optimizers, on optax, with the settings of T5X and of the authors' code.

Layer 1; imports optim.schedules through its arguments only.
"""

import jax
import optax


def adafactor(
  learning_rate: optax.Schedule,
  decay_rate: float = 0.8,
  clipping_threshold: float = 1.0,
  multiply_by_parameter_scale: bool = True,
  min_dim_size_to_factor: int = 128,
  max_grad_norm: float | None = None,
) -> optax.GradientTransformation:
  """Adafactor with the defaults of T5X (`t5x.adafactor.Adafactor`).

  Args:
    learning_rate: schedule; relative to the parameter's scale where
      `multiply_by_parameter_scale`.
    decay_rate: exponent of the second moment's decay, 1 - step**-rate.
    clipping_threshold: of the update's root mean square.
    multiply_by_parameter_scale: multiply updates by the parameter's root mean
      square, at least 1e-3.
    min_dim_size_to_factor: factor the second moments of matrices whose sides
      are both at least this long.
    max_grad_norm: clip the global gradient norm first; None: do not.
  """
  return _with_clipping(
    optax.adafactor(
      learning_rate,
      min_dim_size_to_factor=min_dim_size_to_factor,
      decay_rate=decay_rate,
      clipping_threshold=clipping_threshold,
      multiply_by_parameter_scale=multiply_by_parameter_scale,
    ),
    max_grad_norm,
  )


def adamw(
  learning_rate: optax.Schedule,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  max_grad_norm: float | None = 1.0,
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
  """

  def decay_mask(params):
    return jax.tree.map(lambda param: param.ndim > 1, params)

  return _with_clipping(
    optax.adamw(
      learning_rate,
      b1=b1,
      b2=b2,
      eps=eps,
      weight_decay=weight_decay,
      mask=decay_mask,
    ),
    max_grad_norm,
  )


def _with_clipping(optimizer, max_grad_norm):
  if max_grad_norm is None:
    return optimizer
  return optax.chain(optax.clip_by_global_norm(max_grad_norm), optimizer)
