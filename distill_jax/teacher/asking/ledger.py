"""What was paid: the tokens of every line of a journal.

Owns how requests that are paid, may be paid and are under way add up. Reads the
events that a journal hands it, knows no file, and prints nothing.

An answer counts once, however many questions share it, and whatever becomes of
it: what filters drop was paid as well. What nobody counted, because the server
gave no `usage`, the answer never came or could not be read, is a number of its
own; a budget takes it for as much as it can have been.
"""

import collections
import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from distill_jax.teacher.asking import exchange, prices

# Distinct names of models that a server may call itself by.
_MAX_SERVED = 20
OTHER_MODELS = "(others)"
# Of an answer whose request sets no limit, before one is counted.
MOST_COMPLETION_TOKENS = 4096


@dataclasses.dataclass(frozen=True)
class Setting:
  """One way of asking, as request lines tell it; None: not written down.

  Attributes:
    model: the teacher asked.
    address: of its server.
    prompt_name: of the template.
    endpoint: "chat" or "completions".
    parameters: JSON of all but the seed, which differs between samples.
  """

  model: str | None
  address: str | None = None
  prompt_name: str | None = None
  endpoint: str | None = None
  parameters: str | None = None


@dataclasses.dataclass
class Account:
  """What requests of one setting came to.

  Attributes:
    num_requests: times that one was sent.
    num_responses: answers.
    num_failures: of requests that got none.
    num_uncounted_responses: answers whose tokens the server did not count.
    num_unknown: attempts without an answer that may be charged: those that
      timed out, broke off, came back as no answer or were under way at a kill.
    prompt_tokens: as the server counted.
    cached_tokens: those of them that it had cached.
    completion_tokens: as the server counted.
    reasoning_tokens: those of them that are reasoning.
    served_models: what the server says answered -> how often.
    uncounted_bytes: of the prompts of what was not counted or is not known.
    uncounted_completion_tokens: the most that these can have.
    num_open: requests without an outcome: under way, or lost in a kill.
    open_bytes: of their prompts.
    open_completion_tokens: the most that they can have.
    tokens_per_byte: of a prompt, the most so far.
    longest_completion: in tokens, so far.
  """

  num_requests: int = 0
  num_responses: int = 0
  num_failures: int = 0
  num_uncounted_responses: int = 0
  num_unknown: int = 0
  prompt_tokens: int = 0
  cached_tokens: int = 0
  completion_tokens: int = 0
  reasoning_tokens: int = 0
  served_models: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  uncounted_bytes: int = 0
  uncounted_completion_tokens: int = 0
  num_open: int = 0
  open_bytes: int = 0
  open_completion_tokens: int = 0
  tokens_per_byte: float = 0.0
  longest_completion: int = 0


_COUNTS = (
  "num_requests",
  "num_responses",
  "num_failures",
  "num_uncounted_responses",
  "num_unknown",
  "prompt_tokens",
  "cached_tokens",
  "completion_tokens",
  "reasoning_tokens",
)


@dataclasses.dataclass(frozen=True)
class _Ask:
  """A request without outcome: under way, or lost."""

  setting: Setting
  num_bytes: int
  max_tokens: int


