"""Why an output ended, in the words of the servers that wrote it."""

import re

# Why an output ended, as servers say it, without case, "_", "-" and blanks.
_ENDED = frozenset("stop endturn stopsequence eos eostoken".split())
_LENGTH = frozenset(
  """
  length maxtokens maxoutputtokens maxcompletiontokens maxlength maxnewtokens
  modellength modelcontextwindowexceeded tokenlimit
  """.split()
)
_FILTERED = frozenset(
  """
  contentfilter contentfiltered safety recitation prohibitedcontent blocklist
  spii guardrailintervened sensitive imagesafety errortoxic
  """.split()
)
_REFUSED = frozenset(("refusal", "refused"))
# Ends whose text, if there is any, broke off.
_BROKEN = frozenset(
  """
  error failed failure incomplete abort aborted cancelled canceled
  interrupted timeout insufficientsystemresource malformedfunctioncall
  networkerror
  """.split()
)


def _normalize_reason(finish_reason: str | None) -> str:
  """Returns what all spellings of a finish reason have in common."""
  word = re.sub(r"[\W_]+", "", finish_reason or "").casefold()
  return word.removeprefix("finishreason")


def is_ended(finish_reason: str | None) -> bool:
  """Tells whether an output ended by itself, as the server says."""
  return _normalize_reason(finish_reason) in _ENDED


def is_length(finish_reason: str | None) -> bool:
  """Tells whether an output ended because its tokens were used up."""
  return _normalize_reason(finish_reason) in _LENGTH


def is_filtered(finish_reason: str | None) -> bool:
  """Tells whether a server's filter ended an output."""
  return _normalize_reason(finish_reason) in _FILTERED


def is_refusal(finish_reason: str | None) -> bool:
  """Tells whether a model refused, as the server says."""
  return _normalize_reason(finish_reason) in _REFUSED


def is_broken_off(finish_reason: str | None) -> bool:
  """Tells whether a server ended an output itself: an error, or a filter.

  Whatever stands in such an output then is no answer, not even where it looks
  like one.
  """
  return _normalize_reason(finish_reason) in _BROKEN | _FILTERED | _REFUSED
