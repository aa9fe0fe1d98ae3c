"""Model definitions of our own, with random weights, and the weight-free ONNX files built from them.

Every definition is written from public papers and architecture tables. The modules need PyTorch;
the files under `onnx/` and `zoo.toml` do not.
"""
