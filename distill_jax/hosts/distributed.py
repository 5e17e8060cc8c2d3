"""Several processes as one run: joining them, and agreeing on values.

One process needs none of it, and every function here then returns at once.

Values go through the key-value store of JAX's coordination service, from host
to host: no device takes part, so it also works between steps that are still
under way. Every process calls these functions in the same order. All of it is
one module because JAX has no public name for that store's client.
"""

import collections
import dataclasses
import importlib.util
import json
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

from distill_jax.errors import LostProcessError, UserError
from distill_jax.hosts import rendezvous

_log = logging.getLogger(__name__)

T = TypeVar("T")
_PREFIX = "distill_jax"
# How often those that wait say for whom.
_NOTICE_SECONDS = 60.0
# How often each name was used; the same in all processes.
_uses: collections.Counter[str] = collections.Counter()
_hosts: list[str] = []


@dataclasses.dataclass(frozen=True)
class Launch:
  """How this process was told to join others.

  Attributes:
    coordinator_address: host:port of process 0; None: not told.
    process_count: how many there are; None: not told.
    process_index: which one this is; None: not told.
    detects: whether JAX is to find what was not told in the environment.
    is_several: whether it is known already that there are several.
  """

  coordinator_address: str | None = None
  process_count: int | None = None
  process_index: int | None = None
  detects: bool = False
  is_several: bool = False

  def __post_init__(self):
    absent = [name for name in _TOLD if getattr(self, name) is None]
    if 0 < len(absent) < len(_TOLD):
      raise UserError(
        f"To join other processes, {' and '.join(absent)} must be given too:"
        " --coordinator_address=HOST:PORT of process 0, --process_count and"
        " --process_index, or none of them where the cluster is detected."
      )
    if (
      self.coordinator_address is None
      or self.process_count is None
      or self.process_index is None
    ):
      return
    if not 0 <= self.process_index < self.process_count:
      raise UserError(
        f"--process_index is {self.process_index} and --process_count"
        f" {self.process_count}; processes are counted from 0."
      )
    rendezvous.split_address(self.coordinator_address)


_TOLD = ("coordinator_address", "process_count", "process_index")


def read_launch(
  flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ
) -> Launch:
  """Says how to join: by flags, by JAX's variables, by detection, or not.

  Args:
    flags: `coordinator_address`, `process_count`, `process_index`, None where
      not given, and `multiprocess_gpu`, which asks for detection.
    environment: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID
      stand for flags that were not given.

  Raises:
    UserError: some of what belongs together is missing, or no number.
  """
  found: dict[str, Any] = {name: flags.get(name) for name in _TOLD}
  for name, variable in zip(
    _TOLD,
    ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
    strict=True,
  ):
    if found[name] is None and (value := environment.get(variable)):
      if name != "coordinator_address" and not value.isdecimal():
        raise UserError(f"{variable} is {value!r}; it must be a whole number.")
      found[name] = value if name == "coordinator_address" else int(value)
  if set(found.values()) != {None}:
    return Launch(**found, is_several=found["process_count"] != 1)
  # Where nobody asks, only what costs nothing to find: tasks of `srun`, and TPU
  # hosts, of which there may be several.
  num_tasks = environment.get("SLURM_NTASKS", "")
  is_step = "SLURM_STEP_NODELIST" in environment and num_tasks.isdecimal()
  is_several = is_step and int(num_tasks) > 1
  has_tpu = importlib.util.find_spec("libtpu") is not None
  uses_tpu = has_tpu and "tpu" in (environment.get("JAX_PLATFORMS") or "tpu")
  asked = bool(flags.get("multiprocess_gpu"))
  return Launch(
    detects=asked or is_several or uses_tpu, is_several=asked or is_several
  )


