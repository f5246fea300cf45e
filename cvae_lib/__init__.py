"""cvae_lib: a small library of conditional variational autoencoders, and the helper of the course beside it."""

__version__ = "0.1.0"
