"""What a command shows on the screen."""

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator

from absl import logging as absl_logging

_OURS = "distill_jax"
_TENSORFLOW = "tensorflow"
# What libraries in C++ say when they start: information, the line before the
# first of it, and that two of them brought the same CUDA library.
_STARTUP_NOISE = re.compile(
  rb"WARNING: All log messages before absl::InitializeLog\(\)"
  rb"|[IW]\d{4} [\d:.]+ +\d+ "
  rb"|\d{4}-\d\d-\d\d [\d:.]+: [IW] "
  rb"|.*Unable to register cu\w+ factory"
  rb"|.*computation placer already registered"
  rb"|To enable the following instructions: .* rebuild TensorFlow"
)


def set_up() -> None:
  """Shows our own messages; libraries speak from warnings on.

  Orbax alone logs dozens of lines a checkpoint; --verbosity=0 shows them.
  """
  # Read when JAX and TensorFlow are imported; 3 leaves what is fatal.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  absl_logging.set_verbosity(absl_logging.WARNING)
  if not any(isinstance(each, _QuietTensorFlow) for each in sys.meta_path):
    sys.meta_path.insert(0, _QuietTensorFlow())
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  ours = logging.getLogger(_OURS)
  ours.addHandler(handler)
  ours.setLevel(logging.INFO)
  ours.propagate = False


def set_up_in_program() -> None:
  """As `set_up`, where the program that calls us does not show our messages.

  A program has its own way if it gives the logger "distill_jax" a level or a
  handler, or shows information of all.
  """
  ours = logging.getLogger(_OURS)
  # What handlers the root has tells nothing: libraries add some when imported.
  is_silent = not ours.isEnabledFor(logging.INFO)
  if is_silent and ours.level == logging.NOTSET and not ours.handlers:
    set_up()


def speak_as(process_index: int) -> None:
  """Leaves what is not urgent to process 0, once there are several.

  Args:
    process_index: of this process; its number stands before what it says.
  """
  ours = logging.getLogger(_OURS)
  if process_index:
    ours.setLevel(logging.WARNING)
  for handler in ours.handlers:
    handler.setFormatter(
      logging.Formatter(
        f"[process {process_index}] %(asctime)s %(message)s", "%H:%M:%S"
      )
    )


class _QuietTensorFlow(importlib.abc.MetaPathFinder):
  """Imports TensorFlow, whoever asks for it, without its first lines.

  It writes them whatever its level of logging is.
  """

  def __init__(self):
    self._is_searching = False

  def find_spec(self, fullname, path=None, target=None):
    """See `importlib.abc.MetaPathFinder`."""
    del path, target
    if fullname != _TENSORFLOW or self._is_searching:
      return None
    self._is_searching = True
    try:
      spec = importlib.util.find_spec(fullname)
    finally:
      self._is_searching = False
    if spec is not None and spec.loader is not None:
      spec.loader = _QuietLoader(spec.loader)
    return spec


class _QuietLoader(importlib.abc.Loader):
  """Executes a module as another loader does."""

  def __init__(self, loader: importlib.abc.Loader):
    self._loader = loader

  def create_module(self, spec: importlib.machinery.ModuleSpec):
    return self._loader.create_module(spec)

  def exec_module(self, module) -> None:
    # What asks the module for its files, as for packaged data, gets them.
    module.__loader__ = self._loader
    if module.__spec__ is not None:
      module.__spec__.loader = self._loader
    with without_startup_noise():
      self._loader.exec_module(module)


@contextlib.contextmanager
def without_startup_noise() -> Iterator[None]:
  """Keeps what C++ libraries say when they start off the screen.

  All else comes through, line by line; --verbosity=0 shows everything.
  """
  if absl_logging.get_verbosity() >= absl_logging.INFO:
    yield
    return
  sys.stderr.flush()
  screen = os.dup(2)
  reading, writing = os.pipe()
  os.dup2(writing, 2)
  os.close(writing)
  thread = threading.Thread(
    target=_pass_on, args=(reading, screen), daemon=True
  )
  thread.start()
  try:
    yield
  finally:
    sys.stderr.flush()
    os.dup2(screen, 2)  # Closes the pipe's other end.
    thread.join(5.0)
    os.close(screen)


def _pass_on(reading: int, screen: int) -> None:
  with open(reading, "rb") as lines:
    for line in lines:
      if not _STARTUP_NOISE.match(line):
        with contextlib.suppress(OSError):
          os.write(screen, line)
