"""The project's shape: who imports whom, and what no module may hold."""

import ast
import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_FILES = sorted(
  [*(_ROOT / "distill_jax").rglob("*.py"), *(_ROOT / "tasks").glob("*.py")]
)
# Below every layer: the package and its one exception.
_BELOW = {"distill_jax", "distill_jax.errors"}
# A module imports lower layers only; the same layer only inside its own folder.
_LAYERS = {
  0: """
    free_name process_identity unfinished
    answers.arithmetic answers.equality answers.numerals
    aot.batch_search aot.chips aot.compilation aot.hlo_collectives aot.hlo_loops
    config.fields
    data.answer_choices data.batch data.generator_options data.load_code
    data.records data.settings
    data.shuffled_rationales data.splits data.task_kinds data.token_table
    data.word_problem_templates
    evaluation.length_buckets evaluation.result_summary evaluation.text_tokens
    model.config model.constraint model.flops model.layer_stack
    partitioning.axes
    teacher.account_errors teacher.answer_markers teacher.exchange
    teacher.markup teacher.nesting teacher.redaction teacher.reply_body
    teacher.usage_counts
    training.gpu_random training.stop_agreement
  """,
  1: """
    aot.compile_report aot.topology
    distill input_rows losses
    checkpoint.checksums checkpoint.disk_space checkpoint.hf_config
    checkpoint.hf_logits checkpoint.hf_names
    checkpoint.shape_check checkpoint.stored_model
    config.command_line config.console_logging config.gin_bindings
    config.interrupts config.model_gin config.replaced_choices
    data.animal_legs data.batch_counts data.label_reader data.packing
    data.shards data.span_corruption data.token_cache data.vocab
    data.word_problems
    evaluation.text_metrics
    model.attention model.decoder model.dot_product model.embedding
    model.encoder model.linear
    model.masks model.mlp model.norm model.parameter model.relative_bias
    model.shared_bias model.t5
    optim.factory optim.schedules
    partitioning.distributed partitioning.mesh partitioning.rendezvous
    partitioning.sharding
    teacher.answer_forms teacher.append_file teacher.asking teacher.batch_api
    teacher.batch_calls teacher.batch_replies teacher.batch_state teacher.brake
    teacher.budget
    teacher.class_balance teacher.client teacher.config teacher.connection
    teacher.equation_answers
    teacher.guarded_http teacher.journal teacher.journal_lines teacher.ledger
    teacher.near_duplicates teacher.official_parsing teacher.parsing
    teacher.prices teacher.provenance teacher.questions teacher.rate_limits
    teacher.replies teacher.teachers teacher.voting
    training.event_files training.metric_files training.progress
    training.run_lock training.run_record
  """,
  2: """
    checkpoint.damage checkpoint.formats checkpoint.hf checkpoint.hf_pickle
    checkpoint.hf_tokenizer checkpoint.manager checkpoint.model_card
    checkpoint.orbax_params checkpoint.stated_config checkpoint.t5x
    checkpoint.tokenizer_proof checkpoint.zarr_arrays
    data.datasets data.named_tasks data.official data.own_vocabulary
    data.pipeline data.seqio_cache
    data.seqio_feature_converter data.seqio_nli_gold data.seqio_preprocessors
    data.seqio_source data.text_survey
    decoding.beam decoding.cache decoding.greedy decoding.layout decoding.loop
    decoding.sampling decoding.strategy
    evaluation.choices
    teacher.beam_asking teacher.beam_files teacher.beam_pipeline
    teacher.comparison teacher.conclusion teacher.filters teacher.labelling
    teacher.output_folder teacher.preview teacher.prompts teacher.record_file
    teacher.sending teacher.session teacher.standings teacher.tally
    teacher.template_files teacher.templates teacher.variants
    training.accumulate training.data_guard training.end_together
    training.model_dir training.nonfinite training.seeded_program training.state
    training.step
    training.validation_history
  """,
  3: """
    aot.program_costs aot.programs aot.saved_activations
    label_settings t5x_bridge
    evaluation.evaluator evaluation.result_folder evaluation.validation
    tasks tasks.animal_legs tasks.anli1 tasks.asdiv tasks.cqa tasks.esnli
    tasks.register tasks.svamp tasks.word_problems
    training.closing training.early_stopping training.fit_checks training.hooks
    training.initial_params training.loop training.preemption training.run_hooks
    training.run_identity
  """,
  4: """
    convert eval infer label label_pipeline precompile prepare run_data
    run_loading train
    experiments.aggregation experiments.plots experiments.report
    experiments.results experiments.statistics experiments.tables
    experiments.verdicts
  """,
  5: """
    label_beam main sweep sweep_cells sweep_progress sweep_report sweep_results
  """,
}
_LAYER_OF = {
  f"distill_jax.{name}": layer
  for layer, names in _LAYERS.items()
  for name in names.split()
}
_TENSORFLOW = {
  "clu",
  "mesh_tensorflow",
  "seqio",
  "t5",
  "t5x",
  "tensorflow",
  "tensorflow_datasets",
  "tensorflow_text",
}
# The bridge to T5X: the one module that imports it, and no TensorFlow itself.
_T5X_BRIDGE = "distill_jax/t5x_bridge.py"
# Their one line is tested with `tasks/register.py`; an exception has none.
_TESTED_ELSEWHERE = {
  "distill_jax/errors.py",
  "tasks/animal_legs.py",
  "tasks/anli1.py",
  "tasks/asdiv.py",
  "tasks/cqa.py",
  "tasks/esnli.py",
  "tasks/svamp.py",
  "tasks/word_problems.py",
}

