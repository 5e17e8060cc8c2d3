#!/usr/bin/env bash
# Trains small students on generated questions, plain finetuning against
# distilling step by step, and ends with a table, a plot and a report. Needs
# Python 3.11 with venv and pip, two cores and some seven minutes; arguments go to
# distill-jax, e.g. --gin.TRAIN_STEPS=100.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
set_up_environment "[data]"
.venv/bin/distill-jax --run_mode=sweep \
  --gin_file=gin/models/t5_1_1/tiny.gin \
  --gin_file=gin/experiments/quickstart.gin \
  --gin.MODEL_DIR="'runs/quickstart'" "$@"
