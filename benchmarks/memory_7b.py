"""Peak memory of A-LLMRec's stage 2 with a 7B-shaped LLM, on paper.

python benchmarks/memory_7b.py [--batch 4] [--length 700]
"""

from __future__ import annotations

import argparse
import logging

from llmbole.llm.memory import LLAMA_7B, OPT_6_7B, projection_parameters, training_memory

logger = logging.getLogger("memory_7b")


def main() -> None:
    """Print one line for each model, precision and way of keeping activations."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4, help="prompts in a step (the paper: 4)")
    parser.add_argument("--length", type=int, default=700, help="positions of a prompt with its answer")
    parser.add_argument("--answer", type=int, default=16, help="tokens of an answer")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logger.info(
        "GiB; batch %d, %d positions, answers of %d", arguments.batch, arguments.length, arguments.answer
    )
    names = ("weights", "activations", "logits", "trainable", "total")
    logger.info("%-10s %-10s %-13s " + " %11s" * 5, "model", "weights", "checkpointing", *names)
    for model, shape in (("OPT-6.7B", OPT_6_7B), ("Llama-7B", LLAMA_7B)):
        for precision, weight_width in (("bfloat16", 2.0), ("4-bit", 0.56)):
            for checkpointing in (False, True):
                memory = training_memory(
                    shape,
                    batch=arguments.batch,
                    length=arguments.length,
                    answer_tokens=arguments.answer,
                    trainable_parameters=projection_parameters((50, 128), shape.hidden),
                    weight_width=weight_width,
                    checkpointing=checkpointing,
                )
                parts = [getattr(memory, name) / 2**30 for name in names]
                kept = "on" if checkpointing else "off"
                logger.info("%-10s %-10s %-13s " + " %11.2f" * 5, model, precision, kept, *parts)


if __name__ == "__main__":
    main()
