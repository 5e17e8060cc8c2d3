"""What a command shows on the screen.

Layer 1; imports no module of ours.
"""

import logging

from absl import logging as absl_logging


def set_up() -> None:
  """Shows our own messages; libraries speak from warnings on.

  Orbax alone logs dozens of lines a checkpoint; --verbosity=0 shows them.
  """
  absl_logging.set_verbosity(absl_logging.WARNING)
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  ours = logging.getLogger("distill_jax")
  ours.addHandler(handler)
  ours.setLevel(logging.INFO)
  ours.propagate = False
