"""JAX's key-value store without JAX, for what processes say to each other."""

import threading
import time

import jax


class KeyValueStore:
  """What `DistributedRuntimeClient` offers, in one process."""

  def __init__(self):
    self.values = {}
    self.is_gone = False
    self._changed = threading.Condition()

  def _check(self):
    if self.is_gone:
      raise jax.errors.JaxRuntimeError("UNAVAILABLE: socket closed")

  def key_value_set(self, key, value, allow_overwrite=False):
    with self._changed:
      self._check()
      if key in self.values and not allow_overwrite:
        raise jax.errors.JaxRuntimeError(f"ALREADY_EXISTS: {key}")
      self.values[key] = value
      self._changed.notify_all()

  def key_value_delete(self, key):
    with self._changed:
      self._check()
      for found in [name for name in self.values if name.startswith(key)]:
        del self.values[found]

  def blocking_key_value_get(self, key, timeout_in_ms):
    deadline = time.monotonic() + timeout_in_ms / 1000
    with self._changed:
      while key not in self.values:
        self._check()
        if time.monotonic() > deadline:
          raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: timed out")
        self._changed.wait(min(0.02, timeout_in_ms / 1000))
      return self.values[key]

  def key_value_dir_get(self, folder):
    with self._changed:
      self._check()
      return [
        (key, value)
        for key, value in self.values.items()
        if key.startswith(folder)
      ]


def join(monkeypatch, module, index, count, store):
  """Makes a module of `hosts.distributed` one of several processes."""
  monkeypatch.setattr(module, "client", lambda: store)
  monkeypatch.setattr(module, "process_index", lambda: index)
  monkeypatch.setattr(module, "process_count", lambda: count)
