"""A model's gin file, written from its architecture.

`distill-jax-convert` puts one beside each checkpoint it writes, so that
`--gin_file=<folder>/model.gin` fits it.
"""

from distill_jax.model.config import ModelConfig

# Fields that the gin files in gin/models set through macros.
_MACROS = {
  "vocab_size": "VOCAB_SIZE",
  "dropout_rate": "DROPOUT_RATE",
  "dtype": "ACTIVATION_DTYPE",
  "scan_layers": "SCAN_LAYERS",
  "remat_policy": "REMAT_POLICY",
  "attention_implementation": "ATTENTION_IMPLEMENTATION",
}


def make_model_gin(config: ModelConfig, header: str) -> str:
  """Returns the text of a gin file that builds a model.

  Args:
    config: the architecture.
    header: one line that says what the model is.
  """
  values = {name: getattr(config, name) for name in config.list_fields()}
  macros = [
    f"{macro} = {values[name]!r}"
    for name, macro in _MACROS.items()
    if name in values
  ]
  config_class = type(config)
  package, _, module = config_class.__module__.rpartition(".")
  configurable = f"{module}.{config_class.__qualname__}"
  bindings = [
    f"  {name} = {'%' + _MACROS[name] if name in _MACROS else repr(value)}"
    for name, value in values.items()
  ]
  # Whatever a path holds, a header of one line stays a comment, and is UTF-8.
  header = " ".join(header.split()).encode("utf-8", "backslashreplace").decode()
  return "\n".join(
    [
      f"# {header}",
      "from __gin__ import dynamic_registration",
      f"from {package} import {module}" if package else f"import {module}",
      "",
      *macros,
      f"MODEL_CONFIG = @{configurable}()",
      "",
      f"{configurable}:",
      *bindings,
      "",
    ]
  )
