"""How a teacher is reached and how hard it may be asked; where its key is.

Layer 1; imports only `errors`. The key is read from the environment, goes to
the connection and nowhere else: neither setting nor message holds it.
"""

import dataclasses
import ipaddress
import math
import os
import re
import urllib.parse

from distill_jax.errors import UserError

# Capitals only, so that a key given instead of a name is told from one, and
# is not repeated on the screen.
_VARIABLE_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
_PLACEHOLDER_KEY = "none"  # Servers without keys want a header all the same.

_POSITIVE = {
  "requests_per_minute": "REQUESTS_PER_MINUTE",
  "tokens_per_minute": "TOKENS_PER_MINUTE",
  "timeout_seconds": "REQUEST_TIMEOUT_SECONDS",
  "first_delay_seconds": "FIRST_DELAY_SECONDS",
  "retry_budget_seconds": "RETRY_BUDGET_SECONDS",
}
_WHOLE_POSITIVE = {
  "max_concurrency": "MAX_CONCURRENCY",
  "max_attempts": "MAX_ATTEMPTS",
  "max_request_bytes": "MAX_REQUEST_BYTES",
  "max_prompt_tokens": "MAX_PROMPT_TOKENS",
  "max_response_bytes": "MAX_RESPONSE_BYTES",
}
_OPTIONAL = ("requests_per_minute", "tokens_per_minute", "max_prompt_tokens")


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
  """A teacher's address and the client's manners towards it.

  Attributes:
    base_url: TEACHER_BASE_URL, what stands before "/chat/completions"; usually
      ends in "/v1".
    api_key_variable: TEACHER_API_KEY_VARIABLE, the environment variable that
      holds the key. A server on this machine needs none.
    max_concurrency: requests under way at once, their waits between attempts
      included.
    requests_per_minute: what the client allows itself; None: no limit.
    tokens_per_minute: likewise, of prompts and answers together.
    timeout_seconds: of one attempt, from connecting to the answer's last byte.
    max_attempts: of one request, the first included.
    first_delay_seconds: the wait after a first failure is a random time below
      this, after the next ones below 2, 4, ... times it, up to a minute.
    retry_budget_seconds: no attempt begins later than this after a request's
      first one.
    max_request_bytes: a longer request is not sent.
    max_prompt_tokens: likewise a longer prompt, by the client's estimate; None:
      the server decides.
    max_response_bytes: a longer reply is cut off and is no answer.
  """

  base_url: str
  api_key_variable: str = "OPENAI_API_KEY"
  max_concurrency: int = 8
  requests_per_minute: float | None = None
  tokens_per_minute: float | None = None
  timeout_seconds: float = 300.0
  max_attempts: int = 8
  first_delay_seconds: float = 1.0
  retry_budget_seconds: float = 900.0
  max_request_bytes: int = 2**20
  max_prompt_tokens: int | None = None
  max_response_bytes: int = 2**20

  def __post_init__(self):
    _check_base_url(self.base_url)
    name = self.api_key_variable
    if not isinstance(name, str) or not _VARIABLE_NAME.fullmatch(name):
      raise UserError(
        "TEACHER_API_KEY_VARIABLE is not the name of an environment variable in"
        " capitals, such as OPENAI_API_KEY. It takes the name, never the key:"
        " put the key into the variable, outside gin."
      )
    for field, macro in (_POSITIVE | _WHOLE_POSITIVE).items():
      value = getattr(self, field)
      if value is None and field in _OPTIONAL:
        continue
      is_whole = field in _WHOLE_POSITIVE
      if not _is_positive(value, int if is_whole else (int, float)):
        none = ", or None for no limit" if field in _OPTIONAL else ""
        raise UserError(
          f"{macro} is {value!r}; it is a {'whole ' if is_whole else ''}number"
          f" above 0{none}."
        )

  @property
  def host(self) -> str:
    """Host and port, for messages."""
    return urllib.parse.urlsplit(self.base_url).netloc

  @property
  def is_local(self) -> bool:
    """Whether the server is on this machine."""
    host = urllib.parse.urlsplit(self.base_url).hostname or ""
    try:
      return ipaddress.ip_address(host).is_loopback
    except ValueError:
      return host == "localhost" or host.endswith(".localhost")


def read_api_key(config: TeacherConfig) -> str:
  """Returns the key; a placeholder for a local server without one.

  Raises:
    UserError: the variable is not set, or cannot be sent in a header.
  """
  variable = config.api_key_variable
  key = os.environ.get(variable, "").strip()
  if not key and config.is_local:
    return _PLACEHOLDER_KEY
  if not key:
    raise UserError(
      f"The environment variable {variable} is not set, and {config.host} is"
      " not on this machine. Set it to the key (any word, for a server without"
      " keys), or name another with TEACHER_API_KEY_VARIABLE."
    )
  if not all("!" <= character <= "~" for character in key):
    raise UserError(
      f"The environment variable {variable} holds blanks, line ends or letters"
      " beyond ASCII, which no key has. Set it to the key alone."
    )
  return key


def _is_positive(value, types) -> bool:
  is_number = isinstance(value, types) and not isinstance(value, bool)
  return is_number and 0 < value < math.inf


def _check_base_url(base_url: str) -> None:
  """Refuses what is no plain address; says so without repeating secrets."""
  problem = None
  try:
    parts = urllib.parse.urlsplit(base_url)
    is_address = parts.scheme in ("http", "https") and parts.hostname
    parts.port  # noqa: B018  raises where it is no port.
  except (ValueError, AttributeError, TypeError):
    parts, is_address = None, False
  if parts is None or not is_address or re.search(r"\s", base_url):
    problem = "is not an address"
  elif parts.username is not None or parts.password is not None:
    problem = (
      "holds a user name or a password, which would be logged; the key belongs"
      " into the environment variable that TEACHER_API_KEY_VARIABLE names"
    )
  elif parts.query or parts.fragment:
    problem = "has a part after '?' or '#', which cannot stand before a path"
  elif parts.path.rstrip("/").endswith("/completions"):
    problem = "names an endpoint; give what stands before /chat/completions"
  if problem:
    raise UserError(
      f"TEACHER_BASE_URL {problem}. It looks like http://127.0.0.1:8000/v1 or"
      " https://api.openai.com/v1."
    )
