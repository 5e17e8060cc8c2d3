"""Several teachers, each with an address and ways of its own.

Owns what an entry of TEACHER_MODEL may say, and sends each request to its
teacher's server. Opens no connection itself.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from distill_jax.errors import UserError
from distill_jax.teacher.asking import asking
from distill_jax.teacher.asking.exchange import (
  Repeating,
  Request,
  Response,
  Transport,
)
from distill_jax.teacher.transports.config import TeacherConfig

_CLIENT_FIELDS = tuple(
  field.name for field in dataclasses.fields(TeacherConfig)
)


@dataclasses.dataclass(frozen=True)
class Teacher:
  """One teacher.

  Attributes:
    model: the server's name of it.
    client: where it is and how hard it is asked.
    own: how it is asked, where that differs from the others; fields of
      `variants.Variant`.
  """

  model: str
  client: TeacherConfig
  own: Mapping[str, Any]


def read_teachers(
  teacher_model: Any, client: TeacherConfig
) -> tuple[Teacher, ...]:
  """Reads TEACHER_MODEL.

  Args:
    teacher_model: a name; {"model": name, ...} with fields of `TeacherConfig`
      (`base_url`, `api_key_variable`, ...) and of `asking.FIELDS`
      that are this teacher's own; or a list of such.
    client: of what an entry does not say.

  Returns:
    The teachers in order.

  Raises:
    UserError: an entry is something else, or a field of it cannot be.
  """
  entries = teacher_model
  if not isinstance(teacher_model, list | tuple):
    entries = [teacher_model]
  return tuple(_read_teacher(entry, client) for entry in entries)


def _read_teacher(entry: Any, client: TeacherConfig) -> Teacher:
  if isinstance(entry, str):
    return Teacher(entry, client, {})
  if not isinstance(entry, Mapping) or not isinstance(entry.get("model"), str):
    raise UserError(
      "TEACHER_MODEL holds what is no teacher; it is a model's name, as the"
      " server has it, {'model': name, 'base_url': ...}, or a list of these."
    )
  name = entry["model"]
  known = ("model", *_CLIENT_FIELDS, *asking.FIELDS)
  for field in entry:
    if field not in known:
      raise UserError(
        f"TEACHER_MODEL: {field!r} of {name!r} is unknown; there are"
        f" {', '.join(known)}."
      )
  if (
    "base_url" in entry
    and entry["base_url"] != client.base_url
    and client.api_key_variable is not None
    and "api_key_variable" not in entry
  ):
    raise UserError(
      f"TEACHER_MODEL: {name!r} has a base_url of its own and no"
      " api_key_variable. Name its key's, or give None: no key is to go"
      " to a server that it is not for."
    )
  fields = {f: entry[f] for f in _CLIENT_FIELDS if f in entry}
  if "base_url" in entry and entry["base_url"] != client.base_url:
    # Those of the other server may hold its key.
    fields = {"extra_headers": {}, "extra_query": {}} | fields
  try:
    own_client = dataclasses.replace(client, **fields)
  except UserError as error:
    raise UserError(f"TEACHER_MODEL, {name!r}: {error}") from error
  own = {f: entry[f] for f in asking.FIELDS if f in entry}
  return Teacher(name, own_client, own)


class RoutingTransport:
  """A `Transport` that gives each request to its teacher's."""

  def __init__(self, transports: Mapping[str, Transport]):
    """Keeps them.

    Args:
      transports: model -> its transport; models may share one.
    """
    self._transports = transports
    self._repeat_fn: Callable[[Request], Awaitable[bool]] | None = None

  @property
  def repeat_fn(self) -> Callable[[Request], Awaitable[bool]] | None:
    """See `exchange.Repeating`; for all of them."""
    return self._repeat_fn

  @repeat_fn.setter
  def repeat_fn(
    self, repeat_fn: Callable[[Request], Awaitable[bool]] | None
  ) -> None:
    self._repeat_fn = repeat_fn
    for transport in self._transports.values():
      if isinstance(transport, Repeating):
        transport.repeat_fn = repeat_fn

  async def send(self, request: Request) -> Response:
    """See `exchange.Transport`."""
    return await self._transports[request.model].send(request)

  async def close(self) -> None:
    """Closes each transport once."""
    distinct = {id(one): one for one in self._transports.values()}
    await asyncio.gather(*(one.close() for one in distinct.values()))


def group_clients(
  teachers: Sequence[Teacher],
) -> list[tuple[TeacherConfig, list[str]]]:
  """Returns each client with the models that are asked through it."""
  groups: list[tuple[TeacherConfig, list[str]]] = []
  for teacher in teachers:
    for client, models in groups:
      if client == teacher.client:
        models.append(teacher.model)
        break
    else:
      groups.append((teacher.client, [teacher.model]))
  return groups
