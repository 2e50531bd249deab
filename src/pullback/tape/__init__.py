"""The tape: one forward pass, one backward pass a cotangent, everything recorded."""
