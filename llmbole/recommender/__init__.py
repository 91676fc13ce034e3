"""Conventional models that RecBole lacks, as RecBole models: one paper, one file, named after its class."""
