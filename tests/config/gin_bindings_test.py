"""Tests of config/gin_bindings.py: what is mistyped, and what is told."""

import pathlib

import pytest

import gin
from distill_jax.config import gin_bindings
from distill_jax.errors import UserError
from distill_jax.objective import objective as objective_lib
from distill_jax.runs import infer, train

_ROOT = pathlib.Path(__file__).parents[2]
_FILES = ("gin/models/t5_1_1/tiny.gin", "gin/runs/train.gin")
_REQUIRED = {
  "MIXTURE_OR_TASK_NAME": "'word_problems_distill'",
  "MODEL_DIR": "'/tmp/run'",
  "TRAIN_STEPS": "300",
}
_BINDINGS = tuple(f"{name} = {value}" for name, value in _REQUIRED.items())


@pytest.fixture(autouse=True)
def fixture_clean_gin(monkeypatch):
  monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", [""])
  gin.clear_config()
  yield
  gin.clear_config()


def _build(*bindings, files=_FILES, settings_class=train.TrainRun, folders=()):
  gin_bindings.parse(files, bindings, [*map(str, folders), str(_ROOT)])
  return gin_bindings.build(settings_class)


def _write(folder, content, name="mine.gin"):
  path = folder / name
  path.write_text(content)
  return str(path)


def test_t5x_arguments_are_rewritten():
  assert gin_bindings.rewrite_arguments(
    [
      "prog",
      "--gin.TRAIN_STEPS=300",
      "--gin.MODEL_DIR='a=b'",
      "--gin.train.TrainRun.seed=1",
      "--gin.NOTES=(\n'a',)",
      "--gin_file=a.gin",
      "--gin.TRAIN_STEPS",
      "x--gin.A=1",
    ]
  ) == [
    "prog",
    "--gin_bindings=TRAIN_STEPS = 300",
    "--gin_bindings=MODEL_DIR = 'a=b'",
    "--gin_bindings=train.TrainRun.seed = 1",
    "--gin_bindings=NOTES = (\n'a',)",
    "--gin_file=a.gin",
    "--gin.TRAIN_STEPS",
    "x--gin.A=1",
  ]


def test_bindings_override_files_and_later_files_earlier_ones(tmp_path):
  path = _write(tmp_path, "SEED = 5\nBATCH_SIZE = 8\n")
  settings = _build(*_BINDINGS, "BATCH_SIZE = 16", files=(*_FILES, path))
  assert (settings.seed, settings.feed.seed) == (5, 5)
  assert settings.feed.batch_rows == 16
  assert settings.train_steps == 300


def test_a_parameter_may_be_bound_without_a_macro():
  settings = _build(*_BINDINGS, "train.TrainRun.seed = 7")
  assert (settings.seed, settings.feed.seed) == (7, 0)


@pytest.mark.parametrize(
  "macro, value, expected",
  [
    ("MODEL_DIR", "/tmp/run", "/tmp/run"),
    ("MODEL_DIR", "'/tmp/run'", "/tmp/run"),
    ("MODEL_DIR", '"/tmp/run"', "/tmp/run"),
    ("MODEL_DIR", "/tmp/it's a run#1=2", "/tmp/it's a run#1=2"),
    ("MODEL_DIR", "gs://bucket/run", "gs://bucket/run"),
    ("MIXTURE_OR_TASK_NAME", "svamp_distill", "svamp_distill"),
    ("ON_NONFINITE_LOSS", "skip", "skip"),
    ("INITIAL_CHECKPOINT_PATH", "None", None),
    ("EVAL_PERIOD", "7", 7),
  ],
)
def test_a_text_needs_no_quotes(macro, value, expected):
  bindings = [each for each in _BINDINGS if not each.startswith(macro)]
  settings = _build(*bindings, f"{macro} = {value}")
  assert getattr(settings, macro.lower()) == expected


def test_a_text_by_way_of_another_macro_needs_no_quotes(tmp_path):
  path = _write(tmp_path, "WHERE = 'a'\nMODEL_DIR = %WHERE\n")
  bindings = [each for each in _BINDINGS if "MODEL_DIR" not in each]
  settings = _build(*bindings, "WHERE = /tmp/b", files=(*_FILES, path))
  assert settings.model_dir == "/tmp/b"


_QUOTES = "Texts need quotes inside a list"


