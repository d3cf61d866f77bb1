"""Scaling relationships: optima per cell, laws across cells, loss laws, transfer to another budget."""
