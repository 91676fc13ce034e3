"""RecBole's evaluation with per-user values kept."""
