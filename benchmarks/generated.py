"""Generated interactions of any size, as prepared data: popular items, users of all lengths, random times.

python benchmarks/generated.py FOLDER NAME ROWS USERS ITEMS
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.csv


def write_interactions(folder: Path, name: str, rows: int, users: int, items: int, seed: int = 0) -> int:
    """Write `<name>.inter` with about `rows` different interactions, at least 3 for almost every user.

    Args:
        folder: An existing folder.
        name: The data set's name.
        rows: Interactions to draw; repeated pairs are left out.
        users: Number of users.
        items: Number of items.
        seed: Seed.

    Returns:
        Number of interactions written.
    """
    random = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, items + 1) ** 0.7
    owners = np.concatenate(
        [np.tile(np.arange(users), 3), random.integers(0, users, max(rows - 3 * users, 0))]
    )
    drawn = random.choice(items, len(owners), p=popularity / popularity.sum())
    kept = np.unique(owners * items + drawn, return_index=True)[1]
    kept.sort()
    table = pyarrow.table(
        {
            "user_id:token": np.char.add("u", owners[kept].astype(str)),
            "item_id:token": np.char.add("i", drawn[kept].astype(str)),
            "rating:float": random.integers(1, 6, len(kept)).astype(np.float64),
            "timestamp:float": random.integers(956_700_000, 1_046_400_000, len(kept)).astype(np.float64),
        }
    )
    path = folder / f"{name}.inter"
    options = pyarrow.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with path.open("wb") as file:
        file.write(("\t".join(table.column_names) + "\n").encode())
        pyarrow.csv.write_csv(table, file, options)
    return len(kept)


if __name__ == "__main__":
    place, dataset, *counts = sys.argv[1:]
    sys.stdout.write(f"{write_interactions(Path(place), dataset, *map(int, counts))}\n")
