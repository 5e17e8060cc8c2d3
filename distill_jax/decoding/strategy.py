"""Which decoding is done, as one checked object, and the call that does it.

Layer 2; imports the strategies beside it. What drives a model holds a
`DecodingConfig` and calls `decode`; it knows no strategy by name.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
from jaxtyping import Array, Int, Key, PyTree

from distill_jax.decoding.beam import beam_decode
from distill_jax.decoding.cache import StepFn, repeat_rows
from distill_jax.decoding.greedy import greedy_decode
from distill_jax.decoding.sampling import sample_decode
from distill_jax.errors import UserError

_STRATEGIES = ("greedy", "beam", "sample")
# Field -> the one strategy that reads it.
_READER = {
  "num_beams": "beam",
  "length_penalty": "beam",
  "temperature": "sample",
  "top_k": "sample",
  "top_p": "sample",
  "seed": "sample",
  "num_samples": "sample",
}
_DEFAULTS = {
  "greedy": {},
  "beam": {"length_penalty": 0.6},
  "sample": {"temperature": 1.0, "seed": 0},
}
# What a key is made of.
_MAX_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
  """How tokens are chosen. What the strategy does not read stays None.

  A setting of another strategy is an error, and so is one out of its range; one
  bound to None has the strategy's default, which is filled in.

  Attributes:
    strategy: "greedy", "beam" or "sample". Greedy with several beams is beam
      search, as in Hugging Face's `generate`.
    num_beams: sequences kept a row. Beam search needs it: T5X's function keeps
      4 by default, its models 1.
    length_penalty: exponent of beam search's length penalty, see `beam`; 0.6,
      as in T5X.
    temperature: divides the logits that samples are drawn by; 1.0.
    top_k: draw among so many likeliest tokens; None: among all, where Hugging
      Face draws among 50.
    top_p: draw among the likeliest that reach this probability; None: all.
    seed: of the draws; 0.
    num_samples: draws of each input.
    max_decode_length: tokens at most, the end token included; None: as many as
      the targets have in training, and in evaluation as the longest label of
      the task, see `Evaluator.evaluate`.

  Raises:
    UserError: names the run files' macro.
  """

  strategy: Literal["greedy", "beam", "sample"] = "greedy"
  num_beams: int | None = None
  length_penalty: float | None = None
  temperature: float | None = None
  top_k: int | None = None
  top_p: float | None = None
  seed: int | None = None
  num_samples: int = 1
  max_decode_length: int | None = None

  def __post_init__(self):
    if self.strategy not in _STRATEGIES:
      raise UserError(
        f"DECODING is {self.strategy!r}; it must be one of"
        f" {', '.join(_STRATEGIES)}."
      )
    for name in ("num_beams", "top_k", "num_samples", "max_decode_length"):
      self._check(name, lambda value: value >= 1, "a whole number >= 1", int)
    self._check(
      "seed",
      lambda value: 0 <= value <= _MAX_SEED,
      f"a whole number from 0 to {_MAX_SEED}",
      int,
    )
    self._check(
      "length_penalty",
      lambda value: 0 <= value < math.inf,
      "a number >= 0, or the search could not tell when to stop",
    )
    self._check(
      "temperature",
      lambda value: 0 < value < math.inf,
      "a number above 0; for the likeliest tokens decode greedily",
    )
    self._check(
      "top_p",
      lambda value: 0 < value <= 1,
      "a probability, above 0 and at most 1",
    )
    if self.strategy == "greedy" and self.num_beams not in (None, 1):
      object.__setattr__(self, "strategy", "beam")
    self._check_readers()
    if self.strategy == "beam" and self.num_beams is None:
      raise UserError(
        "DECODING is 'beam' and NUM_BEAMS was not given. Add --gin.NUM_BEAMS=4,"
        " or another number."
      )
    for name, value in _DEFAULTS[self.strategy].items():
      if getattr(self, name) is None:
        object.__setattr__(self, name, value)

  def _check(self, name, is_allowed, allowed: str, number: Any = (int, float)):
    value = getattr(self, name)
    if value is None and name != "num_samples":
      return
    # True is an int to Python, and no number to anybody else.
    is_number = isinstance(value, number) and not isinstance(value, bool)
    if not is_number or not is_allowed(value):
      raise UserError(f"{name.upper()} is {value!r}; it must be {allowed}.")

  def _check_readers(self):
    """Refuses what the strategy would ignore."""
    for name, reader in _READER.items():
      value = getattr(self, name)
      # One beam and one sample say nothing.
      is_silent = value is None or (name.startswith("num_") and value == 1)
      if not is_silent and reader != self.strategy:
        raise UserError(
          f"{name.upper()} is {value!r}, which only DECODING='{reader}' reads;"
          f" it is {self.strategy!r}. Remove the one or change the other."
        )

  def describe(self) -> dict[str, Any]:
    """Returns the settings that the strategy reads, as plain JSON values."""
    return {
      name: value
      for name, value in dataclasses.asdict(self).items()
      if name not in _READER or _READER[name] == self.strategy
    }


def decode(
  config: DecodingConfig,
  step_fn: StepFn,
  cache: PyTree,
  row_ids: Int[Array, "batch"],
  *,
  max_decode_length: int,
  eos_id: int = 1,
  pad_id: int = 0,
) -> Int[Array, "batch {config.num_samples} {max_decode_length}"]:
  """Decodes by the configured strategy.

  Args:
    config: the strategy and its settings.
    step_fn: scores the next token, as `cache.start_decoding` returns it.
    cache: likewise, for `batch` rows.
    row_ids: [batch] int32, a number of each input that does not depend on how
      inputs are batched. A sample is drawn by the seed, this number and the
      sample's own, so neither batch size nor neighbours nor the number of
      devices change it, but for rounding where two tokens almost tie.
    max_decode_length: tokens the cache has room for.
    eos_id: ends a row.
    pad_id: the first input token, and what follows a row's end.

  Returns:
    [batch, num_samples, max_decode_length] int32, `pad_id` behind the end
    token; of beams the best.
  """
  (batch_size,) = row_ids.shape
  arguments: dict[str, Any] = {
    "batch_size": batch_size * config.num_samples,
    "max_decode_length": max_decode_length,
    "eos_id": eos_id,
    "pad_id": pad_id,
  }
  if config.strategy == "greedy":
    return greedy_decode(step_fn, cache, **arguments)[:, None]
  if config.strategy == "beam":
    assert config.num_beams is not None and config.length_penalty is not None
    tokens, _ = beam_decode(
      step_fn,
      cache,
      num_beams=config.num_beams,
      length_penalty=config.length_penalty,
      **arguments,
    )  # [batch, beams, max_decode_length]
    return tokens[:, :1]
  assert config.temperature is not None and config.seed is not None
  rngs = _make_rngs(config.seed, row_ids, config.num_samples)
  tokens = sample_decode(
    step_fn,
    repeat_rows(cache, config.num_samples),
    rngs=rngs.reshape(-1),
    temperature=config.temperature,
    top_k=config.top_k,
    top_p=config.top_p,
    **arguments,
  )  # [batch * samples, max_decode_length]
  return tokens.reshape(batch_size, config.num_samples, max_decode_length)


def _make_rngs(
  seed: int, row_ids: Int[Array, "batch"], num_samples: int
) -> Key[Array, "batch {num_samples}"]:
  """Returns a key for each sample; the first ones are those of fewer."""
  fold_in_each = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
  row_rngs = fold_in_each(jax.random.key(seed), row_ids)  # [batch]
  sample_ids = jax.numpy.arange(num_samples)
  return jax.vmap(fold_in_each, in_axes=(0, None))(row_rngs, sample_ids)