@pytest.mark.parametrize(
  "binding, told",
  [
    ("TRAIN_STEPZ = 3", "knows TRAIN_STEPZ. Did you mean TRAIN_STEPS?"),
    ("QQQ = 3", "no gin file given knows QQQ. They know: ACTIVATION_DTYPE, "),
    (
      "train.TrainRun.train_stepz = 3",
      "--gin.train.TrainRun.train_stepz=3: Configurable 'train.TrainRun'"
      " doesn't have a parameter named 'train_stepz'.",
    ),
    ("nowhere.Run.x = 3", "--gin.nowhere.Run.x=3: No configurable matching"),
    ("MODEL_DIR = 'run", f"--gin.MODEL_DIR='run: .*{_QUOTES}"),
    ("MESH = fsdp", f"--gin.MESH=fsdp: .*{_QUOTES}"),
    ("TEACHER_PARSE = loose", "TEACHER_PARSE is 'loose'; it must be one of"),
    ("MODEL_DIR = ", f"--gin.MODEL_DIR=: .*{_QUOTES}"),
    ("SEED = 1 + 1", f"--gin.SEED=1 . 1: .*{_QUOTES}"),
    ("TRAIN_STEPS = '300'", "TRAIN_STEPS is '300'; it must be a whole number"),
    ("DROPOUT_RATE = 2.0", "DROPOUT_RATE is 2.0; it is a probability"),
    ("BATCH_SIZE = 0", "BATCH_SIZE is 0; it must be a whole number >= 1"),
    ("LEARNING_RATE = 'x'", "LEARNING_RATE is 'x'; it must be a number."),
    (
      "LEARNING_RATE = '3e-3'",
      "LEARNING_RATE is '3e-3'; it must be a number. Leave the quotes out.",
    ),
    ("LEARNING_RATE = 0", "LEARNING_RATE is 0; it must be a number above 0"),
    ("LEARNING_RATE = 1e999", "LEARNING_RATE is inf; it must be a number"),
    ("LEARNING_RATE = True", "LEARNING_RATE is True; it must be a number"),
    ("EVAL_PERIOD = True", "EVAL_PERIOD is True; it must be a whole number"),
    ("EVAL_PERIOD = 10.0", "EVAL_PERIOD is 10.0; it must be a whole number"),
    ("MODEL_DIR = 3", "MODEL_DIR is 3; it must be a text in quotes"),
    ("MODEL_DIR = ''", "MODEL_DIR is ''; it must be a text that is not empty"),
    ("PACKED = 1", "PACKED is 1; it must be True or False"),
    ("MESH = 8", "MESH is 8; it must be a dictionary of texts in quotes to wh"),
    ("SPLITS = 'train'", "SPLITS is 'train'; it must be a list of texts in qu"),
    ("TEACHER_PARSE = 'x'", "TEACHER_PARSE is 'x'; it must be one of 'strict'"),
    ("MAX_GRAD_NORM = 0", "MAX_GRAD_NORM is 0; it must be a number above 0"),
    ("SUBSAMPLE_SEED = -1", "SUBSAMPLE_SEED is -1; it must be a whole number"),
    ("SHUFFLE_RATIONALES = 'yes'", "SHUFFLE_RATIONALES"),
    ("Z_LOSS = -1.0", "Z_LOSS is -1.0; a weight is a number, 0 or more"),
    (
      "SCHEDULE = 'x'",
      "SCHEDULE is 'x'; it must be one of 'constant'",
    ),
    (
      "OPTIMIZER = 'adamw'",
      "OPTIMIZER is 'adamw'; it must be a Gradient",
    ),
    (
      "LEARNING_RATE_SCHEDULE = 'cosine'",
      "LEARNING_RATE_SCHEDULE is 'cosine'; it must be what a gin file makes",
    ),
    (
      "train.TrainRun.seed = '7'",
      r"train.TrainRun.seed is '7'; it must be a whole number. Leave the quot",
    ),
    ("SEED = %gin.REQUIRED", "Missing: --gin.SEED=VALUE"),
    ("SEED = %OTHER", "Missing: --gin.OTHER=VALUE"),
  ],
)
def test_a_bad_binding_is_named(binding, told):
  with pytest.raises(UserError, match=told) as raised:
    _build(*_BINDINGS, binding)
  # Neither gin's account of its calls nor addresses of Python objects.
  assert "\n" not in str(raised.value)
  assert "0x" not in str(raised.value)


