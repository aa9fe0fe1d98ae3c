"""What the user has: ONNX files and the built-in zoo."""

from vramplan.sources.open import Source, engine_path, open_model
from vramplan.sources.zoo import ZooModel, find_zoo_model, zoo

__all__ = ["Source", "ZooModel", "engine_path", "find_zoo_model", "open_model", "zoo"]
