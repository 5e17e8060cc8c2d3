"""Tests of runs/sweep_cells.py: each run as gin builds it, mistakes named."""

from unittest import mock

import numpy as np
import pytest
import toy_sweep

import gin
from distill_jax.config import gin_bindings
from distill_jax.errors import UserError
from distill_jax.objective.objective import make_step_by_step
from distill_jax.runs import sweep_cells

TASK = {"MIXTURE_OR_TASK_NAME": "toy_distill"}


@pytest.fixture(name="data", autouse=True)
def fixture_data(tmp_path):
  with toy_sweep.toy_data(tmp_path / "cache"):
    yield


def make_cells(folder, **changes):
  settings, _ = toy_sweep.build(folder, **changes)
  arms = sweep_cells.read_arms(settings.arms, settings.sizes, settings.seeds)
  return sweep_cells.make_cells(arms, folder)


def test_an_arm_has_its_own_rate_weight_steps_rows_sizes_and_seeds(tmp_path):
  cells = make_cells(
    tmp_path,
    SIZES=(4, 8),
    SEEDS=(0, 1),
    ARMS={
      "a": TASK,
      "b c": {
        **TASK,
        "LEARNING_RATE": 0.5,
        "RATIONALE_LOSS_WEIGHT": 4.0,
        "TRAIN_STEPS": 7,
        "BATCH_SIZE": 3,
        "MAX_GRAD_NORM": None,
        "SIZES": (8,),
        "SEEDS": (1, 2),
        "EVAL_TASK": "toy_other",
      },
    },
  )
  assert [cell.folder_name for cell in cells] == [
    "a-4-seed0", "a-4-seed1", "a-8-seed0", "a-8-seed1", "b-c-8-seed1",
    "b-c-8-seed2",
  ]  # fmt: skip
  first, last = cells[0].settings, cells[-1].settings
  assert (first.seed, first.feed.seed, first.feed.batch_rows) == (0, 0, 8)
  assert (last.seed, last.feed.seed, last.feed.batch_rows) == (2, 2, 3)
  assert (last.train_steps, last.learning_rate(0)) == (7, 0.5)
  assert last.objective == make_step_by_step(4.0)
  assert (first.train_steps, first.learning_rate(0)) == (1, np.float32(0.01))
  assert last.data.subsample == 0.08
  assert last.model_dir == str(tmp_path / "b-c-8-seed2")
  assert [cells[0].eval_task, cells[-1].eval_task] == ["toy_label", "toy_other"]
  assert cells[-1].work == 21
  # Seeds of an arm share what decides their programs.
  assert cells[-1].settings.optimizer is cells[-2].settings.optimizer


def test_each_size_has_seeds_of_its_own(tmp_path):
  arms = {"a": TASK, "b": {**TASK, "SEEDS": {8: (3, 4)}}}
  seeds = {4: (0, 1), 8: (2,)}
  read = sweep_cells.read_arms(arms, (4, 8), seeds)
  assert [arm.seeds for arm in read] == [{4: [0, 1], 8: [2]}, {8: [3, 4]}]
  toy_sweep.parse(tmp_path, ARMS=arms)
  cells = sweep_cells.make_cells(read, tmp_path)
  assert [(cell.arm.name, cell.size, cell.seed) for cell in cells] == [
    ("a", 4, 0), ("a", 4, 1), ("a", 8, 2), ("b", 8, 3), ("b", 8, 4),
  ]  # fmt: skip
  # An arm compiles once for all of its sizes.
  assert cells[0].settings.optimizer is cells[2].settings.optimizer


def test_what_the_sweep_says_is_as_before_and_each_text_is_its_runs(tmp_path):
  settings, text = toy_sweep.build(tmp_path)
  arms = sweep_cells.read_arms(settings.arms, (4,), (5,))
  cells = sweep_cells.make_cells(arms, tmp_path)
  assert gin_bindings.operative_config() == text
  assert gin.query_parameter("SEED/gin.macro.value") == 0
  assert "SEED = 5" in cells[1].gin_text
  assert "'toy_distill'" in cells[1].gin_text
  assert "ARMS" not in cells[1].gin_text
  assert cells[1].gin_text.startswith(
    "# One run of a sweep: 'distilled <b>, 4 examples, seed 5'."
  )