def join(
  launch: Launch, timeout_seconds: int, heartbeat_timeout_seconds: int
) -> bool:
  """Joins the other processes; before anything else is done with JAX.

  Args:
    launch: from `read_launch`.
    timeout_seconds: the longest to wait for the others.
    heartbeat_timeout_seconds: how long a process may be silent before JAX ends
      all the others.

  Returns:
    Whether there are several.

  Raises:
    LostProcessError: names who did not come.
    UserError: what processes were told does not fit, or JAX found it wrong.
  """
  if launch.process_count == 1 or launch == Launch():
    return False
  # Signals are `hosts.preemption`'s, for several processes too.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    found = launch if launch.coordinator_address else _detect(timeout_seconds)
    if found.coordinator_address and (found.process_count or 1) > 1:
      rendezvous.meet(
        found.coordinator_address,
        found.process_count or 1,
        found.process_index or 0,
        timeout_seconds,
      )
    jax.distributed.initialize(
      launch.coordinator_address,
      launch.process_count,
      launch.process_index,
      cluster_detection_method="deactivate"
      if launch.coordinator_address
      else None,
      initialization_timeout=timeout_seconds,
      heartbeat_timeout_seconds=heartbeat_timeout_seconds,
    )
  except ValueError as error:
    # What JAX says where it detects no cluster.
    if "should be defined" in str(error):
      if launch.is_several:
        raise UserError(
          "There are to be several processes, and JAX detects no cluster. Give"
          " --coordinator_address=HOST:PORT of process 0, --process_count and"
          " --process_index to each of them."
        ) from error
      return False
    raise UserError(f"The processes cannot be joined: {error}") from error
  except RuntimeError as error:
    raise LostProcessError(
      f"The process on {socket.gethostname()} could not join the others within"
      f" {timeout_seconds} seconds: {error}"
    ) from error
  if process_count() == 1:
    return False
  _hosts[:] = gather("hosts", socket.gethostname())
  if is_primary():
    _log.info(
      "%d processes: %s",
      len(_hosts),
      ", ".join(describe(index) for index in range(len(_hosts))),
    )
  return True


def _detect(timeout_seconds: int) -> Launch:
  """Returns what JAX finds of a cluster, if anything."""
  # Not public, and what `jax.distributed.initialize` itself asks.
  from jax._src import clusters

  # Which devices are this process's, JAX finds out by itself.
  address, count, index, _ = (
    clusters.ClusterEnv.auto_detect_unset_distributed_params(
      None, None, None, (), None, timeout_seconds
    )
  )
  return Launch(address, count, index)


def process_count() -> int:
  """Returns how many processes there are."""
  # JAX would start its devices to say that it is alone.
  return 1 if client() is None else jax.process_count()


def process_index() -> int:
  """Returns which one this is."""
  return 0 if client() is None else jax.process_index()


def is_primary() -> bool:
  """Whether this is the process that writes for all."""
  return process_index() == 0


def describe(index: int) -> str:
  """Names a process and its host, where that is known."""
  if index >= len(_hosts):
    return f"process {index}"
  return f"process {index} ({_hosts[index]})"


def client() -> Any:
  """Returns the client of JAX's key-value store; None for one process."""
  # Not public: JAX hands it to nobody, and Orbax takes it from here as well.
  from jax._src import distributed

  return distributed.global_state.client


def gather(
  name: str, value: Any, timeout_seconds: float | None = None
) -> list[Any]:
  """Returns every process's value; a barrier too.

  Args:
    name: of what is gathered.
    value: JSON.
    timeout_seconds: the longest to wait; None: as long as the others live.

  Raises:
    LostProcessError: names the process that did not come in time.
  """
  if process_count() == 1:
    return [json.loads(json.dumps(value))]
  key = _make_key(name)
  client().key_value_set(f"{key}/{process_index()}", json.dumps(value))
  return [
    json.loads(_wait_for(f"{key}/{index}", name, index, timeout_seconds))
    for index in range(process_count())
  ]


