"""Data: raw files to atomic files and text, protocols, frozen splits, and RecBole datasets and loaders made of them."""
