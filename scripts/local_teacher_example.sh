#!/usr/bin/env bash
# A real LLM teaches a student, all on this machine: questions -> compare prompts
# -> label -> train -> evaluate. The first start compiles the LLM's server, see
# scripts/local_teacher.sh; after that it takes about ten minutes on two cores.
# What was asked already is not asked again: start it again if it was stopped.
#
#   bash scripts/local_teacher_example.sh
#   MODEL=gemma3 QUESTIONS=50 bash scripts/local_teacher_example.sh
#
# Neither model is a good teacher, and few questions make no good student: this
# shows the path from a question to a student, not what the method can do.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
set_up_environment "[data]"

model=${MODEL:-smollm2} num_questions=${QUESTIONS:-200} port=${PORT:-8091}
folder=runs/local_teacher_$model
python=.venv/bin/python
mkdir -p "$folder"

PORT=$port bash scripts/local_teacher.sh "$model" &
server=$!
trap 'kill "$server" 2> /dev/null || true' EXIT
until "$python" - "$port" <<'PYTHON'
import sys
import urllib.request

try:
  urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/health", timeout=5)
except OSError:
  sys.exit(1)
PYTHON
do
  kill -0 "$server"  # Ends the script if the server ended.
  sleep 2
done

write_questions() {
  [ -e "$folder/$3" ] || "$python" scripts/write_questions.py \
    --dataset=word_problems --split="$1" --limit="$2" --output="$folder/$3"
}
write_questions train "$num_questions" questions.jsonl
write_questions validation 100 validation.jsonl
write_questions test 200 test.jsonl

ask() {
  .venv/bin/distill-jax --run_mode=label --gin_file=gin/runs/label.gin \
    --gin.TEACHER_BASE_URL="'http://127.0.0.1:$port/v1'" \
    --gin.TEACHER_MODEL="'$model'" --gin.PROMPT="'word_problems'" \
    --gin.ENDPOINT="'completions'" --gin.OUTPUT_PATH="'$folder/labelled'" "$@"
}
# Before the budget is spent: which prompt, which temperature?
ask --evaluate --gin.INPUT_PATH="'$folder/validation.jsonl'" \
  --gin.EVALUATE_PROMPTS="('word_problems', 'svamp')" \
  --gin.EVALUATE_TEMPERATURES="(0.0, 0.7)" --gin.EVALUATE_EXAMPLES=20
ask --gin.INPUT_PATH="'$folder/questions.jsonl'" \
  --gin.DROP_EMPTY_RATIONALE=True --gin.MAX_LOOP_SHARE=0.5

# The gold label and the teacher's rationale, as in the paper.
cp "$folder/labelled/records.jsonl" "$folder/train.jsonl"
cat > "$folder/local_teacher_tasks.py" <<PYTHON
from distill_jax.data import datasets
from distill_jax.tasks import register

register.register_dataset(
  datasets.jsonl_dataset(
    "local_teacher", "$folder/{split}.jsonl", metric="equation"
  )
)
PYTHON
PYTHONPATH=$folder .venv/bin/distill-jax --run_mode=train \
  --gin_file=gin/models/t5_1_1/tiny.gin --gin_file=gin/runs/train.gin \
  --gin.MIXTURE_OR_TASK_MODULE="'local_teacher_tasks'" \
  --gin.MIXTURE_OR_TASK_NAME="'local_teacher_distill'" \
  --gin.MODEL_DIR="'$folder/student'" --gin.TRAIN_STEPS=300 \
  --gin.EVAL_PERIOD=100
PYTHONPATH=$folder .venv/bin/distill-jax --run_mode=eval \
  --gin_file=gin/runs/eval.gin --gin.MODEL_DIR="'$folder/student'"