def collect(name: str, value: Any) -> list[Any] | None:
  """Tells process 0 a value; nobody but process 0 waits.

  Args:
    name: of what is collected.
    value: JSON.

  Returns:
    Every process's value in process 0, None in the others.
  """
  if process_count() == 1:
    return [json.loads(json.dumps(value))]
  key = _make_key(name)
  if not is_primary():
    client().key_value_set(f"{key}/{process_index()}", json.dumps(value))
    return None
  values = [value] + [
    json.loads(_wait_for(f"{key}/{index}", name, index, None))
    for index in range(1, process_count())
  ]
  # As often as a run logs, so nothing is left behind.
  client().key_value_delete(f"{key}/")
  return values


def share(name: str, make_fn: Callable[[], T]) -> T:
  """Returns what process 0 makes, to all.

  Where it raises a `UserError`, all do.

  Args:
    name: of what is made.
    make_fn: called in process 0 alone; returns JSON.

  Raises:
    UserError: as `make_fn` did.
  """
  if process_count() == 1:
    return make_fn()
  key = _make_key(name)
  if is_primary():
    try:
      answer = {"value": make_fn()}
    except UserError as error:
      client().key_value_set(key, json.dumps({"error": str(error)}))
      raise
    client().key_value_set(key, json.dumps(answer))
    return answer["value"]
  answer = json.loads(_wait_for(key, name, 0, None))
  if "error" in answer:
    raise UserError(answer["error"])
  return answer["value"]


def agree(name: str, problem: str | None) -> None:
  """Goes on only where no process has a problem.

  Args:
    name: of what is agreed on.
    problem: why this process cannot go on; None: it can.

  Raises:
    UserError: in every process, if one has a problem.
  """
  if process_count() == 1:
    if problem is not None:
      raise UserError(problem)
    return
  found = {
    index: told
    for index, told in enumerate(gather(name, problem))
    if told is not None
  }
  if not found:
    return
  index = min(found)
  if set(found) == set(range(process_count())) and len({*found.values()}) == 1:
    raise UserError(found[index])
  others = f" So do {len(found) - 1} others." if len(found) > 1 else ""
  raise UserError(f"{_capitalize(describe(index))}: {found[index]}{others}")


def check_equal(name: str, text: str) -> None:
  """Refuses processes that were told different things.

  Args:
    name: what the text is.
    text: must be the same in all.

  Raises:
    UserError: in every process; names the first that differs, and the line.
  """
  texts = gather(name, text)
  for index, other in enumerate(texts):
    if other == texts[0]:
      continue
    first, second = texts[0].splitlines(), other.splitlines()
    here = [line for line in second if line not in first]
    there = [line for line in first if line not in second]
    raise UserError(
      f"All processes must be given the same {name}. {_capitalize(describe(0))}"
      f" has {_first_of(there)}, {describe(index)} has {_first_of(here)}."
    )


def _first_of(lines: list[str]) -> str:
  return repr(lines[0].strip()) if lines else "nothing there"


def _capitalize(text: str) -> str:
  return text[:1].upper() + text[1:]


def _make_key(name: str) -> str:
  _uses[name] += 1
  return f"{_PREFIX}/{name}/{_uses[name]}"


def _wait_for(
  key: str, name: str, index: int, timeout_seconds: float | None
) -> str:
  """Gets another process's value, and says now and then that it waits."""
  waited = 0.0
  while True:
    left = _NOTICE_SECONDS
    if timeout_seconds is not None:
      left = min(left, timeout_seconds - waited)
    try:
      return client().blocking_key_value_get(key, max(int(left * 1000), 1))
    except jax.errors.JaxRuntimeError as error:
      if "DEADLINE_EXCEEDED" not in str(error):
        raise
    waited += left
    if timeout_seconds is not None and waited >= timeout_seconds:
      raise LostProcessError(
        f"{_capitalize(describe(index))} did not come to {name!r} within"
        f" {timeout_seconds:g} seconds. Look at its log."
      )
    _log.warning(
      "Waiting for %s at %r since %.0f seconds", describe(index), name, waited
    )
