"""Language models and text encoders: loading, prompts, soft tokens, scoring, generation, embeddings.

This package knows transformers and sentence-transformers and nothing of RecBole: tensors, texts and token ids go in,
tensors and texts come out.
"""
