"""Draws fictional properties, so that the demo and the tests need no picture that belongs to somebody."""
