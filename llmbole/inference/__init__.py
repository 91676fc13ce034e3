"""Top-k items for users from the artifacts of a finished run."""