class Ledger:
  """The accounts of one journal, brought up to date line by line."""

  def __init__(self):
    self.accounts: dict[Setting, Account] = {}
    self._open: dict[bytes, _Ask] = {}
    # Each setting once in memory, however many lines tell it.
    self._settings: dict[Setting, Setting] = {}

  def is_open(self, key: str) -> bool:
    """Tells whether a request was sent and has no outcome."""
    return bytes.fromhex(key) in self._open

  def get_open_address(self, key: str) -> str | None:
    """Returns where a request without outcome was sent."""
    ask = self._open.get(bytes.fromhex(key))
    return ask.setting.address if ask is not None else None

  def note(self, event: Mapping[str, Any]) -> None:
    """Takes in a line of the journal; see `journal_lines`."""
    digest = bytes.fromhex(event["key"])
    if event["event"] == "request":
      self._note_request(digest, event)
      return
    if event.get("kind") == exchange.WAITING and digest in self._open:
      # Its answer may still come, so it stays open.
      self._get_account(self._open[digest].setting).num_failures += 1
      return
    ask = self._close(digest)
    if ask is None:
      if (
        event["event"] == "failure"
        and event["kind"] not in exchange.MAYBE_PAID_KINDS
      ):
        # A second line of a refusal: what it is was decided later.
        return
      # Of a line that was taken out, or of a journal without request lines.
      setting = Setting(event.get("model"), event.get("address"))
      ask = _Ask(self._settings.setdefault(setting, setting), 0, 0)
    account = self._get_account(ask.setting)
    if event["event"] == "response":
      account.num_responses += 1
      if event.get("model") is not None:
        _count_served(account.served_models, event["model"])
    else:
      account.num_failures += 1
    self._note_tokens(account, ask, event)

  def _get_account(self, setting: Setting) -> Account:
    return self.accounts.setdefault(setting, Account())

  def _note_request(self, digest: bytes, event: Mapping[str, Any]) -> None:
    parameters = event.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    setting = Setting(
      event.get("model"),
      event.get("address"),
      event.get("prompt_name"),
      event.get("endpoint"),
      json.dumps(
        {name: value for name, value in parameters.items() if name != "seed"},
        sort_keys=True,
      ),
    )
    setting = self._settings.setdefault(setting, setting)
    account = self._get_account(setting)
    account.num_requests += 1
    if (lost := self._close(digest)) is not None:
      # Asked again after a kill, or after an attempt that may be charged: what
      # became of the first is not known.
      earlier = self._get_account(lost.setting)
      earlier.num_unknown += 1
      earlier.uncounted_bytes += lost.num_bytes
      earlier.uncounted_completion_tokens += lost.max_tokens
    ask = _Ask(
      setting,
      count_bytes(event.get("prompt")),
      _get_max_tokens(parameters) or MOST_COMPLETION_TOKENS,
    )
    self._open[digest] = ask
    account.num_open += 1
    account.open_bytes += ask.num_bytes
    account.open_completion_tokens += ask.max_tokens

  def _close(self, digest: bytes) -> _Ask | None:
    """Takes a request from those without outcome, if it is one of them."""
    ask = self._open.pop(digest, None)
    if ask is not None:
      account = self._get_account(ask.setting)
      account.num_open -= 1
      account.open_bytes -= ask.num_bytes
      account.open_completion_tokens -= ask.max_tokens
    return ask

  def _note_tokens(
    self, account: Account, ask: _Ask, event: Mapping[str, Any]
  ) -> None:
    prompt_tokens = event.get("prompt_tokens")
    completion_tokens = event.get("completion_tokens")
    account.prompt_tokens += prompt_tokens or 0
    account.completion_tokens += completion_tokens or 0
    # Never more than there are, whatever a server says.
    account.cached_tokens += min(
      event.get("cached_tokens") or 0, prompt_tokens or 0
    )
    account.reasoning_tokens += min(
      event.get("reasoning_tokens") or 0, completion_tokens or 0
    )
    account.longest_completion = max(
      account.longest_completion, completion_tokens or 0
    )
    if prompt_tokens and ask.num_bytes:
      account.tokens_per_byte = max(
        account.tokens_per_byte, prompt_tokens / ask.num_bytes
      )
    if prompt_tokens is not None and completion_tokens is not None:
      return
    if event["event"] == "response":
      account.num_uncounted_responses += 1
    elif event.get("kind") in exchange.MAYBE_PAID_KINDS and event.get(
      "num_attempts"
    ):
      account.num_unknown += 1
    else:
      return
    if prompt_tokens is None:
      account.uncounted_bytes += ask.num_bytes
    if completion_tokens is None:
      account.uncounted_completion_tokens += ask.max_tokens


# --- In sum -----------------------------------------------------------------


def summarize(
  ledgers: Iterable[Ledger],
  price_table: prices.PriceTable | None,
  num_records: int | None,
) -> dict[str, Any]:
  """Adds up what was paid.

  Args:
    ledgers: of all journals of a folder.
    price_table: for the cost; None: it is not known.
    num_records: that were accepted; None: none are written yet.

  Returns:
    JSON: the counts of `Account` in sum; `cost`, None without prices, and
    `models_without_price`, whose tokens are not in it; `num_records`, with
    `cost_per_record` and `tokens_per_record` of all that was paid;
    `served_models`, asked -> served -> answers; `settings`, the same of each,
    the dearest first.
  """
  merged: dict[Setting, Account] = {}
  for ledger in ledgers:
    for setting, account in ledger.accounts.items():
      _add(merged.setdefault(setting, Account()), account)
  for account in merged.values():
    # None is under way once a run has ended.
    account.num_unknown += account.num_open
  total, served = Account(), {}
  settings, missing, cost = [], set(), 0.0
  for setting, account in merged.items():
    _add(total, account)
    asked = served.setdefault(setting.model, collections.Counter())
    asked.update(account.served_models)
    own_cost = compute_cost(price_table, setting.model, account)
    if own_cost is None:
      missing.add(setting.model or "(not written down)")
    cost += own_cost or 0.0
    settings.append(
      {
        "model": setting.model,
        "address": setting.address,
        "prompt": setting.prompt_name,
        "endpoint": setting.endpoint,
        "parameters": json.loads(setting.parameters or "null"),
        **{name: getattr(account, name) for name in _COUNTS},
        "cost": own_cost,
      }
    )
  settings.sort(
    key=lambda row: -(row["prompt_tokens"] + row["completion_tokens"])
  )
  num_tokens = total.prompt_tokens + total.completion_tokens
  is_priced = price_table is not None
  return {
    **{name: getattr(total, name) for name in _COUNTS},
    "cost": cost if is_priced else None,
    "currency": price_table.currency if price_table is not None else None,
    "models_without_price": sorted(missing) if is_priced else [],
    "num_records": num_records,
    "cost_per_record": cost / num_records
    if is_priced and num_records
    else None,
    "tokens_per_record": num_tokens / num_records if num_records else None,
    "served_models": {
      model or "(not written down)": dict(counts.most_common())
      for model, counts in served.items()
      if counts
    },
    "settings": settings,
  }


