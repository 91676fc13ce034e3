"""Recommenders: one paper, one file."""
