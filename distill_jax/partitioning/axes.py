"""Logical axis names and the tables that map them to mesh axes.

Parameters and activations use the same names under two tables, so that fully
sharded parameters (`embed` over `fsdp`) leave activations alone. While it
decodes, the decoder has tables of its own, see `decoding.layout`. Names are
T5X's; the mapping is strict, unlike Flax's, which replicates unknown axes in
silence.
"""

from collections.abc import Mapping, Sequence

from jax.sharding import PartitionSpec

# Mesh axes.
DATA, FSDP, MODEL = "data", "fsdp", "model"
MESH_AXES = (DATA, FSDP, MODEL)

Rules = Mapping[str, str | tuple[str, ...] | None]

PARAM_RULES: Rules = {
  "vocab": MODEL,
  "embed": FSDP,
  "heads": MODEL,
  "joined_kv": MODEL,
  "mlp": MODEL,
  "layers": None,
  "relpos_buckets": None,
}

ACTIVATION_RULES: Rules = {
  "batch": (DATA, FSDP),
  "length": None,
  "embed": None,
  "heads": MODEL,
  "kv": None,
  "mlp": MODEL,
  "vocab": MODEL,
}

# The decoder in decoding. A token needs all of its parameters, so none may be
# gathered for it: either each device has all that its part of `model` needs,
# or `fsdp` divides the same axes as `model`, and rows are divided by data only.
REPLICATED_DECODER_PARAM_RULES: Rules = {**PARAM_RULES, "embed": None}

# In this order, what was divided over `fsdp` moves within its groups only.
_MODEL_AND_FSDP = (MODEL, FSDP)
SPLIT_DECODER_PARAM_RULES: Rules = {
  name: _MODEL_AND_FSDP if entry == MODEL else None
  for name, entry in PARAM_RULES.items()
}
SPLIT_DECODER_ACTIVATION_RULES: Rules = {
  name: _MODEL_AND_FSDP if entry == MODEL else None
  for name, entry in ACTIVATION_RULES.items()
} | {"batch": DATA}


def to_partition_spec(
  names: Sequence[str | None], rules: Rules, where: str
) -> PartitionSpec:
  """Maps the logical names of an array's axes to mesh axes.

  Args:
    names: one logical name an axis; None leaves an axis unsharded.
    rules: one of the tables above.
    where: path of the array, for the error.

  Raises:
    ValueError: a name has no rule, or two axes map to the same mesh axis.
  """
  entries, used = [], {}
  for name in names:
    if name is not None and name not in rules:
      raise ValueError(
        f"{where}: no rule for the logical axis {name!r}; known are"
        f" {sorted(rules)}"
      )
    entry = rules[name] if name is not None else None
    for mesh_axis in (entry,) if isinstance(entry, str) else entry or ():
      if mesh_axis in used:
        raise ValueError(
          f"{where}: axes {used[mesh_axis]!r} and {name!r} both map to the mesh"
          f" axis {mesh_axis!r}"
        )
      used[mesh_axis] = name
    entries.append(entry)
  return PartitionSpec(*entries)
