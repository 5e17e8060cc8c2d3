"""`--run_mode=label`, again and again, without the imports each time.

python label_forks.py

Each line of standard input is a JSON list, a folder and arguments: the program,
which has imported everything, forks, and the child runs `distill-jax` with them
in that folder. Printed are the child's process id and, once it has ended, its
exit code, negative for the signal that killed it. What the child prints goes to
the file `printed` in the folder.
"""

import json
import os
import sys

from distill_jax import main
from distill_jax.runs import label  # noqa: F401
from distill_jax.teacher.transports import connection  # noqa: F401


def _run(folder, *arguments):
  """Runs the program as a child of this one; does not return."""
  code = 1
  try:
    os.chdir(folder)
    printed = os.open("printed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.argv = ["distill-jax", *arguments]
    main.run()
    code = 0
  except SystemExit as end:
    code = end.code or 0
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
  assert "jax" not in sys.modules
  print("ready", flush=True)
  for line in sys.stdin:
    child = os.fork()
    if child == 0:
      _run(*json.loads(line))
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