# To be emptied.
_UNTESTED: set[str] = set()


def _relative(path):
  return path.relative_to(_ROOT).as_posix()


def _module_name(path):
  parts = list(path.relative_to(_ROOT).with_suffix("").parts)
  if parts[0] == "tasks":
    parts.insert(0, "distill_jax")
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_MODULES = {_module_name(path): path for path in _FILES}


def _parse(path):
  return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _imported(path):
  """Returns the dotted names of all that a file imports, wherever in it."""
  names = set()
  for node in ast.walk(_parse(path)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      module = node.module
      if node.level:
        package = _module_name(path.with_name("__init__.py"))
        module = f"{package}.{module}" if module else package
      for alias in node.names:
        name = f"{module}.{alias.name}"
        # `from package import module`, or `from module import thing`.
        names.add(name if name in _MODULES else module)
  return names


def _needs_layer(name):
  is_package = _MODULES[name].name == "__init__.py"
  return name not in _BELOW and (not is_package or name in _LAYER_OF)


def test_every_module_has_a_layer():
  assert set(filter(_needs_layer, _MODULES)) == set(_LAYER_OF)


def test_docstrings_name_the_layer():
  wrong = []
  for name, layer in _LAYER_OF.items():
    docstring = ast.get_docstring(_parse(_MODULES[name])) or ""
    named = re.search(r"\bLayer (\d)", docstring)
    if named and int(named[1]) != layer:
      wrong.append(f"{name}: layer {layer}, its docstring says {named[1]}")
  assert wrong == []


@pytest.mark.parametrize("name", _LAYER_OF)
def test_a_module_imports_lower_layers_only(name):
  path, layer = _MODULES[name], _LAYER_OF[name]
  for imported in _imported(path) & _LAYER_OF.keys():
    is_beside = _MODULES[imported].parent == path.parent
    highest = layer if is_beside else layer - 1
    assert _LAYER_OF[imported] <= highest, (
      f"{name} (layer {layer}) imports {imported} ({_LAYER_OF[imported]})"
    )


@pytest.mark.parametrize("path", _FILES, ids=_relative)
def test_a_file_keeps_the_rules(path):
  tree = _parse(path)
  if path.read_text().strip():
    assert ast.get_docstring(tree), "no module docstring"
  assert path.stem not in ("common", "helpers", "misc", "util", "utils")
  calls = {
    node.func.id
    for node in ast.walk(tree)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
  }
  assert not calls & {"eval", "exec"}
  may_use_tensorflow = path.parent.name == "tasks" or path.name.startswith(
    "seqio_"
  )
  packages = {name.partition(".")[0] for name in _imported(path)}
  if _relative(path) == _T5X_BRIDGE:
    packages -= {"t5x"}
  assert may_use_tensorflow or not packages & _TENSORFLOW


def test_nothing_imports_the_bridge_to_t5x():
  importers = [
    name
    for name, path in _MODULES.items()
    if "distill_jax.t5x_bridge" in _imported(path)
  ]
  assert importers == []


def test_every_module_has_a_test():
  untested = set()
  for path in _FILES:
    name = _relative(path)
    if path.name == "__init__.py" or name in _TESTED_ELSEWHERE:
      continue
    mirrored = pathlib.Path(name.removeprefix("distill_jax/"))
    test = _ROOT / "tests" / mirrored.with_name(f"{path.stem}_test.py")
    if not test.is_file():
      untested.add(name)
  assert untested <= _UNTESTED
