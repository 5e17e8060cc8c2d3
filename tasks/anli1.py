"""SeqIO tasks and mixtures of anli1; see `register` for their names."""

from distill_jax.data import datasets

from . import register

register.register_dataset(datasets.get_dataset_spec("anli1"))
