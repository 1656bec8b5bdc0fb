"""Degradation of photographs: recipes, what they draw, and the operators that apply it."""
