"""Scratch memory that kernels ask for beyond their inputs and outputs."""
