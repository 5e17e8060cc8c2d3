"""How a teacher is reached and how hard it may be asked; where its key is.

The key is read from the environment, goes to the connection and nowhere else:
neither setting nor message holds it.
"""

import dataclasses
import ipaddress
import os
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from distill_jax.config import declaration
from distill_jax.config.declaration import field
from distill_jax.errors import UserError

# Capitals only, so that a key given instead of a name is told from one, and
# is not repeated on the screen.
_VARIABLE_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
# Names of headers and of parts of a query that hold keys.
_SECRET_NAMES = re.compile(r"key|auth|token|secret|password|cookie|sig", re.I)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_QUERY_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PLACEHOLDER_KEY = "none"  # Servers without keys want a header all the same.


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
  """A teacher's address and the client's manners towards it."""

  base_url: str = field(
    macro="TEACHER_BASE_URL",
    gin_text="'http://127.0.0.1:8000/v1'",
    is_common=True,
    is_checked=False,
    help="what stands before /chat/completions; usually ends in /v1. vLLM"
    " listens at the default",
  )
  api_key_variable: str | None = field(
    "OPENAI_API_KEY",
    macro="TEACHER_API_KEY_VARIABLE",
    is_checked=False,
    help="the environment variable that holds the key. A server on this machine"
    " needs none. None: no key is sent but what EXTRA_HEADERS has",
  )
  max_concurrency: int = field(
    8,
    macro="MAX_CONCURRENCY",
    above=0,
    is_common=True,
    help="requests under way at once, their waits between attempts included",
  )
  requests_per_minute: float | None = field(
    None,
    macro="REQUESTS_PER_MINUTE",
    above=0,
    is_common=True,
    help="what the client allows itself; None: no limit",
  )
  tokens_per_minute: float | None = field(
    None,
    macro="TOKENS_PER_MINUTE",
    above=0,
    is_common=True,
    help="of prompts and answers together; None: no limit",
  )
  timeout_seconds: float = field(
    300.0,
    macro="REQUEST_TIMEOUT_SECONDS",
    above=0,
    help="of one attempt, from connecting to the answer's last byte",
  )
  max_attempts: int = field(
    8,
    macro="MAX_ATTEMPTS",
    above=0,
    help="of one request, the first included",
  )
  first_delay_seconds: float = field(
    1.0,
    above=0,
    help="the wait after a first failure is a random time below this, after the"
    " next ones below 2, 4, ... times it, up to a minute",
  )
  retry_budget_seconds: float = field(
    900.0,
    macro="RETRY_BUDGET_SECONDS",
    above=0,
    help="no attempt begins later than this after a request's first one",
  )
  max_request_bytes: int = field(
    2**20,
    macro="MAX_REQUEST_BYTES",
    above=0,
    help="a longer request is not sent",
  )
  max_prompt_tokens: int | None = field(
    None,
    macro="MAX_PROMPT_TOKENS",
    above=0,
    help="a longer prompt is not sent, by the client's estimate; None: the"
    " server decides",
  )
  max_response_bytes: int = field(
    2**20,
    macro="MAX_RESPONSE_BYTES",
    above=0,
    help="a longer reply is cut off and is no answer",
  )
  # Mapping[str, str]. `config.fields` would repeat a value of another type,
  # which may be a secret; `_check_extras` does not.
  extra_headers: Any = field(
    default_factory=dict,
    macro="EXTRA_HEADERS",
    is_checked=False,
    takes="a dictionary of texts to texts",
    help="sent with each request; '$NAME' is the value of an environment"
    " variable, and so is kept nowhere: {'api-key': '$AZURE_KEY'}",
  )
  extra_query: Any = field(
    default_factory=dict,
    macro="EXTRA_QUERY",
    is_checked=False,
    takes="a dictionary of texts to texts",
    help="sent after '?' in every address, with values as in EXTRA_HEADERS:"
    " {'api-version': ...}",
  )

  def __post_init__(self):
    _check_base_url(self.base_url)
    name = self.api_key_variable
    if name is not None and (
      not isinstance(name, str) or not _VARIABLE_NAME.fullmatch(name)
    ):
      raise UserError(
        "TEACHER_API_KEY_VARIABLE is not the name of an environment variable in"
        " capitals, such as OPENAI_API_KEY. It takes the name, never the key:"
        " put the key into the variable, outside gin. None sends no key."
      )
    _check_extras("EXTRA_HEADERS", self.extra_headers, _HEADER_NAME)
    _check_extras("EXTRA_QUERY", self.extra_query, _QUERY_NAME)
    declaration.check(self)

  @property
  def address(self) -> str:
    """The server as the journal names it; see `get_address`."""
    return get_address(self.base_url)

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


