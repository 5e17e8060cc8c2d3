"""Labelling on many machines at once: `--run_mode=label` as a Beam pipeline.

  python3 -m venv .venv-beam
  .venv-beam/bin/pip install uv
  .venv-beam/bin/uv pip install --python .venv-beam/bin/python '.[beam]'
  .venv-beam/bin/python -m distill_jax.runs.label_beam --runner=DirectRunner
    --gin_file=gin/runs/label.gin --gin.INPUT_PATH="'questions-*.jsonl'"
    --gin.OUTPUT_PATH="'labelled'" --gin.TEACHER_MODEL="'some-model'"
    --gin.PROMPT="'svamp'" --num_shards=4

The environment is one of its own: Beam needs an older protobuf than the locked
one. uv, because pip searches for minutes for versions that fit together.

INPUT_PATH may hold * and ?; OUTPUT_PATH is a folder that every worker sees, or
an address such as gs://bucket/folder. Records are written to
records-00000-of-00004.jsonl and so on, summary.json and config.gin beside them.

  --gin_file, --gin.NAME=value, --gin_search_paths, --overwrite
                    as of `distill-jax --run_mode=label`
  --num_shards=N    files of records, and journals that are written side by
                    side; 1 unless given. Each may ask an Nth of
                    MAX_CONCURRENCY, REQUESTS_PER_MINUTE and TOKENS_PER_MINUTE,
                    so all together never ask more. Give as many as there are
                    workers.
  anything else     is Beam's: --runner, --direct_num_workers, --project, ...

The key is read from the workers' environment, and travels in no option. What
was answered is not asked again: not by a bundle that is tried again, not by the
same command given again, and, with OUTPUT_PATH on a disk, not by
`distill-jax --run_mode=label --shard=i/n` in the same OUTPUT_PATH.

Imports Beam when it runs.
"""

import argparse
import os
import pathlib
import signal
import sys
from collections.abc import Sequence

from distill_jax.config import console_logging, gin_bindings
from distill_jax.errors import UserError
from distill_jax.runs import label

_PACKAGE = pathlib.Path(__file__).parents[1]
# Beam passes over a flag it does not know, and all would be asked.
_FLAGS_OF_LABEL = (
  *("--dry_run", "--evaluate", "--rebuild", "--shard", "--run_mode"),
)


def main(arguments: Sequence[str]) -> int:
  """Parses the settings and runs the pipeline; returns the exit code.

  Args:
    arguments: the command's, without its name.

  Returns:
    See `label_pipeline.run`.

  Raises:
    UserError: see there; or a flag or a setting is wrong, or Beam is not
      installed.
  """
  given, beam_arguments = _make_parser().parse_known_args(
    gin_bindings.rewrite_arguments(arguments)
  )
  if not_read := [
    word for word in beam_arguments if word.startswith(_FLAGS_OF_LABEL)
  ]:
    raise UserError(
      f"The pipeline does not read {', '.join(not_read)};"
      " distill-jax --run_mode=label does. Leave it out."
    )
  if strays := [word for word in beam_arguments if not word.startswith("-")]:
    raise UserError(
      f"Unexpected arguments {strays}. Flags are given as --name=value; see"
      " --help."
    )
  if not given.gin_file:
    raise UserError(
      "--gin_file is missing, e.g. --gin_file=gin/runs/label.gin. See --help."
    )
  gin_bindings.parse(
    given.gin_file,
    given.gin_bindings,
    [
      *filter(None, given.gin_search_paths.split(",")),
      os.getcwd(),
      str(_PACKAGE),
      str(_PACKAGE.parent),
    ],
  )
  settings = gin_bindings.build(label.LabelRun)
  try:
    from distill_jax.runs import label_pipeline
  except ImportError as error:
    raise UserError(
      f"Labelling by a pipeline needs Apache Beam ({error}), in an environment"
      " of its own: pip install 'distill_jax[beam]'."
    ) from error
  return label_pipeline.run(
    settings,
    gin_bindings.operative_config(),
    given.overwrite,
    given.num_shards,
    beam_arguments,
  )


def run() -> None:
  """Entry point of the command."""
  console_logging.set_up()
  try:
    sys.exit(main(sys.argv[1:]))
  except UserError as error:
    print(f"distill-jax: {error}", file=sys.stderr)
    sys.exit(2)
  except (KeyboardInterrupt, RuntimeError) as error:
    if not _is_interrupt(error):
      raise
    print(
      "distill-jax: interrupted. A job that was handed to a cluster goes on;"
      f" end it there. {label.GO_ON}",
      file=sys.stderr,
    )
    sys.exit(128 + signal.SIGINT)


def _is_interrupt(error: BaseException) -> bool:
  """Tells whether Ctrl-C is behind an error; Beam wraps what ends a worker."""
  cause: BaseException | None = error
  while cause is not None and not isinstance(cause, KeyboardInterrupt):
    cause = cause.__cause__ or cause.__context__
  return cause is not None


def _make_parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m distill_jax.runs.label_beam",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    # A flag of Beam's may begin like one of ours.
    allow_abbrev=False,
  )
  parser.add_argument("--gin_file", action="append", default=[])
  parser.add_argument("--gin_bindings", action="append", default=[])
  parser.add_argument("--gin_search_paths", default="")
  parser.add_argument("--num_shards", type=int, default=1)
  parser.add_argument("--overwrite", action="store_true")
  return parser


if __name__ == "__main__":
  run()
