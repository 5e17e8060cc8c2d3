"""A model's gin file, written from its architecture.

`distill-jax-convert` puts one beside each checkpoint it writes, so that
`--gin_file=<folder>/model.gin` fits it.
"""

import dataclasses

from distill_jax.model.t5.config import T5Config

# Fields that the gin files in gin/models set through macros.
_MACROS = {
  "vocab_size": "VOCAB_SIZE",
  "dropout_rate": "DROPOUT_RATE",
  "dtype": "ACTIVATION_DTYPE",
  "scan_layers": "SCAN_LAYERS",
  "remat_policy": "REMAT_POLICY",
  "attention_implementation": "ATTENTION_IMPLEMENTATION",
}


def make_model_gin(config: T5Config, header: str) -> str:
  """Returns the text of a gin file that builds a model.

  Args:
    config: the architecture.
    header: one line that says what the model is.
  """
  values = {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(config)
  }
  macros = [f"{macro} = {values[name]!r}" for name, macro in _MACROS.items()]
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
      "from distill_jax.model.t5 import config",
      "",
      *macros,
      "MODEL_CONFIG = @config.T5Config()",
      "",
      "config.T5Config:",
      *bindings,
      "",
    ]
  )
