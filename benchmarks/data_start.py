"""How long a start takes on data that are prepared and split, and how much memory splitting and reading them need.

python benchmarks/data_start.py                                       # MovieLens-1M's size, seconds to the first batch
python benchmarks/data_start.py --rows 10000000 --users 300000 --items 60000 --batches 200    # peak memory

Every line is a process of its own: `freeze` splits the data, the others go from the interpreter's start to the first
training batch, and through `--batches` more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

CASES = (("LightGCN", "loo_rank20"), ("GRU4Rec", "loo_rank20"), ("DIN", "unified_ctr"), ("DeepFM", "loo_ctr"))

PROCESS = """
import json, resource, sys, time
start = time.time()
from pathlib import Path
from llmbole.data import cards, protocol, splits
task, model, name, length, batches = sys.argv[1:6]
data, split = map(Path, sys.argv[6:8])
rules = protocol.protocol(name)
if task == "freeze":
    splits.freeze(rules, cards.card("ml-100k"), data, split)
else:
    from llmbole.config import Config
    from llmbole.model.session import open_split, recbole_settings
    settings = recbole_settings(rules) | {"train_batch_size": 2048}
    if model in ("GRU4Rec", "DIN"):
        settings["MAX_ITEM_LIST_LENGTH"] = int(length)
    config = Config(model, "ml-100k", data, settings, device="cpu", seed=1)
    loader = iter(open_split(config, splits.load(split), rules).train_loader())
    next(loader)
first = time.time() - start
if task != "freeze":
    for _, batch in zip(range(int(batches)), loader):
        pass
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"first": first, "seconds": time.time() - start, "peak": peak}))
"""


def process(
    task: str, model: str, protocol: str, options: argparse.Namespace, data: Path, split: Path
) -> str:
    """Run one case and describe what it took."""
    words = [task, model, protocol, str(options.length), str(options.batches), str(data), str(split)]
    command = [sys.executable, "-W", "ignore", "-c", PROCESS, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{task} {model} under {protocol} failed:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    what = "all" if task == "freeze" else "first batch"
    peak = found["peak"] / 2**30
    return f"{what} after {found['first']:6.1f} s, {found['seconds']:6.1f} s in all, peak {peak:.2f} GiB"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_075_000)
    parser.add_argument("--users", type=int, default=6_040)
    parser.add_argument("--items", type=int, default=3_706)
    parser.add_argument("--length", type=int, default=50, help="longest history")
    parser.add_argument("--batches", type=int, default=20, help="batches of 2,048 rows behind the first")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        data.mkdir()
        # A process of its own: the memory that it takes would else count as its children's peak.
        sizes = (str(size) for size in (options.rows, options.users, options.items))
        made = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("generated.py")), str(data), "ml-100k", *sizes],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        rows = int(made.stdout)
        out = sys.stdout.write
        out(f"{rows:,} interactions of {options.users:,} users with {options.items:,} items\n")
        for model, protocol in CASES:
            split = Path(folder, protocol)
            if not split.exists():
                split.mkdir()
                out(f"{protocol:<12} freeze    {process('freeze', model, protocol, options, data, split)}\n")
            out(f"{protocol:<12} {model:<9} {process('open', model, protocol, options, data, split)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
