"""The grid: every cell of a published table, run once, in this process or as tasks of Ray."""

from __future__ import annotations
