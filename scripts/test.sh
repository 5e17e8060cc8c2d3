#!/usr/bin/env bash
# Installs the tests' dependencies into .venv and runs style, types and tests;
# arguments go to pytest, e.g. tests/model, or -m slow for the long ones.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
set_up_environment "[test]"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/pyright --pythonpath .venv/bin/python
.venv/bin/python -m pytest -n 2 "$@"
