"""MODEL_DIR: begun anew, continued, or refused; nothing lost by accident.

`check` only looks; `begin` writes, and is called when nothing else can refuse
the run any more; both are for process 0. `check_shared` is for all.
"""

import logging
import os
import pathlib
import shutil
import time

from distill_jax.errors import UserError
from distill_jax.files import atomic
from distill_jax.hosts import distributed
from distill_jax.run_folder import run_lock, run_record

_log = logging.getLogger(__name__)

# What runs write: all that --overwrite removes; run.json, which marks the
# folder, it replaces.
_RUN_FILES = (
  "config*.gin",
  "vocabulary.model",
  "metrics*.jsonl",
  "events.*",
  "validation/*/events.*",
  "checkpoints",
  "nonfinite",
  "eval",
)
# What is made of a program's own records, before the run begins.
TOKEN_CACHE = "token_cache"


def check(
  folder: pathlib.Path, record: run_record.RunRecord, overwrite: bool
) -> bool:
  """Says whether the folder holds this run, to be continued.

  Args:
    folder: MODEL_DIR.
    record: of the run that wants it.
    overwrite: a run that is there will be replaced.

  Returns:
    Whether to resume.

  Raises:
    UserError: another run is there, or files of something else; or SLURM gave
      a command with --overwrite again.
  """
  found = run_record.read_record(folder)
  if found is not None:
    if not overwrite:
      run_record.check_resumable(found, record, folder)
    elif os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
      raise UserError(
        "SLURM has requeued this job, and --overwrite would remove what it"
        f" saved in MODEL_DIR {folder}. Leave --overwrite out of jobs that are"
        " requeued: without it the run goes on."
      )
    return not overwrite
  if not folder.exists():
    return False
  if not folder.is_dir():
    raise UserError(f"MODEL_DIR {folder} is a file. Give a folder.")
  if any(
    path.suffix != atomic.UNFINISHED
    and path.name not in (run_lock.FILE, TOKEN_CACHE)
    for path in folder.iterdir()
  ):
    raise UserError(
      f"MODEL_DIR {folder} has files but no run in it. Give an empty or new"
      " folder."
    )
  return False


def begin(
  folder: pathlib.Path,
  record: run_record.RunRecord,
  operative_config: str,
  vocabulary: str | None,
) -> None:
  """Begins a run in a folder, in the place of one that may be there.

  Args:
    folder: MODEL_DIR, which `check` has allowed.
    record: of the run. Its file marks the folder and is written first; a kill
      before leaves none, or that of the run before, and --overwrite begins
      again. What a kill behind it leaves out, `note_resume` writes.
    operative_config: gin text.
    vocabulary: file to keep a copy of; None for bytes.

  Raises:
    UserError: the folder cannot be written.
  """
  try:
    for pattern in _RUN_FILES:
      for path in folder.glob(pattern):
        _log.warning("--overwrite: removing %s", path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder)
    if vocabulary is not None:
      run_record.keep_vocabulary(folder, vocabulary)
    atomic.write_text(folder / "config.gin", operative_config)
  except OSError as error:
    raise UserError(f"MODEL_DIR cannot be written: {error}") from error


def check_shared(
  folder: pathlib.Path,
  record: run_record.RunRecord,
  wait_seconds: float = 60.0,
) -> None:
  """Refuses a MODEL_DIR that is not the same folder for all processes.

  Args:
    folder: MODEL_DIR, in which process 0 has begun or found the run.
    record: of the run.
    wait_seconds: a file may come into a network's folder so much later.

  Raises:
    UserError: in every process, if one does not see the run.
  """
  if distributed.process_count() == 1:
    return
  deadline, problem = time.monotonic() + wait_seconds, ""
  while problem is not None:
    try:
      found = run_record.read_record(folder)
      problem = "it holds no run" if found is None else None
      if found is not None:
        run_record.check_resumable(found, record, folder)
    except UserError as error:
      problem = str(error)
    if time.monotonic() > deadline:
      break
    time.sleep(0.0 if problem is None else 0.5)
  distributed.agree(
    "MODEL_DIR seen",
    problem
    and f"MODEL_DIR {folder} is not what process 0 has there: {problem}. Give a"
    " folder that all hosts share, on NFS for instance.",
  )


def note_resume(
  folder: pathlib.Path,
  operative_config: str,
  start_step: int,
  vocabulary: str | None = None,
) -> None:
  """Keeps the settings of a resumed run beside those it was begun with.

  Writes what is missing where the run was killed while it began.

  Args:
    folder: MODEL_DIR.
    operative_config: gin text now; written where it differs from config.gin.
    start_step: goes into the file's name.
    vocabulary: see `begin`.

  Raises:
    UserError: the folder cannot be written.
  """
  try:
    first = folder / "config.gin"
    if vocabulary is not None and run_record.vocabulary_path(folder) is None:
      run_record.keep_vocabulary(folder, vocabulary)
    if not first.exists():
      atomic.write_text(first, operative_config)
    elif first.read_text() != operative_config:
      atomic.write_text(
        folder / f"config-from-step-{start_step}.gin", operative_config
      )
  except OSError as error:
    raise UserError(f"MODEL_DIR cannot be written: {error}") from error
