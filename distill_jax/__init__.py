"""distill_jax: Distilling Step-by-Step in JAX. Importing this loads nothing."""

__version__ = "0.1.0"
