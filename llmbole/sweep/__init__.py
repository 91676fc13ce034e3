"""Sweeps: search settings with Ray Tune, on validation data alone; the best ones may then be tested."""

from __future__ import annotations
