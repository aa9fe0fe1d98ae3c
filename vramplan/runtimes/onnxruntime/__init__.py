"""ONNX Runtime's CUDA provider: the graph as the session runs it, its planner, its memory pattern, its arena."""
