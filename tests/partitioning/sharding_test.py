"""Shardings of parameters, optimizer state, batches and activations.

That sharded steps compute what one device does is in training/step_test.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5_batch
import tiny_student
from flax import traverse_util
from jax.sharding import PartitionSpec as P

from distill_jax.decoding import cache as decoding_cache
from distill_jax.errors import UserError
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import axes, constraint, sharding
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.training import state as state_lib

MESH = {"data": 2, "fsdp": 2, "model": 2}
PARAM_SPECS = {
  "token_embedder/embedding": P("model", "fsdp"),
  "encoder/relpos_bias/rel_embedding": P("model", None),
  "encoder/encoder_norm/scale": P("fsdp"),
  "encoder/layers_0/attention/query/kernel": P("fsdp", "model"),
  "encoder/layers_0/attention/out/kernel": P("model", "fsdp"),
  "encoder/layers_0/mlp/wi_0/kernel": P("fsdp", "model"),
  "encoder/layers_0/mlp/wo/kernel": P("model", "fsdp"),
  "decoder/layers_0/encoder_decoder_attention/key/kernel": P("fsdp", "model"),
  "decoder/logits_dense/kernel": P("fsdp", "model"),
}


@pytest.fixture
def mesh():
  return mesh_lib.make_mesh(MESH)


def flatten_specs(tree):
  flat = traverse_util.flatten_dict(tree, sep="/")
  return {name: array.sharding.spec for name, array in flat.items()}


def assert_specs(tree, expected):
  found = flatten_specs(tree)
  assert {name: found[name] for name in expected} == expected


def find_part(opt_state, field):
  """Returns the one part of a chained optimizer's state with a field."""
  has_field = lambda node: hasattr(node, field)
  parts = jax.tree.leaves(opt_state, is_leaf=has_field)
  (part,) = filter(has_field, parts)
  return part


