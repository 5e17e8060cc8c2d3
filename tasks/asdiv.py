"""SeqIO tasks and mixtures of asdiv, which has training examples only."""

from distill_jax.data import datasets

from . import register

register.register_dataset(datasets.get_dataset_spec("asdiv"))