@pytest.mark.parametrize(
  ("arm", "message"),
  [
    (
      {**TASK, "LEARNING_RATEZ": 1e-3},
      "Arm 'bad': no gin file given knows LEARNING_RATEZ. Did you mean LEARNI",
    ),
    ({**TASK, "SEEDZ": (0,)}, "Arm 'bad': .* knows SEEDZ. Did you mean SEED"),
    (
      {**TASK, "BATCH_SIZE": "8"},
      "Arm 'bad': BATCH_SIZE is '8'; it must be a whole number.*quotes out",
    ),
    ({**TASK, "BATCH_SIZE": 0}, "Arm 'bad': BATCH_SIZE is 0"),
    ({**TASK, "SCHEDULE": "x"}, "Arm 'bad': SCHEDULE is 'x'"),
    ({**TASK, "TITLE": "x"}, "Arm 'bad': nothing reads TITLE with these"),
    ({**TASK, "SEED": 3}, r"ARMS\['bad'\] has SEED; leave it out: give SEEDS"),
    ({**TASK, "MODEL_DIR": "x"}, r"ARMS\['bad'\] has MODEL_DIR"),
    ({**TASK, "SIZES": 4}, r"ARMS\['bad'\]: SIZES is 4; it must be a list"),
    ({**TASK, "SEEDS": ()}, r"ARMS\['bad'\]: SEEDS is \(\); .* at least one"),
    ({**TASK, "SEEDS": (0, 0)}, r"ARMS\['bad'\]: SEEDS has one of .* twice"),
    ({**TASK, "SEEDS": (-1,)}, r"ARMS\['bad'\]: SEEDS is .* numbers >= 0"),
    (
      {**TASK, "SIZES": (4, 8), "SEEDS": {4: (0,)}},
      r"ARMS\['bad'\]: SEEDS is \{4: \(0,\)\}, without seeds for 8",
    ),
    ({**TASK, "SEEDS": {4: 0}}, r"ARMS\['bad'\]: SEEDS\[4\] is 0; it must be"),
    ({**TASK, "EVAL_TASK": 3}, r"ARMS\['bad'\]: EVAL_TASK is 3"),
    (
      {"MIXTURE_OR_TASK_NAME": "word_problems_rationale"},
      "Arm 'bad': .*'word_problems_rationale', which has no label task",
    ),
    (
      {
        "MIXTURE_OR_TASK_NAME": "word_problems_distill",
        "EVAL_TASK": "word_problems_labl",
      },
      "Arm 'bad': EVAL_TASK is 'word_problems_labl'; the label task of",
    ),
  ],
)
def test_a_mistake_in_an_arm_is_named(tmp_path, arm, message):
  before = None
  with pytest.raises(UserError, match=f"(?s){message}"):
    toy_sweep.parse(tmp_path, ARMS={"bad": arm})
    before = gin.query_parameter("BATCH_SIZE/gin.macro.value")
    make_cells(tmp_path, ARMS={"good": TASK, "bad": arm})
  assert gin.query_parameter("BATCH_SIZE/gin.macro.value") == before == 8


@pytest.mark.parametrize(
  ("arms", "message"),
  [
    ({}, r"ARMS is \{\}"),
    ((("a", "b", "b", 8),), r"ARMS is \(\('a'"),
    ({"a": 3}, r"ARMS\['a'\] is 3; it must be a dictionary"),
    ({"a": {3: 4}}, r"ARMS\['a'\] is \{3: 4\}"),
    ({"-": {}}, "'-'.: an arm's name needs a letter"),
    ({"A b": {}, "a-B": {}}, "'A b' and 'a-B', whose runs would share"),
  ],
)
def test_arms_that_are_none_are_named(arms, message):
  with pytest.raises(UserError, match=message):
    sweep_cells.read_arms(arms, (4,), (0,))


def test_a_data_set_that_does_not_load_is_kept_for_its_own_runs(tmp_path):
  def resize(data, task, size):
    if task == "toy_finetune":
      raise ValueError("row 3")
    return data

  with mock.patch.object(sweep_cells, "_resize", resize):
    plain, other = make_cells(tmp_path)
  assert (plain.settings, str(plain.error), plain.work) == (None, "row 3", 0)
  assert (other.settings is None, other.error) == (False, None)


def test_arms_that_differ_in_data_alone_share_an_optimizer(tmp_path):
  plain, shuffled, fast = make_cells(
    tmp_path,
    SIZES=(4,),
    SEEDS=(0,),
    ARMS={
      "plain": TASK,
      "shuffled": {**TASK, "SHUFFLE_RATIONALES": True},
      "fast": {**TASK, "LEARNING_RATE": 0.5},
    },
  )
  assert plain.settings.optimizer is shuffled.settings.optimizer
  assert shuffled.settings.data.shuffle_rationales
  assert plain.settings.optimizer is not fast.settings.optimizer
  assert fast.settings.learning_rate(0) == 0.5
