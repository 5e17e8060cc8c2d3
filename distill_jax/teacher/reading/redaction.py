"""Takes secrets out of what is written and shown, however they are spelled.

Whoever reads a secret makes it known here with `add_secret`; whoever writes or
shows what a server said passes it through `redact`. In memory for this process
alone.
"""

import base64
import re
from typing import Any

_MARK = "[key]"
# Shorter "keys" are words such as "none", which answers may hold as well.
_MIN_SECRET_CHARACTERS = 12
# What base64 makes of three bytes; the rest of a secret depends on what stands
# beside it.
_BLOCK_BYTES, _BLOCK_LETTERS = 3, 4
_FOR_URLS = str.maketrans("+/", "-_")

# Without one of these a text spells nothing in another way.
_ESCAPES = ("\\u", "\\x", "\\/", "\\\\", '\\"', "%", "&#", "&amp;")

_secrets: set[str] = set()
_literals: list[str] = []
_text_pattern: re.Pattern[str] | None = None
_bytes_pattern: re.Pattern[bytes] | None = None


def is_secret(key: str) -> bool:
  """Tells whether a key is long enough to be told from words."""
  return len(key) >= _MIN_SECRET_CHARACTERS


def add_secret(secret: str) -> None:
  """Makes a secret known, unless it is too short to be told from words."""
  global _text_pattern, _bytes_pattern
  if not is_secret(secret) or secret in _secrets:
    return
  _secrets.add(secret)
  spelled = [
    form
    for known in sorted(_secrets, key=len, reverse=True)
    for form in (known, *_encode(known))
  ]
  _literals[:] = {
    form.translate(table) for form in spelled for table in ({}, _FOR_URLS)
  }
  pattern = "|".join("".join(map(_spell, form)) for form in spelled)
  _text_pattern = re.compile(pattern)
  _bytes_pattern = re.compile(pattern.encode())


def redact(value: Any) -> Any:
  """Returns JSON, or bytes, with "[key]" in the place of every secret.

  Args:
    value: texts, in lists and dicts within `nesting`'s bound, keys included; or
      bytes.

  Returns:
    The same where there is no secret. Found are secrets as they are, with
    letters as JSON's, a URL's or HTML's escapes, escaped any number of times,
    and inside anything that base64 or hexadecimal digits spell.
  """
  if _text_pattern is None or _bytes_pattern is None:
    return value
  if isinstance(value, str):
    # The pattern takes about a microsecond a letter, and this no time.
    is_suspect = any(form in value for form in (*_literals, *_ESCAPES))
    return _text_pattern.sub(_MARK, value) if is_suspect else value
  if isinstance(value, bytes):
    forms = (form.encode() for form in (*_literals, *_ESCAPES))
    is_suspect = any(form in value for form in forms)
    return _bytes_pattern.sub(_MARK.encode(), value) if is_suspect else value
  if isinstance(value, dict):
    return {redact(key): redact(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [redact(item) for item in value]
  return value


def _encode(secret: str) -> list[str]:
  """Returns what encodings make of a secret, wherever in a text it stands."""
  content = secret.encode()
  forms = [content.hex(), content.hex().upper()]
  for num_before in range(_BLOCK_BYTES):
    letters = base64.b64encode(bytes(num_before) + content).decode()
    # What the neighbors decide goes: whole blocks of the secret alone stay.
    start = _BLOCK_LETTERS if num_before else 0
    end = (num_before + len(content)) // _BLOCK_BYTES * _BLOCK_LETTERS
    forms.append(letters[start:end])
  return forms


def _spell(letter: str) -> str:
  """Returns a pattern of all the ways in which a letter is written."""
  code = ord(letter)
  same = {"+": "[+-]", "/": "[/_]"}  # Base64 for URLs has two other letters.
  plain = same.get(letter, re.escape(letter))
  digits = "".join(
    f"[{d}{d.upper()}]" if d.isalpha() else d for d in f"{code:02x}"
  )
  # Bounded, and never tried with fewer (`}+`), so that no text takes long.
  return (
    rf"(?:\\{{0,16}}+(?:{plain}|[ux](?:00)?{digits})|%(?:25){{0,4}}+{digits}"
    rf"|&(?:amp;){{0,4}}+#(?:0{{0,6}}{code}|[xX]0{{0,6}}{digits});)"
  )
