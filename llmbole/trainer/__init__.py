"""RecBole's Trainer with few small overrides."""
