"""Layers: each wraps an engine and is one. A layer defines every method of the waist itself."""
