"""The embedded default LLM: a small Llama pre-trained on generated text, so that everything runs offline.

`FOLDER` holds its weights, tokenizer and model card; give it to `AutoModelForCausalLM.from_pretrained`. The
model has seen no interaction of any data set, so it has some language and no collaborative knowledge.
"""

from pathlib import Path

FOLDER: Path = Path(__file__).parent / "weights"
