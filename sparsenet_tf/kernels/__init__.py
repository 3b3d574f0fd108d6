"""Tensors in, tensors out: the arithmetic of sparse layers, without layer state."""
