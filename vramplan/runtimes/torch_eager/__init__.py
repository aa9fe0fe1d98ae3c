"""How PyTorch runs a module eagerly on a CUDA device, traced on a machine that has none."""
