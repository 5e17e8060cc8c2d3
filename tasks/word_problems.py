"""SeqIO tasks and mixtures of word_problems; see `register` for their names."""

from distill_jax.data import datasets

from . import register

register.register_dataset(datasets.get_dataset_spec("word_problems"))
