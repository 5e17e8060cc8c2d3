"""How one teacher is asked: the settings of a request that may be its own.

Knows their names, macros and ranges.
"""

import json
from collections.abc import Mapping
from typing import Any

from distill_jax.errors import UserError
from distill_jax.teacher.asking import exchange
from distill_jax.teacher.reading import nesting

# What each teacher may have of its own.
FIELDS = (
  "endpoint",
  "temperature",
  "top_p",
  "seed",
  "max_tokens",
  "max_tokens_field",
  "send_stop",
  "extra_parameters",
)
# What a request says by itself, and where: each has a setting, or none may be.
_OWN_PARAMETERS = {
  "messages": None,
  "model": "TEACHER_MODEL",
  "n": "NUM_SAMPLES",
  "prompt": None,
  "stream": None,
  "stream_options": None,
  "temperature": "TEMPERATURE",
  "top_p": "TOP_P",
  "seed": "SEED",
  "stop": "SEND_STOP",
  "max_tokens": "MAX_TOKENS",
  "max_completion_tokens": "MAX_TOKENS with MAX_TOKENS_FIELD",
}


def check(asking: Mapping[str, Any], num_samples: int) -> None:
  """Refuses what no request can say.

  Args:
    asking: a value for each of `FIELDS`.
    num_samples: answers asked of a teacher.

  Raises:
    UserError: a value that cannot be. Names its macro.
  """
  if asking["endpoint"] not in ("chat", "completions"):
    raise UserError(
      f"ENDPOINT is {asking['endpoint']!r}; it must be 'chat' or 'completions'."
    )
  if asking["max_tokens_field"] not in exchange.MAX_TOKENS_FIELDS:
    raise UserError(
      f"MAX_TOKENS_FIELD is {asking['max_tokens_field']!r}; it must be one of"
      f" {', '.join(map(repr, exchange.MAX_TOKENS_FIELDS))}."
    )
  max_tokens, seed = asking["max_tokens"], asking["seed"]
  temperature, top_p = asking["temperature"], asking["top_p"]
  for macro, value, is_good in (
    ("MAX_TOKENS", max_tokens, max_tokens is None or is_whole(max_tokens, 1)),
    ("SEED", seed, seed is None or is_whole(seed, 0)),
    (
      "TEMPERATURE",
      temperature,
      temperature is None or is_within(temperature, 0, 2),
    ),
    ("TOP_P", top_p, top_p is None or is_within(top_p, 0, 1)),
    ("SEND_STOP", asking["send_stop"], isinstance(asking["send_stop"], bool)),
  ):
    if not is_good:
      raise UserError(f"{macro} is {value!r}, {_RANGES[macro]}.")
  if num_samples > 1 and temperature == 0:
    raise UserError(
      f"NUM_SAMPLES is {num_samples} and TEMPERATURE is 0, at which all"
      " samples are the same and are paid for all the same. Give a TEMPERATURE"
      " above 0, such as 0.7."
    )
  _check_extra_parameters(asking["extra_parameters"])


def _check_extra_parameters(extra: Any) -> None:
  if not isinstance(extra, Mapping) or not all(
    isinstance(name, str) and name for name in extra
  ):
    raise UserError(
      f"EXTRA_PARAMETERS is {extra!r:.80}; it is a mapping, such as"
      " {'reasoning_effort': 'low'}."
    )
  for name in extra:
    if name in _OWN_PARAMETERS:
      macro = _OWN_PARAMETERS[name]
      raise UserError(
        f"EXTRA_PARAMETERS holds {name!r}, which"
        + (
          f" {macro} sets. Give that instead."
          if macro
          else " the client sets itself. Leave it out."
        )
      )
  if nesting.is_too_deep(extra):
    raise UserError(
      f"EXTRA_PARAMETERS has more than {nesting.MAX_DEPTH} lists or mappings in"
      " each other. Flatten it."
    )
  try:
    json.dumps(extra, allow_nan=False).encode()
  except (TypeError, ValueError, RecursionError) as error:
    raise UserError(
      f"EXTRA_PARAMETERS cannot be sent as JSON ({error})."
    ) from error


_RANGES = {
  "MAX_TOKENS": "and must be a whole number above 0, or None",
  "SEED": "and must be a whole number from 0 on, or None",
  "TEMPERATURE": "and must be a number from 0 to 2, or None",
  "TOP_P": "and must be a number from 0 to 1, or None",
  "SEND_STOP": "and must be True or False",
}


def is_whole(value: Any, least: int) -> bool:
  """Tells whether a setting is such a number; True is none."""
  is_int = isinstance(value, int) and not isinstance(value, bool)
  return is_int and value >= least


def is_within(value: Any, low: float, high: float) -> bool:
  """Tells whether a setting is such a number; True is none."""
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return is_number and low <= value <= high
