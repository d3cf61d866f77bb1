"""Thin routes: read, hand to a figure or a template, answer."""
