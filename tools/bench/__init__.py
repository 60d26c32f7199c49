"""Measurements. Each module runs by itself with `python -m tools.bench.<name>`."""
