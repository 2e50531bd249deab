"""Operators on function space: tangent kernels, their spectra, their alignment."""
