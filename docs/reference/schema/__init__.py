"""JSON Schemas of every JSON output: ``importlib.resources.files("vramplan.schema") / "estimate.json"``."""
