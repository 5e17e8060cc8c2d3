"""Logical axes to mesh axes, strictly."""

import pytest
from jax.sharding import PartitionSpec

from distill_jax.partitioning import axes


@pytest.mark.parametrize(
  "names,rules,spec",
  [
    (("embed", "mlp"), axes.PARAM_RULES, PartitionSpec("fsdp", "model")),
    (("heads", "relpos_buckets"), axes.PARAM_RULES, ("model", None)),
    (("embed",), axes.ACTIVATION_RULES, (None,)),
    (
      ("batch", "length", "mlp"),
      axes.ACTIVATION_RULES,
      (("data", "fsdp"), None, "model"),
    ),
    ((None, "embed"), axes.PARAM_RULES, (None, "fsdp")),
    (
      ("embed", "layers", "mlp"),
      axes.REPLICATED_DECODER_PARAM_RULES,
      (None, None, "model"),
    ),
    (
      ("embed", "layers", "mlp"),
      axes.SPLIT_DECODER_PARAM_RULES,
      (None, None, ("model", "fsdp")),
    ),
    (
      ("batch", "length", "heads", "kv"),
      axes.SPLIT_DECODER_ACTIVATION_RULES,
      ("data", None, ("model", "fsdp"), None),
    ),
    ((), axes.PARAM_RULES, ()),
  ],
)
def test_specs(names, rules, spec):
  found = axes.to_partition_spec(names, rules, "x")
  assert found == PartitionSpec(*spec)


def test_an_unknown_axis_names_the_array():
  with pytest.raises(ValueError, match="encoder/wi.*axis 'mlpp'.*'mlp'"):
    axes.to_partition_spec(("embed", "mlpp"), axes.PARAM_RULES, "encoder/wi")


@pytest.mark.parametrize(
  "names,mesh_axis",
  [(("mlp", "heads"), "model"), (("embed", "embed"), "fsdp")],
)
def test_colliding_axes_name_the_array(names, mesh_axis):
  with pytest.raises(
    ValueError, match=f"encoder/wi: axes '{names[0]}' and .*'{mesh_axis}'"
  ):
    axes.to_partition_spec(names, axes.PARAM_RULES, "encoder/wi")


def test_a_collision_inside_a_tuple_of_mesh_axes():
  rules = {"batch": ("data", "fsdp"), "embed": "fsdp"}
  with pytest.raises(ValueError, match="'batch' and 'embed' both map"):
    axes.to_partition_spec(("batch", "embed"), rules, "x")
