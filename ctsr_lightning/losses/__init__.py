"""Loss terms: tensors in, tensors out."""
