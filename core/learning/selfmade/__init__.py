"""Labelled pair sets from photos that nobody labelled: a picture and what is made of it are duplicates."""
