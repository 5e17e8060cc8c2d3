"""What a command shows on the screen.

Layer 1; imports no module of ours.
"""

import logging

from absl import logging as absl_logging

_OURS = "distill_jax"


def set_up() -> None:
  """Shows our own messages; libraries speak from warnings on.

  Orbax alone logs dozens of lines a checkpoint; --verbosity=0 shows them.
  """
  absl_logging.set_verbosity(absl_logging.WARNING)
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  ours = logging.getLogger(_OURS)
  ours.addHandler(handler)
  ours.setLevel(logging.INFO)
  ours.propagate = False


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
