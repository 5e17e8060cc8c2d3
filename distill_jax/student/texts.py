"""Checks of the texts that a student is given."""

from collections.abc import Iterable
from typing import Any

from distill_jax.errors import UserError


def check_texts(texts: Any, name: str) -> list[str]:
  """Returns texts as a list.

  Args:
    texts: of a user.
    name: how messages call them.

  Raises:
    UserError: one is none, or cannot be written; or a text was given alone.
  """
  if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
    raise UserError(
      f"{name} is {texts!r:.60}; it must be a list of texts. Put one text in"
      " brackets: [text]."
    )
  texts = list(texts)
  for index, text in enumerate(texts):
    if not isinstance(text, str):
      raise UserError(
        f"{name}[{index}] is {text!r:.60}, of the type {type(text).__name__};"
        " it must be text."
      )
    try:
      text.encode("utf-8")
    except UnicodeEncodeError as error:
      raise UserError(
        f"{name}[{index}] holds half a surrogate pair at character"
        f" {error.start}, which no tokenizer takes. Remove it."
      ) from error
  return texts
