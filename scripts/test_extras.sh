#!/usr/bin/env bash
# Runs the tests that .venv skips because it lacks their packages.
#
#   bash scripts/test_extras.sh beam        Apache Beam, in .venv-beam
#   bash scripts/test_extras.sh reference   torch and transformers, in .venv-torch
#   bash scripts/test_extras.sh aot         libtpu, in .libtpu beside .venv
#
# Makes the environment first, once; each takes from 0.7 to 5 GB. Further
# arguments go to pytest. The tests marked local_teacher need
# `bash scripts/local_teacher.sh` running and LOCAL_TEACHER_URL naming it.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
set_up_environment "[test]"

suite=${1:-}
[ $# -eq 0 ] || shift
uv=.venv/bin/uv
case $suite in
  beam)
    [ -x .venv-beam/bin/python ] || "$uv" venv -q -p .venv/bin/python .venv-beam
    "$uv" pip install -q --python .venv-beam/bin/python -e '.[beam]' \
      beartype hypothesis pytest
    .venv-beam/bin/python -m pytest -p no:cacheprovider "$@" \
      tests/runs/label_beam_test.py tests/runs/label_pipeline_test.py \
      tests/teacher/apache_beam_job
    ;;
  reference)
    [ -x .venv-torch/bin/python ] ||
      "$uv" venv -q -p .venv/bin/python .venv-torch
    "$uv" pip install -q --python .venv-torch/bin/python \
      -c scripts/constraints.txt -e '.[test]' torch==2.13.0 transformers==5.23.0
    .venv-torch/bin/python -m pytest -p no:cacheprovider "$@" \
      tests/checkpoint/hf_*_test.py tests/checkpoint/model_card_test.py \
      tests/scripts/benchmarks/torch_baseline_test.py
    ;;
  aot)
    # The version that jax[tpu] asks for.
    [ -e .libtpu/libtpu/libtpu.so ] ||
      "$uv" pip install -q --python .venv/bin/python --target .libtpu \
        --no-deps libtpu==0.0.42.1
    TPU_LIBRARY_PATH=$PWD/.libtpu/libtpu/libtpu.so \
      .venv/bin/python -m pytest -p no:cacheprovider -m aot "$@"
    ;;
  *)
    echo "test_extras.sh: '$suite' is no suite; give beam, reference or aot." >&2
    exit 2
    ;;
esac