def get_address(base_url: str) -> str:
  """Returns scheme, host, port and path: no user, query or last slash.

  Args:
    base_url: an address; what is none is returned as it is.
  """
  try:
    parts = urllib.parse.urlsplit(base_url)
    host, port = parts.hostname or "", parts.port
  except ValueError:
    return base_url
  host = f"[{host}]" if ":" in host else host
  if port is not None and port != _DEFAULT_PORTS.get(parts.scheme):
    host = f"{host}:{port}"
  return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"


def read_api_key(config: TeacherConfig) -> str:
  """Returns the key; a placeholder for a local server without one.

  Raises:
    UserError: the variable is not set, or cannot be sent in a header.
  """
  variable = config.api_key_variable
  if variable is None:
    return _PLACEHOLDER_KEY
  key = os.environ.get(variable, "").strip()
  if not key and config.is_local:
    return _PLACEHOLDER_KEY
  if not key:
    raise UserError(
      f"The environment variable {variable} is not set, and {config.host} is"
      " not on this machine. Set it to the key (any word, for a server without"
      " keys), or name another with TEACHER_API_KEY_VARIABLE."
    )
  _check_secret(variable, key)
  return key


def read_extras(extras: Mapping[str, str]) -> dict[str, str]:
  """Returns headers or query with the values of environment variables.

  Args:
    extras: `TeacherConfig.extra_headers` or `extra_query`.

  Raises:
    UserError: a variable is not set, or cannot be sent.
  """
  values = {}
  for name, value in extras.items():
    if value.startswith("$"):
      variable = value[1:]
      value = os.environ.get(variable, "").strip()
      if not value:
        raise UserError(
          f"The environment variable {variable} is not set, and EXTRA_HEADERS"
          f" or EXTRA_QUERY wants it for {name!r}. Set it."
        )
      _check_secret(variable, value)
    values[name] = value
  return values


def list_secrets(config: TeacherConfig) -> list[str]:
  """Returns all that was read from the environment and is sent.

  Raises:
    UserError: as `read_api_key` and `read_extras`.
  """
  secrets = [] if config.api_key_variable is None else [read_api_key(config)]
  for extras in (config.extra_headers, config.extra_query):
    values = read_extras(extras)
    secrets += [values[name] for name in extras if extras[name].startswith("$")]
  return secrets


def _check_secret(variable: str, secret: str) -> None:
  if not all("!" <= character <= "~" for character in secret):
    raise UserError(
      f"The environment variable {variable} holds blanks, line ends or letters"
      " beyond ASCII, which no key has. Set it to the key alone."
    )


def _check_extras(macro: str, extras, names: re.Pattern[str]) -> None:
  """Refuses what cannot be sent; repeats no value, which may be a secret."""
  if not isinstance(extras, Mapping):
    raise UserError(f"{macro} is no mapping {{'name': 'value'}}.")
  for name, value in extras.items():
    if not isinstance(name, str) or not names.fullmatch(name):
      raise UserError(f"{macro}: {name!r} is no name that can be sent.")
    if not isinstance(value, str) or not all(" " <= c <= "~" for c in value):
      raise UserError(f"{macro}: the value of {name!r} is no plain text.")
    if value.startswith("$"):
      if not _VARIABLE_NAME.fullmatch(value[1:]):
        raise UserError(
          f"{macro}: behind the $ of {name!r} there is no name of an"
          " environment variable in capitals, such as $AZURE_KEY."
        )
    elif _SECRET_NAMES.search(name):
      raise UserError(
        f"{macro}: {name!r} looks like a key, whose value would be written into"
        " config.gin. Put it into an environment variable, and give"
        f" {{{name!r}: '$NAME'}}."
      )


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