def test_everything_missing_is_named_at_once():
  with pytest.raises(UserError) as raised:
    _build(files=_FILES[1:])
  assert str(raised.value).splitlines() == [
    "No model was given. Put a model's gin file before the run's, e.g."
    " --gin_file=gin/models/t5_1_1/tiny.gin.",
    "Missing: --gin.MIXTURE_OR_TASK_NAME=VALUE --gin.MODEL_DIR=VALUE"
    " --gin.TRAIN_STEPS=VALUE.",
  ]


@pytest.mark.parametrize("name", _REQUIRED)
def test_each_required_macro_is_required(name):
  with pytest.raises(UserError, match=f"^Missing: --gin.{name}=VALUE\\.$"):
    _build(*(b for b in _BINDINGS if not b.startswith(name)))


def test_a_model_that_gives_too_little_is_named():
  family = "gin/models/t5_1_1/family.gin"
  with pytest.raises(UserError, match="of 'T5Config' do not fit.*'embed_dim'"):
    _build(*_BINDINGS, files=(family, _FILES[1]))


def test_settings_that_nothing_reads_are_named(tmp_path):
  path = _write(
    tmp_path,
    "from __gin__ import dynamic_registration\n"
    "from distill_jax.optim import factory\n"
    "MY_MACRO = 3\n"
    "factory.adamw.weight_decay = 0.1\n",
  )
  with pytest.raises(
    UserError,
    match="reads these settings: MY_MACRO, distill_jax.optim.factory.adamw.wei",
  ):
    _build(*_BINDINGS, files=(*_FILES, path))


def test_what_is_read_under_another_name_is_unread(tmp_path):
  path = _write(
    tmp_path,
    "from __gin__ import dynamic_registration\n"
    "from distill_jax.runs import train\n"
    "elsewhere/train.TrainRun.seed = 1\n",
  )
  with pytest.raises(UserError, match="reads these settings: .*TrainRun.seed"):
    _build(*_BINDINGS, files=(*_FILES, path))


def test_a_default_gives_way_to_what_was_set():
  gin_bindings.parse(["gin/runs/infer.gin"], [], [str(_ROOT)])
  gin_bindings.set_default("MODEL_CONFIG", "None")
  gin_bindings.set_default("NUM_BEAMS", "4")
  gin.parse_config("INPUT_PATH = 'a'\nOUTPUT_PATH = 'b'")
  settings = gin_bindings.build(infer.InferRun)
  assert settings == infer.InferRun("a", "b", mesh={"data": -1})


# --- Choices that are replaced -----------------------------------------------

_OWN = (
  "from __gin__ import dynamic_registration\n"
  "from distill_jax.optim import schedules\n"
  "include 'gin/runs/train_adamw.gin'\n"
)
_OWN_RATE = (
  "LEARNING_RATE_SCHEDULE = @schedules.rsqrt_decay()\n"
  "schedules.rsqrt_decay:\n"
  "  learning_rate = %LEARNING_RATE\n"
  "  warmup_steps = 4\n"
)


def test_a_file_may_replace_the_schedule_of_one_that_it_includes(tmp_path):
  path = _write(tmp_path, _OWN + _OWN_RATE)
  settings = _build(*_BINDINGS, files=(_FILES[0], path))
  assert float(settings.learning_rate(16)) == pytest.approx(5e-5 / 2)
  # What nothing reads is not in the text that builds the same again.
  text = gin_bindings.operative_config()
  assert "make_schedule" not in text
  gin.clear_config()
  again = _build(files=(_write(tmp_path, text, "config.gin"),))
  assert float(again.learning_rate(16)) == pytest.approx(5e-5 / 2)


def test_a_later_file_may_replace_the_optimizer(tmp_path):
  path = _write(
    tmp_path,
    "from __gin__ import dynamic_registration\n"
    "from distill_jax.optim import factory\n"
    "OPTIMIZER = @factory.adamw()\n"
    "factory.adamw.learning_rate = %LEARNING_RATE_SCHEDULE\n",
  )
  assert _build(*_BINDINGS, files=(*_FILES, path)).optimizer


@pytest.mark.parametrize("is_bound", [True, False])
def test_what_is_set_beside_the_replacement_must_be_read(tmp_path, is_bound):
  own = "" if is_bound else "WARMUP_STEPS = 3\n"
  bindings = ("WARMUP_STEPS = 3",) if is_bound else ()
  path = _write(tmp_path, _OWN + own + _OWN_RATE)
  with pytest.raises(UserError, match="reads these settings: WARMUP_STEPS"):
    _build(*_BINDINGS, *bindings, files=(_FILES[0], path))


