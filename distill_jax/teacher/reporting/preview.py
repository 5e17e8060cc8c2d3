"""What a labelling run would send and cost, in words, before anything is sent.

Prompts hold untrusted text, so what a terminal would obey is shown, not sent to
it.
"""

import dataclasses
from collections.abc import Iterable

from distill_jax.teacher.asking import exchange, prices
from distill_jax.teacher.asking.exchange import Request


@dataclasses.dataclass
class Estimate:
  """Totals over requests.

  Attributes:
    num_requests: not answered yet.
    prompt_tokens: of them, estimated.
    completion_tokens: the most they can come to.
    cost: an estimate too, with every answer as long as it may be; None without
      a price table.
  """

  num_requests: int = 0
  prompt_tokens: int = 0
  completion_tokens: int = 0
  cost: float | None = None


def estimate(
  requests: Iterable[Request],
  counter: prices.TokenCounter,
  price_table: prices.PriceTable | None,
) -> Estimate:
  """Adds up what requests take.

  Args:
    requests: each with the most tokens of its answer.
    counter: counts their prompts' tokens.
    price_table: None: the cost is not known.

  Returns:
    The totals.

  Raises:
    UserError: the price table lacks a model.
  """
  total = Estimate(cost=None if price_table is None else 0.0)
  for request in requests:
    prompt_tokens = counter.count_prompt(request)
    completion_tokens = exchange.get_max_tokens(request)
    total.num_requests += 1
    total.prompt_tokens += prompt_tokens
    total.completion_tokens += completion_tokens
    if price_table is not None:
      total.cost = (total.cost or 0.0) + price_table.compute_cost(
        request.model, prompt_tokens, completion_tokens
      )
  return total


def describe(total: Estimate, method: str, currency: str | None) -> list[str]:
  """Returns an estimate in lines for the screen.

  Args:
    total: it.
    method: how prompt tokens were counted, in words.
    currency: of the cost; None: it is not known.
  """
  cost = "not known (give PRICE_TABLE)"
  if total.cost is not None:
    cost = (
      f"estimate {total.cost:.4g} {currency}, with every answer as long as"
      " MAX_TOKENS allows"
    )
  return [
    f"prompt tokens: estimate {total.prompt_tokens} ({method}; the server's own"
    " count may differ)",
    # A bound, as long as each request is answered at its first attempt.
    f"completion tokens: at most {total.completion_tokens}, without attempts"
    " that are made again",
    f"cost: {cost}",
  ]


def show_request(request: Request) -> str:
  """Returns a request as it may be printed, its prompt whole."""
  parameters = ", ".join(
    f"{name}={value!r}" for name, value in request.parameters.items()
  )
  lines = [f"{request.model}, {request.endpoint}: {parameters}"]
  if isinstance(request.prompt, str):
    lines.append(escape_controls(request.prompt))
  else:
    for turn in request.prompt:
      lines.append(f"[{turn['role']}]")
      lines.append(escape_controls(turn["content"]))
  return "\n".join(lines)


def escape_controls(text: str) -> str:
  """Returns text with what does not print, line breaks apart, as \\x1b.

  Invisible characters and those that reverse the direction of writing do not
  print either.
  """
  return "".join(
    character
    if character.isprintable() or character == "\n"
    else repr(character)[1:-1]
    for character in text
  )
