"""Operators on parameter space: one file for each representation, one algebra."""
