"""Benchmarks: what `seesae bench` measures."""
