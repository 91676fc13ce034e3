"""Stages and the content-addressed store of what they make; knows neither RecBole nor transformers."""
