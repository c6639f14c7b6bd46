"""Blobs: the waist for bodies that are too large for a row, and its default in the store's own engine."""
