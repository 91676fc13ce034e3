"""Methods the papers compare with: one method, one file."""
