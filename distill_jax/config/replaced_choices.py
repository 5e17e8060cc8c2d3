"""Which settings are unread only because a choice was replaced.

A run's file binds an object, such as a schedule, and the settings it reads.
Whoever includes the file, or gives a file or binding after it, may bind another
object; then nothing reads those settings, and that is no mistake of theirs.
What they have set themselves must be read.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from gin import config as gin_config

# Scope and selector of an object; of a macro, its name and gin.macro.
_Key = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class _Binding:
  """One parameter that was set.

  Attributes:
    key: of the object.
    parameter: its parameter.
    value: what it was set to.
    source: the file it stands in; "" for the command line.
  """

  key: _Key
  parameter: str
  value: Any
  source: str


class BindingRecord:
  """All that was set while gin parsed, in order."""

  def __init__(self):
    self._bindings: list[_Binding] = []

  @contextlib.contextmanager
  def recording(self) -> Iterator[None]:
    """Notes what gin sets inside."""
    sources = [""]
    bind, parse_file = gin_config.bind_parameter, gin_config.parse_config_file

    def note_binding(binding_key, value):
      bind(binding_key, value)
      parsed = gin_config.ParsedBindingKey.parse(binding_key)
      self._bindings.append(
        _Binding(parsed.config_key, parsed.arg_name, value, sources[-1])
      )

    def note_file(file, *arguments, **keywords):
      sources.append(str(file))
      try:
        return parse_file(file, *arguments, **keywords)
      finally:
        sources.pop()

    gin_config.bind_parameter = note_binding
    gin_config.parse_config_file = note_file
    try:
      yield
    finally:
      gin_config.bind_parameter = bind
      gin_config.parse_config_file = parse_file

  def excuses(self, key: _Key, parameter: str) -> bool:
    """Whether a setting would be read, had a later file kept a choice.

    Args:
      key: scope and selector of the object.
      parameter: which nothing reads.
    """
    indices = [
      index
      for index, binding in enumerate(self._bindings)
      if (binding.key, binding.parameter) == (key, parameter)
    ]
    if not indices:
      return False
    last = indices[-1]
    return any(
      index > last
      and replacing.source != self._bindings[last].source
      and self._reaches(replaced, key)
      for index, replacing in enumerate(self._bindings)
      for replaced in self._bindings[:index]
      if (replaced.key, replaced.parameter)
      == (replacing.key, replacing.parameter)
      and replaced.value != replacing.value
    )

  def _reaches(self, start: _Binding, wanted: _Key) -> bool:
    """Whether an object that a binding names reads another's settings."""
    seen: set[_Key] = set()
    waiting = [start.value]
    while waiting:
      for reference in gin_config.iterate_references(waiting.pop()):
        key = reference.config_key
        if key in seen:
          continue
        seen.add(key)
        waiting += [
          binding.value
          for binding in self._bindings
          if _is_read_by(binding.key, key)
        ]
    return any(_is_read_by(wanted, key) for key in seen)


def _is_read_by(bound: _Key, used: _Key) -> bool:
  """Whether what is bound for one key is read by an object of another."""
  if "gin.macro" in (bound[1], used[1]):
    return bound == used
  return bound[1] == used[1]
