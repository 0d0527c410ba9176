"""Benchmarks of speed: ratios of runs interleaved in one process. ``python -m benchmarks``."""
