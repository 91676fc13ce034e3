"""Two models, three epochs apart, in two processes: both meet the same candidates. Prints their hash as each saw them.

python benchmarks/same_candidates.py
"""

from __future__ import annotations

import subprocess
import sys

CASES = (("SASRec", 1), ("LightGCN", 4))

PROCESS = """
import hashlib, sys, tempfile
from pathlib import Path
from llmbole.config import Config
from llmbole.data import cards, source, splits
from llmbole.data.protocol import protocol
from llmbole.model import cf
from llmbole.model.session import open_split, recbole_settings
model, epochs = sys.argv[1], int(sys.argv[2])
rules, card = protocol("loo_rank20"), cards.card("ml-100k")
with tempfile.TemporaryDirectory() as folder:
    places = {name: Path(folder, name) for name in ("data", "split", "backbone")}
    for place in places.values():
        place.mkdir()
    source.prepare(card, None, places["data"])
    splits.freeze(rules, card, places["data"], places["split"])
    settings = recbole_settings(rules) | {"epochs": epochs}
    config = Config(model, "ml-100k", places["data"], settings, device="cpu", seed=epochs)
    session = open_split(config, splits.load(places["split"]), rules)
    cf.train_backbone(session, "auto", places["backbone"], Path(folder, "work"))
    seen = hashlib.sha256()
    for interaction, *_ in session.loader("test"):
        for field in ("user_id", "item_id", "label"):
            seen.update(interaction[field].numpy().tobytes())
    print(seen.hexdigest())
"""


def main() -> None:
    """The command line."""
    found = []
    for model, epochs in CASES:
        command = [sys.executable, "-W", "ignore", "-c", PROCESS, model, str(epochs)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found.append(printed.splitlines()[-1])
        sys.stdout.write(f"{model:<9} after {epochs} epoch(s): {found[-1]}\n")
    sys.stdout.write("identical\n" if len(set(found)) == 1 else "DIFFERENT\n")


if __name__ == "__main__":
    main()
