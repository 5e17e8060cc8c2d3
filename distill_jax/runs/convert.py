"""Converts checkpoints from one form to another.

  distill-jax-convert --from=hf --to=orbax flan-t5-large/ flan_t5_large
  distill-jax-convert --from=t5x --to=orbax gs://bucket/checkpoint_1000000 t5
  distill-jax-convert --from=orbax --to=hf runs/svamp svamp_student

SRC is a Hugging Face folder (safetensors, sharded or not, or
pytorch_model.bin), a T5X checkpoint (all its forms; local or gs://), or a
checkpoint or MODEL_DIR of distill-jax. DST is a new folder; it appears when it
is complete. Beside the weights it holds model.gin, the gin file of that model,
and the vocabulary where SRC has one:

  distill-jax --run_mode=train --gin_file=flan_t5_large/model.gin
    --gin_file=gin/runs/train.gin --gin.VOCAB_PATH="'flan_t5_large'"
    --gin.INITIAL_CHECKPOINT_PATH="'flan_t5_large'" ...

Training starts from a Hugging Face folder or a T5X checkpoint directly, too;
converting once saves the work of doing so each time.
"""

import argparse
import logging
import resource
import sys
import time
from collections.abc import Sequence

from distill_jax.config import console_logging, interrupts
from distill_jax.errors import UserError
from distill_jax.student.conversion import DTYPES, FORMATS, convert

# Run as a module, `__name__` would not be below the package.
_log = logging.getLogger("distill_jax.runs.convert")


def main(arguments: Sequence[str]) -> None:
  """Converts as the command line says.

  Args:
    arguments: of the command, its name left out.

  Raises:
    UserError: see `convert`.
  """
  parsed = _make_parser().parse_args(arguments)
  started = time.perf_counter()
  stored = convert(**vars(parsed))
  peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  _log.info(
    "Wrote %s: %s, %d tensors as %s in %.1f s, peak memory %.2f GB",
    parsed.destination,
    parsed.destination_format,
    len(stored.tensors),
    parsed.dtype,
    time.perf_counter() - started,
    peak_bytes / 1e9,
  )


def run() -> None:
  """Entry point of the `distill-jax-convert` command."""
  console_logging.set_up()
  interrupts.raise_on_signals()
  try:
    main(sys.argv[1:])
  except UserError as error:
    print(f"distill-jax-convert: {error}", file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt as interrupt:
    end = str(interrupt) or "nothing was written."
    print(f"distill-jax-convert: stopped; {end}", file=sys.stderr)
    sys.exit(interrupts.exit_code(interrupt))


def _make_parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="distill-jax-convert",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("source", metavar="SRC", help="checkpoint to read")
  parser.add_argument("destination", metavar="DST", help="folder to make")
  parser.add_argument(
    "--from",
    dest="source_format",
    choices=FORMATS,
    help="form of SRC (default: as its files tell)",
  )
  parser.add_argument(
    "--to",
    dest="destination_format",
    choices=FORMATS,
    default="orbax",
    help="form of DST (default: orbax)",
  )
  parser.add_argument(
    "--dtype",
    choices=list(DTYPES),
    default="float32",
    help="type of the weights in DST (default: float32)",
  )
  parser.add_argument(
    "--vocab_path",
    help="sentencepiece model to put beside the weights, or a folder with"
    " spiece.model (default: the one found with SRC)",
  )
  parser.add_argument(
    "--overwrite",
    action="store_true",
    help="replace DST, if it is an earlier conversion",
  )
  return parser


if __name__ == "__main__":
  run()