def describe(paid: Mapping[str, Any]) -> list[str]:
  """Returns what `summarize` returned in a few lines for the screen."""
  prompt, completion = (
    f"{paid[f'{s}_tokens']} " for s in ("prompt", "completion")
  )
  if paid["cached_tokens"]:
    prompt += f"({paid['cached_tokens']} cached) "
  if paid["reasoning_tokens"]:
    completion += f"({paid['reasoning_tokens']} reasoning) "
  lines = [
    f"paid in this folder so far: {paid['num_responses']} answers, tokens:"
    f" {prompt}in, {completion}out; cost: {_describe_cost(paid)}"
  ]
  if paid["tokens_per_record"] is not None:
    cost = paid["cost_per_record"]
    share = "" if cost is None else f"{cost:.4g} {paid['currency']}, "
    lines.append(
      f"for each of {paid['num_records']} records: {share}"
      f"{paid['tokens_per_record']:.4g} tokens"
    )
  if paid["num_uncounted_responses"]:
    lines.append(
      f"not in it: {paid['num_uncounted_responses']} answers whose tokens the"
      " server did not count"
    )
  if paid["num_unknown"]:
    lines.append(
      f"not in it: {paid['num_unknown']} attempts that may be charged though"
      " no answer was kept: they timed out, broke off, came back as no answer"
      " or were under way at a kill"
    )
  if len(paid["settings"]) > 1:
    lines += [_describe_setting(row, paid) for row in paid["settings"]]
  for asked, served in paid["served_models"].items():
    if others := {name: n for name, n in served.items() if name != asked}:
      named = ", ".join(f"{name!a} {n} times" for name, n in others.items())
      lines.append(f"model {asked!a} was asked, and the server says: {named}")
  return lines


def _describe_cost(paid: Mapping[str, Any]) -> str:
  if paid["cost"] is None:
    return "not known (give PRICE_TABLE)"
  said = f"{paid['cost']:.4g} {paid['currency']}"
  if paid["models_without_price"]:
    named = ", ".join(map(ascii, paid["models_without_price"]))
    said += f" without that of {named}, which PRICE_TABLE lacks"
  return said


def _describe_setting(row: Mapping[str, Any], paid: Mapping[str, Any]) -> str:
  cost = (
    "" if row["cost"] is None else f", {row['cost']:.4g} {paid['currency']}"
  )
  parts = [f"{row['model']!a}"]
  if row["prompt"]:
    parts.append(f"prompt {row['prompt']}")
  if row["parameters"]:
    parts += [
      f"{name} {value!a}"
      for name, value in row["parameters"].items()
      if name in ("temperature", "max_tokens", "max_completion_tokens")
    ]
  if row["address"]:
    parts.append(f"at {row['address']}")
  return (
    f"  {', '.join(parts)}: {row['num_responses']} answers,"
    f" {row['prompt_tokens']} in, {row['completion_tokens']} out{cost}"
  )


def _add(total: Account, account: Account) -> None:
  for field in dataclasses.fields(Account):
    value = getattr(account, field.name)
    if field.name == "served_models":
      total.served_models.update(value)
    elif field.name in ("tokens_per_byte", "longest_completion"):
      setattr(total, field.name, max(value, getattr(total, field.name)))
    else:
      setattr(total, field.name, value + getattr(total, field.name))


def compute_cost(
  price_table: prices.PriceTable | None, model: str | None, account: Account
) -> float | None:
  """Returns the cost of what was counted; None where there is no price."""
  if price_table is None or model is None or model not in price_table.prices:
    return None
  return price_table.compute_cost(
    model,
    account.prompt_tokens,
    account.completion_tokens,
    account.cached_tokens,
    account.reasoning_tokens,
  )


def _count_served(counts: collections.Counter[str], model: str) -> None:
  """Counts a name, of which a server may invent any number."""
  if model not in counts and len(counts) >= _MAX_SERVED:
    model = OTHER_MODELS
  counts[model] += 1


def count_bytes(prompt: Any) -> int:
  """Returns the bytes of a request's prompt, as UTF-8."""
  texts = [prompt] if isinstance(prompt, str) else []
  if isinstance(prompt, list | tuple):
    texts = [str(turn.get("content")) for turn in prompt]
  return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def _get_max_tokens(parameters: Mapping[str, Any]) -> int:
  for field in exchange.MAX_TOKENS_FIELDS:
    value = parameters.get(field)
    if isinstance(value, int):
      return value
  return 0
