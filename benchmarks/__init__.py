"""Benchmarks: figures to be read by people, taken on a quiet machine. Not part of the tests."""
