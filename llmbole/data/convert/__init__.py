"""Converters, one module per raw format: `VERSION`, and `convert(card, raw, folder, report, progress) -> Counts`."""
