"""A budget: whether one more request may be sent, by what the ledgers say."""

from collections.abc import Sequence

from distill_jax.errors import UserError
from distill_jax.teacher.asking import exchange, ledger, prices

# Before the first answer is counted: no tokenizer makes more tokens than bytes.
_MOST_TOKENS_PER_BYTE = 1.0
# Above the most tokens per byte that were counted.
_MARGIN = 1.25


class Budget:
  """How much a folder may cost, asked before each request.

  What is under way, or was never counted, is taken for as much as it can come
  to: as many tokens as `max_tokens` allows, and of the prompt as many for each
  byte as the teacher's longest so far, with a margin.
  """

  def __init__(
    self,
    ledgers: Sequence[ledger.Ledger],
    price_table: prices.PriceTable | None,
    max_cost: float | None,
    max_total_tokens: int | None,
  ):
    """Checks that it can be kept.

    Args:
      ledgers: of all journals of the folder, that of this run among them.
      price_table: needed for `max_cost`.
      max_cost: MAX_COST, in the table's currency; None: any.
      max_total_tokens: MAX_TOTAL_TOKENS, in and out; None: any.

    Raises:
      UserError: the cost of what was paid cannot be told.
    """
    self._ledgers = ledgers
    self._price_table = price_table
    self.max_cost = max_cost
    self.max_total_tokens = max_total_tokens
    if max_cost is None:
      return
    if price_table is None:
      raise UserError(
        f"MAX_COST is {max_cost:g}, and no prices are known. Give PRICE_TABLE,"
        " or MAX_TOTAL_TOKENS instead."
      )
    for one in ledgers:
      for setting in one.accounts:
        if setting.model is not None:
          price_table.compute_cost(setting.model, 0, 0)

  def admits(self, request: exchange.Request) -> bool:
    """Tells whether a request may be sent beside what is under way."""
    ask = ledger.Account(
      num_open=1,
      open_bytes=ledger.count_bytes(request.prompt),
      open_completion_tokens=exchange.get_max_tokens(request)
      or ledger.MOST_COMPLETION_TOKENS,
    )
    accounts = [(request.model, ask)]
    for one in self._ledgers:
      accounts += [(s.model, account) for s, account in one.accounts.items()]
    tokens, cost = 0.0, 0.0
    for model, account in accounts:
      own = [other for name, other in accounts if name == model]
      more, more_cost = self._measure(model, account, own)
      tokens += more
      cost += more_cost
    return (
      self.max_total_tokens is None or tokens <= self.max_total_tokens
    ) and (self.max_cost is None or cost <= self.max_cost)

  def _measure(
    self,
    model: str | None,
    account: ledger.Account,
    of_model: Sequence[ledger.Account],
  ) -> tuple[float, float]:
    """Returns the tokens of an account, at most, and what they cost."""
    tokens_per_byte = max(other.tokens_per_byte for other in of_model) * _MARGIN
    longest = max(other.longest_completion for other in of_model)
    num_bytes = account.uncounted_bytes + account.open_bytes
    prompt_tokens = num_bytes * (tokens_per_byte or _MOST_TOKENS_PER_BYTE)
    # Some servers do not count reasoning among `max_tokens`.
    num_uncounted = account.num_unknown + account.num_uncounted_responses
    completion_tokens = max(
      account.uncounted_completion_tokens, num_uncounted * longest
    ) + max(account.open_completion_tokens, account.num_open * longest)
    counted = account.prompt_tokens + account.completion_tokens
    cost = 0.0
    table = self._price_table
    if table is not None and model is not None and model in table.prices:
      cost = ledger.compute_cost(table, model, account) or 0.0
      cost += max(
        table.compute_cost(
          model, prompt_tokens, completion_tokens, 0, reasoning_tokens
        )
        for reasoning_tokens in (0, completion_tokens)
      )
    return counted + prompt_tokens + completion_tokens, cost
