"""A small HTTP service over one finished run; needs the extra `serve`."""
