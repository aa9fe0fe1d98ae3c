"""The real GPU: what the driver says, and models that run on it in a process of their own."""
