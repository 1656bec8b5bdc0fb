"""The paper's claims, repeated with small models."""
