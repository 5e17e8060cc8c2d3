"""SeqIO tasks and mixtures of animal_legs; see `register` for their names."""

from distill_jax.data import datasets

from . import register

register.register_dataset(datasets.get_dataset_spec("animal_legs"))