def test_a_replacement_excuses_nothing_else(tmp_path):
  path = _write(tmp_path, f"{_OWN}{_OWN_RATE}schedules.constant.warmup_steps=1")
  with pytest.raises(UserError, match="settings: .*constant.warmup_steps"):
    _build(*_BINDINGS, files=(_FILES[0], path))
  gin.clear_config()
  _write(tmp_path, "IDLE = 1\ninclude 'gin/runs/train.gin'\n", "base.gin")
  path = _write(tmp_path, "include 'base.gin'\nSEED = 4\n")
  with pytest.raises(UserError, match="Nothing reads these settings: IDLE"):
    _build(*_BINDINGS, files=(_FILES[0], path), folders=(tmp_path,))


@pytest.mark.parametrize("run", ["train", "train_adamw"])
@pytest.mark.parametrize(
  "name, rate",
  [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5), ("rsqrt", 0.1**0.5)],
)
def test_a_schedule_is_chosen_on_the_command_line(run, name, rate):
  settings = _build(
    *_BINDINGS,
    f"SCHEDULE = {name!r}",
    "WARMUP_STEPS = 20",
    "TRAIN_STEPS = 380",
    "LEARNING_RATE = 1.0",
    files=(_FILES[0], f"gin/runs/{run}.gin"),
  )
  assert float(settings.learning_rate(200)) == pytest.approx(rate)
  assert float(settings.learning_rate(10)) == pytest.approx(0.5)


def test_an_object_is_bound_on_the_command_line():
  settings = _build(
    *_BINDINGS,
    "LEARNING_RATE_SCHEDULE = @schedules.constant()",
    "schedules.constant.learning_rate = 0.25",
  )
  assert settings.learning_rate(7) == 0.25


# --- Files ------------------------------------------------------------------


def test_an_unknown_file_is_named_with_where_it_was_sought(tmp_path, caplog):
  with pytest.raises(UserError) as raised:
    gin_bindings.parse(["gin/trian.gin"], [], [str(tmp_path)] * 2)
  assert str(raised.value) == (
    f"There is no gin file gin/trian.gin in {tmp_path}. Correct its path, or"
    " add the folder it starts from with --gin_search_paths."
  )
  assert caplog.records == []


def test_a_file_that_includes_an_unknown_one_is_named(tmp_path):
  path = _write(tmp_path, "include 'absent.gin'\n")
  with pytest.raises(UserError, match=f"absent.gin, which {path} includes"):
    gin_bindings.parse([path], [], [str(tmp_path)])


def test_a_file_of_the_last_folder_is_found_silently(tmp_path, caplog):
  _write(tmp_path, "", "elsewhere.gin")
  gin_bindings.parse(["elsewhere.gin"], [], [str(_ROOT), str(tmp_path)])
  assert caplog.records == []


