"""Which decoding is done, as one checked object, and the call that does it.

What drives a model holds a `DecodingConfig` and calls `decode`; it knows no
strategy by name.
"""

import dataclasses
from typing import Any, Literal

import jax
from jaxtyping import Array, Int, Key, PyTree

from distill_jax.config import declaration
from distill_jax.config.declaration import field
from distill_jax.decoding.beam import beam_decode
from distill_jax.decoding.cache import StepFn, repeat_rows
from distill_jax.decoding.greedy import greedy_decode
from distill_jax.decoding.sampling import sample_decode
from distill_jax.errors import UserError

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

  Example:
    >>> import distill_jax as dj
    >>> dj.DecodingConfig("sample", top_p=0.9).temperature
    1.0

  Raises:
    UserError: names the setting.
  """

  strategy: Literal["greedy", "beam", "sample"] = field(
    "greedy",
    macro="DECODING",
    is_common=True,
    help="how tokens are chosen; 'greedy' with several beams is beam search, as"
    " in Hugging Face's generate. What a strategy does not read is an error",
  )
  num_beams: int | None = field(
    None,
    macro="NUM_BEAMS",
    least=1,
    help="sequences kept a row; above 1, 'greedy' is beam search too. 'beam'"
    " needs it: T5X's function keeps 4 by default, its models 1",
  )
  length_penalty: float | None = field(
    None,
    macro="LENGTH_PENALTY",
    least=0,
    hint=", or the search could not tell when to stop",
    help="of 'beam', T5X's alpha: the log-likelihood is divided by ((5 +"
    " length) / 6) ** LENGTH_PENALTY; None: 0.6",
  )
  temperature: float | None = field(
    None,
    macro="TEMPERATURE",
    above=0,
    hint="; for the likeliest tokens decode greedily",
    help="of 'sample': divides the logits that samples are drawn by; None: 1.0",
  )
  top_k: int | None = field(
    None,
    macro="TOP_K",
    least=1,
    help="of 'sample': draw among this many likeliest tokens; None: among all,"
    " where Hugging Face draws among 50",
  )
  top_p: float | None = field(
    None,
    macro="TOP_P",
    above=0,
    most=1,
    help="of 'sample': draw among the likeliest that reach this probability;"
    " None: all",
  )
  seed: int | None = field(
    None,
    macro="SEED",
    least=0,
    most=_MAX_SEED,
    help="of the draws of 'sample'; None: 0",
  )
  num_samples: int = field(
    1,
    macro="NUM_SAMPLES",
    least=1,
    help="draws of each input, of 'sample'; above 1, predictions lists all of"
    " them and prediction is the first; so do finish_reasons and"
    " prediction_values",
  )
  max_decode_length: int | None = field(
    None,
    macro="MAX_DECODE_LENGTH",
    least=1,
    help="tokens at most, the end token included; None: as many as the targets"
    " have in training, and in evaluation as the longest label of the task",
  )

  def __post_init__(self):
    declaration.check(self)
    if self.strategy == "greedy" and self.num_beams not in (None, 1):
      object.__setattr__(self, "strategy", "beam")
    self._check_readers()
    if self.strategy == "beam" and self.num_beams is None:
      raise UserError(
        f"{declaration.name_of(self, 'strategy')} is 'beam' and"
        f" {declaration.name_of(self, 'num_beams')} was not given. Give 4, or"
        " another number."
      )
    for name, value in _DEFAULTS[self.strategy].items():
      if getattr(self, name) is None:
        object.__setattr__(self, name, value)

  def _check_readers(self):
    """Refuses what the strategy would ignore."""
    for name, reader in _READER.items():
      value = getattr(self, name)
      # One beam and one sample say nothing.
      is_silent = value is None or (name.startswith("num_") and value == 1)
      if not is_silent and reader != self.strategy:
        strategy = declaration.name_of(self, "strategy")
        raise UserError(
          f"{declaration.name_of(self, name)} is {value!r}, which only"
          f" {strategy}='{reader}' reads; it is {self.strategy!r}. Remove the"
          " one or change the other."
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
    cache: as above, for `batch` rows.
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
