"""What labelling costs: a user's price table and counts of tokens.

Owns the form of a price table, TOML with prices of a million tokens,

  currency = "USD"
  [models."some-model"]
  prompt = 0.15
  completion = 0.6
  cached = 0.075        # optional: of prompt tokens that the server had cached
  reasoning = 0.6       # optional: of completion tokens that are reasoning

and how tokens are counted before a server has counted them. No price ships:
what would be shipped would be wrong soon.
"""

import dataclasses
import math
import os
import pathlib
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

import sentencepiece

from distill_jax.errors import UserError
from distill_jax.teacher.asking import exchange

_TOKENS_OF_A_PRICE = 1_000_000
_CHARACTERS_PER_TOKEN = 4


@dataclasses.dataclass(frozen=True)
class Price:
  """Price of one model.

  Attributes:
    prompt: of a million prompt tokens.
    completion: of a million completion tokens.
    cached: of those prompt tokens that the server had cached; None: as others.
    reasoning: of those completion tokens that are reasoning; None: as others.
  """

  prompt: float
  completion: float
  cached: float | None = None
  reasoning: float | None = None


@dataclasses.dataclass(frozen=True)
class PriceTable:
  """Prices of models.

  Attributes:
    currency: of all of them; only printed.
    prices: model -> its price.
    path: the file they come from, for messages.
  """

  currency: str
  prices: Mapping[str, Price]
  path: str

  def compute_cost(
    self,
    model: str,
    prompt_tokens: float,
    completion_tokens: float,
    cached_tokens: float = 0,
    reasoning_tokens: float = 0,
  ) -> float:
    """Returns what tokens cost.

    Args:
      model: as in the table.
      prompt_tokens: read by the model.
      completion_tokens: written by it.
      cached_tokens: of the prompt tokens, those that the server had cached.
      reasoning_tokens: of the completion tokens, those that are reasoning.

    Returns:
      The cost in `currency`.

    Raises:
      UserError: the table does not have the model.
    """
    if model not in self.prices:
      raise UserError(
        f"{self.path} has no price of {model!r}, only of"
        f' {", ".join(self.prices) or "nothing"}. Add [models."{model}"] with'
        " prompt and completion, the prices of a million tokens."
      )
    price = self.prices[model]
    cost = prompt_tokens * price.prompt + completion_tokens * price.completion
    if price.cached is not None:
      cost += cached_tokens * (price.cached - price.prompt)
    if price.reasoning is not None:
      cost += reasoning_tokens * (price.reasoning - price.completion)
    return cost / _TOKENS_OF_A_PRICE


@dataclasses.dataclass(frozen=True)
class TokenCounter:
  """A way to count the tokens of a text.

  Attributes:
    method: in words, to be printed with every count.
    count_fn: text -> number of tokens.
  """

  method: str
  count_fn: Callable[[str], int]

  def count_prompt(self, request: exchange.Request) -> int:
    """Counts the tokens of a request's prompt.

    Args:
      request: for either endpoint.

    Returns:
      Their number; what a server writes around the messages of a chat is not
      in it.
    """
    if isinstance(request.prompt, str):
      return self.count_fn(request.prompt)
    return sum(self.count_fn(turn["content"]) for turn in request.prompt)


def read_price_table(path: str | os.PathLike) -> PriceTable:
  """Reads a price table.

  Args:
    path: a TOML file.

  Returns:
    The table.

  Raises:
    UserError: the file cannot be read, or a field is missing, unknown or no
      price. Names file and field.
  """
  try:
    with open(path, "rb") as file:
      table = tomllib.load(file)
  except OSError as error:
    raise UserError(
      f"Price table {path} cannot be read ({error.strerror}). PRICE_TABLE is"
      " the path of a TOML file, or None."
    ) from error
  except (ValueError, RecursionError) as error:
    raise UserError(f"Price table {path} is not TOML ({error}).") from error
  _check_names(table, ("currency", "models"), f"{path}")
  currency, models = table["currency"], table["models"]
  if not isinstance(currency, str):
    raise UserError(f"{path}: currency: {currency!r} is not text.")
  if not isinstance(models, dict):
    raise UserError(f'{path}: models: {models!r}; write [models."NAME"].')
  prices = {}
  for name, fields in models.items():
    where = f"{path}: models.{name}"
    if not isinstance(fields, dict):
      raise UserError(f"{where}: {fields!r} is not a table.")
    _check_names(
      fields, ("prompt", "completion"), where, ("cached", "reasoning")
    )
    for field, value in fields.items():
      # `type`, because isinstance would take true for 1.
      if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise UserError(
          f"{where}: {field}: {value!r} is no price of a million tokens."
        )
    prices[name] = Price(**fields)
  return PriceTable(currency, prices, str(path))


def make_token_counter(vocab_path: str | None) -> TokenCounter:
  """Makes a way to count tokens.

  Args:
    vocab_path: the teacher's sentencepiece model, of whatever special ids;
      None: a token is taken for four characters, which is about right for
      English and too few tokens for most other languages.

  Returns:
    The counter; its counts are estimates in either case, since a server adds
    tokens of its own.

  Raises:
    UserError: the file cannot be read or is no sentencepiece model.
  """
  if vocab_path is None:
    return TokenCounter(
      f"characters / {_CHARACTERS_PER_TOKEN}",
      lambda text: math.ceil(len(text) / _CHARACTERS_PER_TOKEN),
    )
  processor: Any = sentencepiece.SentencePieceProcessor()
  try:
    model = pathlib.Path(vocab_path).expanduser().read_bytes()
    processor.load_from_serialized_proto(model)
  except OSError as error:
    raise UserError(
      f"Vocabulary {vocab_path} cannot be read ({error.strerror}). Give the"
      " teacher's sentencepiece model, or None to count characters."
    ) from error
  except RuntimeError as error:
    raise UserError(
      f"Vocabulary {vocab_path} is not a sentencepiece model. Give the"
      " teacher's, or None to count characters."
    ) from error
  return TokenCounter(
    f"sentencepiece model {vocab_path}",
    lambda text: len(processor.encode(text)),
  )


def _check_names(
  table: Mapping[str, Any],
  names: tuple[str, ...],
  where: str,
  optional: tuple[str, ...] = (),
) -> None:
  for name in names:
    if name not in table:
      raise UserError(f"{where}: {name}: missing; give {' and '.join(names)}.")
  for name in table:
    if name not in names + optional:
      raise UserError(
        f"{where}: {name}: unknown field; there are"
        f" {', '.join(names + optional)}."
      )