@pytest.mark.parametrize(
  "content, told",
  [
    ("SEED = \n", r"mine.gin cannot be read: .*mine.gin. line 1"),
    ("A = 1\nimport absent_module\n", "mine.gin cannot be read: No module"),
    (
      "from __gin__ import dynamic_registration\n"
      "from distill_jax.objective import objective as distill\n"
      "distill.Objective.z_los = 1\n",
      r"(?s)mine.gin cannot be read: .*parameter named 'z_los'.*line 3",
    ),
  ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, content, told):
  path = _write(tmp_path, content)
  with pytest.raises(UserError, match=told):
    gin_bindings.parse([path], [], [])


# --- The operative configuration --------------------------------------------


def _without_functions(settings):
  """Fields of the settings; schedules and optimizers are made anew."""
  fields = dict(vars(settings))
  return {
    name: fields[name]
    for name in fields
    if name not in ("learning_rate", "optimizer")
  }


@pytest.mark.parametrize("run", ["train", "train_adamw"])
def test_operative_configuration_builds_the_same_again(tmp_path, run):
  first = _build(
    *_BINDINGS,
    "LEARNING_RATE = 0.25",
    "WORD_PROBLEMS = {'seed': 3}",
    "ANIMAL_LEGS = {'num_train_examples': 125}",
    "SHUFFLE_RATIONALES = True",
    'LABEL_PREFIX = "it\'s:\\n"',
    "RATIONALE_LOSS_WEIGHT = 1e-05",
    files=(_FILES[0], f"gin/runs/{run}.gin"),
  )
  text = gin_bindings.operative_config()
  gin.clear_config()
  second = _build(files=(_write(tmp_path, text, "config.gin"),))
  assert _without_functions(second) == _without_functions(first)
  assert second.data.label_prefix == "it's:\n"
  assert second.data.shuffle_rationales
  assert second.data.animal_legs == {"num_train_examples": 125}
  assert second.objective == objective_lib.make_step_by_step(
    rationale_loss_weight=1e-5
  )
  assert second.learning_rate(0) == first.learning_rate(0) == 0.25
  assert gin_bindings.operative_config() == text


def test_paths_are_kept_so_that_they_are_true_anywhere(tmp_path, monkeypatch):
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  monkeypatch.setenv("HOME", "/home/me")
  given = {
    "MODEL_DIR": ("runs/a", f"{tmp_path}/here/runs/a"),
    "DATA_DIR": ("../data", f"{tmp_path}/data"),
    "CACHE_DIR": ("~/cache", "/home/me/cache"),
    "INITIAL_CHECKPOINT_PATH": ("gs://bucket/a", "gs://bucket/a"),
    "VOCAB_PATH": ("bytes", "bytes"),
  }
  bindings = [b for b in _BINDINGS if not b.startswith("MODEL_DIR")]
  bindings += [f"{name} = {value!r}" for name, (value, _) in given.items()]
  first = _build(*bindings)
  text = gin_bindings.operative_config()
  for _, expected in given.values():
    assert repr(expected) in text
  config = _write(tmp_path, text, "config.gin")
  gin.clear_config()
  monkeypatch.chdir("/")
  again = _build(files=(config,))
  assert _without_functions(again) == _without_functions(first)
  assert gin_bindings.operative_config() == text


def test_a_vocabulary_is_a_path_too(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  settings = _build(*_BINDINGS, "VOCAB_PATH = 'my.model'")
  assert settings.data.vocab_path == str(tmp_path / "my.model")


def test_a_run_is_built_with_other_values_and_nothing_else_changes(tmp_path):
  """Also when it fails; paths are made absolute there too."""
  built = _build(*_BINDINGS)
  text = gin_bindings.operative_config()
  other, other_text = gin_bindings.build_with(
    train.TrainRun, {"SEED": 5, "INITIAL_CHECKPOINT_PATH": "x/y"}
  )
  assert (built.seed, other.seed, other.feed.seed) == (0, 5, 5)
  assert other.initial_checkpoint_path == f"{pathlib.Path.cwd()}/x/y"
  assert "SEED = 5" in other_text
  for macros, told in (
    ({"SEED": "x"}, "SEED is 'x'; it must be a whole number"),
    ({"SEED": -1}, "SEED is -1"),
    ({"SEEED": 1}, "knows SEEED. Did you mean SEED"),
    ({"SEED": object()}, "SEED is <object .* it must be a number, a text"),
  ):
    with pytest.raises(UserError, match=told):
      gin_bindings.build_with(train.TrainRun, macros)
    assert gin_bindings.operative_config() == text
  gin.clear_config()
  path = _write(tmp_path, other_text)
  assert _build(files=(path,)).seed == 5


def test_a_value_that_nothing_reads_is_refused(tmp_path):
  path = _write(
    tmp_path,
    "include 'gin/runs/train_adamw.gin'\nOPTIMIZER = @factory.adafactor()\n"
    "from __gin__ import dynamic_registration\n"
    "from distill_jax.optim import factory\n"
    "factory.adafactor.learning_rate = %LEARNING_RATE_SCHEDULE\n",
  )
  _build(*_BINDINGS, files=(_FILES[0], path))
  with pytest.raises(UserError, match="nothing reads WEIGHT_DECAY with these"):
    gin_bindings.build_with(train.TrainRun, {"WEIGHT_DECAY": 0.1})


@pytest.mark.parametrize("by_file", [True, False])
def test_a_setting_that_is_gone_says_what_to_write(tmp_path, by_file):
  text = "METHODS = (('a', 'b', 'b', 8),)"
  files, bindings = _FILES, _BINDINGS
  if by_file:
    files += (_write(tmp_path, text),)
  else:
    bindings += (text,)
  with pytest.raises(UserError, match="METHODS is no setting any more; ARMS"):
    _build(*bindings, files=files)
