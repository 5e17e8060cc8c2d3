"""Terms of the training objective: what is computed for each target token.

A term has a name, a weight, the tasks whose tokens it is a mean over, and a
function of what the student computed for these tokens. A new loss is a subclass
of `Term`, in whatever module, bound in gin as one of OBJECTIVE_TERMS.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from distill_jax.data.feed import batch as batch_lib
from distill_jax.errors import UserError
from distill_jax.objective.target_tokens import TargetTokens

# A number, or what gives one for the number of updates made before.
Weight = float | Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Term(abc.ABC):
  """A part of the objective: weight * mean over tokens of `compute`.

  Attributes:
    weight: of the term; a schedule is a function of the updates made before,
      such as optax's.
    name: metrics are called by it, `<name>_loss` and `<name>_tokens`.
    tasks: of the tokens that count, keys of `data.feed.batch.TASK_IDS`; None:
      all target tokens.
  """

  weight: Weight = 1.0
  name: str = ""
  tasks: tuple[str, ...] | None = None

  def __post_init__(self):
    if not self.name.isidentifier():
      raise UserError(
        f"{type(self).__name__} has the name {self.name!r}; a term's name is"
        " letters, digits and underscores, such as 'label'."
      )
    is_number = isinstance(self.weight, (int, float))
    if not callable(self.weight) and not (
      is_number and 0 <= self.weight < math.inf
    ):
      raise UserError(
        f"{self.weight_setting} is {self.weight!r}; a weight is a number, 0 or"
        " more, or a schedule."
      )
    for task in self.tasks or ():
      if task not in batch_lib.TASK_IDS:
        raise UserError(
          f"The term {self.name!r} has the task {task!r}; there are"
          f" {', '.join(map(repr, batch_lib.TASK_IDS))}."
        )

  @property
  def weight_setting(self) -> str:
    """How messages call the weight."""
    return f"The weight of the term {self.name!r}"

  @property
  def is_shown(self) -> bool:
    """Whether the progress line has the term."""
    return True

  @abc.abstractmethod
  def compute(self, tokens: TargetTokens) -> Float[Array, "batch length"]:
    """Returns the value of each target token, masked or not, float32.

    Args:
      tokens: some positions of every row; nothing that is not read is computed.
    """

  def mask_tokens(
    self, batch: Mapping[str, Array]
  ) -> Float[Array, "batch length"]:
    """Returns the weight of each target token in the term's mean.

    Args:
      batch: `decoder_loss_weights` and `decoder_task_ids`, [batch, length].
    """
    weights = batch[batch_lib.DECODER_LOSS_WEIGHTS]
    if self.tasks is None:
      return weights
    task_ids = batch[batch_lib.DECODER_TASK_IDS]
    is_task = jnp.zeros_like(task_ids, bool)
    for task in self.tasks:
      is_task |= task_ids == batch_lib.TASK_IDS[task]
    return weights * is_task

  def name_loss(self, mean: Array, weight: Any) -> dict[str, Array]:
    """Returns what is logged as the term's loss; micro-batches are summed.

    Args:
      mean: of the term's values, unweighted.
      weight: of this step.
    """
    del weight
    return {f"{self.name}_loss": mean}

  def name_count(self, count: Array, weight: Any) -> dict[str, Any]:
    """Returns what else is logged of a step: tokens, and a schedule's weight.

    Args:
      count: sum of the weights of its tokens in the batch.
      weight: of this step.
    """
    logged = {f"{self.name}_tokens": count}
    if callable(self.weight):
      logged[f"{self.name}_weight"] = weight
    return logged

  def describe(self) -> dict[str, Any]:
    """Returns what a resumed run must agree on; schedules as they are."""
    kind = type(self)
    fields = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name != "name"
    }
    return {self.name: {"class": f"{kind.__module__}.{kind.__name__}"} | fields}


@dataclasses.dataclass(frozen=True)
class LabelLoss(Term):
  """Cross-entropy of the label's tokens: the paper's L_label."""

  name: str = "label"
  tasks: tuple[str, ...] | None = ("label",)

  def compute(self, tokens: TargetTokens) -> Float[Array, "batch length"]:
    """See `Term`."""
    return tokens.cross_entropy

  def describe(self) -> dict[str, Any]:
    """Returns nothing of the default, which all earlier runs had."""
    return {} if self == LabelLoss() else super().describe()


@dataclasses.dataclass(frozen=True)
class RationaleLoss(Term):
  """Cross-entropy of the rationale's tokens: the paper's L_rationale.

  Its weight is the paper's lambda. The authors' code weighs alpha * label +
  (1 - alpha) * rationale instead, which is lambda = (1 - alpha) / alpha up to a
  constant factor; its alpha of 0.5 is the default here, lambda = 1.
  """

  name: str = "rationale"
  tasks: tuple[str, ...] | None = ("rationale",)

  @property
  def weight_setting(self) -> str:
    """How messages call the weight."""
    return "RATIONALE_LOSS_WEIGHT"

  def compute(self, tokens: TargetTokens) -> Float[Array, "batch length"]:
    """See `Term`."""
    return tokens.cross_entropy

  def describe(self) -> dict[str, Any]:
    """Names the weight as runs of earlier versions did."""
    if self == RationaleLoss(weight=self.weight):
      return {"rationale_loss_weight": self.weight}
    return super().describe()


@dataclasses.dataclass(frozen=True)
class ZLoss(Term):
  """log(Z)**2 of all target tokens, to keep logits from drifting.

  T5X pretrains with a weight of 1e-4; the authors' code has none. Source: Mesh
  TensorFlow; T5X `losses.py`, `cross_entropy_with_logits`. Logged weighted, as
  T5X does.
  """

  weight: Weight = 0.0
  name: str = "z"

  @property
  def weight_setting(self) -> str:
    """How messages call the weight."""
    return "Z_LOSS"

  @property
  def is_shown(self) -> bool:
    """Whether the progress line has the term."""
    return False

  def compute(self, tokens: TargetTokens) -> Float[Array, "batch length"]:
    """See `Term`."""
    return jnp.square(tokens.log_normalizers)

  def name_loss(self, mean: Array, weight: Any) -> dict[str, Array]:
    """See `Term`."""
    return {f"{self.name}_loss": weight * mean}

  def name_count(self, count: Array, weight: Any) -> dict[str, Any]:
    """See `Term`; its tokens are those of the other terms together."""
    del count, weight
    return {}

  def describe(self) -> dict[str, Any]:
    """Names the weight as runs of earlier versions did."""
    if self == ZLoss(weight=self.weight):
      return {"z_loss": self.weight}
    return super().describe()
