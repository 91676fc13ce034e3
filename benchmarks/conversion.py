"""How fast reviews are converted, and in how much memory: generated Amazon reviews, gzipped as the 2018 ones are.

python benchmarks/conversion.py [--reviews 10000000]
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

CONVERT = """
import dataclasses, json, resource, sys, time
from pathlib import Path
from llmbole.data import cards, source
raw, folder = map(Path, sys.argv[1:])
card = cards.card("amazon2018-Software")
origin = source.Source(kind="folder", files=dict.fromkeys(card.source.files))
card = dataclasses.replace(card, source=origin)
start = time.perf_counter()
found = source.prepare(card, raw, folder)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
counts = {name: found[name] for name in ("users", "items", "interactions")}
print(json.dumps({"seconds": seconds, "peak": peak, **counts}))
"""
WORDS = "great product works as described would buy again arrived late but the quality is fine for this price".split()


def review(rng: random.Random, users: int, items: int) -> str:
    """One line; few users write many reviews, and few items have many."""
    user, item = (int(count * rng.random() ** 3) for count in (users, items))
    text = " ".join(rng.choices(WORDS, k=rng.randrange(5, 60)))
    row = {
        "overall": float(rng.randint(1, 5)),
        "verified": True,
        "reviewTime": "06 17, 2018",
        "reviewerID": f"A{user:013X}",
        "asin": f"B{item:09d}",
        "reviewerName": f"Reader {user}",
        "reviewText": text,
        "summary": text[:30],
        "unixReviewTime": 1_300_000_000 + rng.randrange(2_000_000) * 100,
    }
    return json.dumps(row) + "\n"


def generate(folder: Path, reviews: int) -> None:
    """Reviews and items, line by line."""
    rng = random.Random(1)
    users, items = max(1, reviews // 2), max(1, reviews // 50)
    with gzip.open(folder / "Software.json.gz", "wt", compresslevel=1, encoding="utf-8") as file:
        for _ in range(reviews):
            file.write(review(rng, users, items))
    with gzip.open(folder / "meta_Software.json.gz", "wt", compresslevel=1, encoding="utf-8") as file:
        for item in range(items):
            row = {
                "asin": f"B{item:09d}",
                "title": f"Item {item} &amp; more",
                "description": ["One.", "Two."],
            }
            file.write(
                json.dumps({**row, "brand": f"Brand {item % 99}", "category": ["Software", "Games"]}) + "\n"
            )


def main() -> None:
    """Generate, convert in a process of its own, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reviews", type=int, default=10_000_000)
    reviews = parser.parse_args().reviews
    with tempfile.TemporaryDirectory() as work:
        raw, folder = Path(work, "raw"), Path(work, "out")
        raw.mkdir()
        folder.mkdir()
        generate(raw, reviews)
        size = (raw / "Software.json.gz").stat().st_size
        print(f"{reviews:,} reviews, {size / 1e6:,.0f} MB gzipped", flush=True)
        done = subprocess.run(
            [sys.executable, "-c", CONVERT, str(raw), str(folder)], check=True, capture_output=True, text=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
    print(f"kept {found['interactions']:,} of {found['users']:,} users and {found['items']:,} items")
    rate = reviews / found["seconds"]
    print(f"{found['seconds']:.1f} s, {rate:,.0f} reviews/s, peak memory {found['peak'] / 2**20:,.0f} MiB")


if __name__ == "__main__":
    main()