def test_parameters_and_adam_moments():
  state = tiny_student.start("adamw", MESH).state
  moments = find_part(state.opt_state, "mu")
  for tree in (state.params, moments.mu, moments.nu):
    assert_specs(tree, PARAM_SPECS)
  assert moments.count.sharding.spec == P()
  assert state.step.sharding.spec == P()
  kernel = state.params["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (8, 12)


def test_shapes_with_shardings():
  mesh = mesh_lib.make_mesh(MESH)
  places = {"a": sharding.replicated(mesh), "b": sharding.batch_sharding(mesh)}
  tree = {"a": np.zeros(3, np.float32), "b": jnp.zeros((8, 2), jnp.int32)}
  found = sharding.with_shardings(tree, places)
  for name, leaf in found.items():
    assert isinstance(leaf, jax.ShapeDtypeStruct)
    assert (leaf.shape, leaf.dtype) == (tree[name].shape, tree[name].dtype)
    assert leaf.sharding == places[name]


def test_adafactor_statistics():
  """Rows keep the smaller dimension's part, columns the larger's.

  `rel_embedding` is too thin to factor. Unused slots have shape (1,).
  """
  state = tiny_student.start("adafactor", MESH).state
  statistics = find_part(state.opt_state, "v_row")
  assert_specs(
    statistics.v_row,
    {
      "token_embedder/embedding": P("fsdp"),  # [48, 16] -> [16]
      "encoder/layers_0/attention/query/kernel": P("fsdp"),  # [16, 16]
      "encoder/layers_0/mlp/wi_0/kernel": P("fsdp"),  # [16, 24] -> [16]
      "encoder/layers_0/mlp/wo/kernel": P("fsdp"),  # [24, 16] -> [16]
      "encoder/relpos_bias/rel_embedding": P(),
      "encoder/encoder_norm/scale": P(),
    },
  )
  assert_specs(
    statistics.v_col,
    {
      "token_embedder/embedding": P("model"),  # [48, 16] -> [48]
      "encoder/layers_0/attention/query/kernel": P("model"),  # [16, 16]
      "encoder/layers_0/mlp/wi_0/kernel": P("model"),  # [16, 24] -> [24]
      "encoder/layers_0/mlp/wo/kernel": P("model"),  # [24, 16] -> [24]
      "encoder/relpos_bias/rel_embedding": P(),
      "encoder/encoder_norm/scale": P(),
    },
  )
  assert_specs(
    statistics.v,
    {
      "token_embedder/embedding": P(),
      "encoder/layers_0/mlp/wi_0/kernel": P(),
      "encoder/relpos_bias/rel_embedding": P("model", None),
      "encoder/encoder_norm/scale": P("fsdp"),
    },
  )
  column = statistics.v_col["token_embedder"]["embedding"]
  assert column.shape == (48,)
  assert column.addressable_shards[0].data.shape == (24,)


def test_a_batch_is_divided_by_rows(mesh):
  batch = tiny_student.make_batch()
  placed = sharding.to_global(batch, mesh)
  assert placed.keys() == batch.keys()
  for key, value in placed.items():
    assert value.sharding.spec == P(("data", "fsdp"))
    assert value.dtype == batch[key].dtype
    np.testing.assert_array_equal(value, batch[key])
    assert value.addressable_shards[0].data.shape[0] == 2
  assert sharding.count_batch_shards(mesh) == 4


@dataclasses.dataclass(frozen=True)
class _Device:
  """A device of one of several processes, of which there is one here."""

  id: int
  process_index: int
  platform: str = "cpu"
  device_kind: str = "cpu"


@pytest.mark.parametrize(
  "process_of,shape,num_shards,expected",
  [
    # Four devices each, in order.
    ("00001111", (8, 1, 1), 1, [[0, 1]]),
    ("00001111", (8, 1, 1), 2, [[0], [1]]),
    ("00001111", (2, 2, 2), 4, [[0], [0], [1], [1]]),
    # More shards than groups of devices.
    ("00001111", (1, 2, 4), 4, [[0], [0], [1], [1]]),
    # Every device holds all rows.
    ("00001111", (1, 1, 8), 2, [[0, 1], [0, 1]]),
    # Copies of the rows on two hosts.
    ("00001111", (1, 4, 2), 1, [[0, 1]]),
    ("01010101", (4, 1, 2), 4, [[0, 1]] * 4),
    # A host's devices need not lie side by side, as in a torus.
    ("00110011", (8, 1, 1), 2, [[0, 1], [0, 1]]),
    ("00110011", (8, 1, 1), 4, [[0], [1], [0], [1]]),
    # A shard may end within a device's rows.
    ("0123", (4, 1, 1), 3, [[0, 1], [1, 2], [2, 3]]),
  ],
)
def test_who_holds_the_rows_of_a_shard(process_of, shape, num_shards, expected):
  devices = [_Device(i, int(process)) for i, process in enumerate(process_of)]
  mesh = jax.sharding.Mesh(
    np.array(devices).reshape(shape), ("data", "fsdp", "model")
  )
  assert sharding.find_holders(mesh, num_shards, 24) == expected


def test_an_activation_is_pinned(mesh):
  constrain = sharding.make_constrain_fn(mesh)
  pinned = jax.jit(lambda x: constrain(x, ("batch", "length", "mlp")))(
    jnp.ones((8, 3, 4))
  )
  assert pinned.sharding.spec == P(("data", "fsdp"), None, "model")
  with pytest.raises(ValueError, match="logical axis 'mlpp'"):
    constrain(jnp.ones((8, 4)), ("batch", "mlpp"))


def test_a_dimension_that_does_not_divide_names_the_parameter():
  mesh = mesh_lib.make_mesh({"model": 8})
  shapes, logical_axes = state_lib.abstract_params(T5(tiny_student.CONFIG))
  with pytest.raises(UserError) as error:
    sharding.shard_params(logical_axes, shapes, mesh)
  assert "decoder/relpos_bias/rel_embedding (2, 32)" in str(error.value)
  assert "2 over the mesh axis 'model' of 8 devices" in str(error.value)


@pytest.mark.parametrize(
  "names,message",
  [
    (("embed", "mlpp"), "encoder/wi/kernel: no rule .*'mlpp'"),
    (("heads", "mlp"), "encoder/wi/kernel: axes 'heads' and 'mlp'"),
    (("embed",), r"encoder/wi/kernel: 1 logical axes .* 2 dimensions \(4, 4\)"),
    (("embed", None, "mlp"), "encoder/wi/kernel: 3 logical axes"),
  ],
)
def test_bad_axes_name_the_parameter(mesh, names, message):
  tree = {"encoder": {"wi": {"kernel": names}}}
  shapes = {"encoder": {"wi": {"kernel": jax.ShapeDtypeStruct((4, 4), "f4")}}}
  with pytest.raises(ValueError, match=message):
    sharding.shard_params(tree, shapes, mesh)


def test_no_rule_is_unused():
  """A rule that no model needs would be read as if it did something."""
  family = [
    tiny_student.CONFIG,
    dataclasses.replace(tiny_student.CONFIG, scan_layers=True),
  ]
  of_params, of_activations = set(), set()

  class Note(type(constraint.leave_free)):
    def __call__(self, x, axis_names, /):
      of_activations.update(axis_names)
      return x

  for config in family:
    model = T5(config, Note())
    params, logical_axes = state_lib.abstract_params(model)
    for names in traverse_util.flatten_dict(logical_axes).values():
      of_params.update(names)
    tokens = jax.ShapeDtypeStruct((2, 4), jnp.int32)

    def decode(params, tokens, model=model):
      step_fn, cache = decoding_cache.start_decoding(
        model, params, t5_batch.make_inputs(tokens, tokens), 4
      )
      return step_fn(tokens[:, 0], 0, cache)

    jax.eval_shape(decode, params, tokens)
  assert of_params == axes.PARAM_RULES.keys()
  assert of_activations == axes.ACTIVATION_RULES.keys()


def test_rules_lead_to_axes_of_the_mesh():
  entries = [*axes.PARAM_RULES.values(), *axes.ACTIVATION_RULES.values()]
  named = {
    axis
    for entry in entries
    for axis in ((entry,) if isinstance(entry, str) else entry or ())
  }
  assert named == set(axes.MESH_AXES)


def test_one_line_for_the_log(mesh):
  assert sharding.describe(mesh) == "8 cpu devices as data=2 fsdp=2 model=2"
