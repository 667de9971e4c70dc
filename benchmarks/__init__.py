"""Benchmarks: each compares within one run and commits the CSV that it gave."""
