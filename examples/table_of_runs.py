"""What was trained in a folder, best first. With pandas: pandas.DataFrame(run_rows("runs")).

Usage: python table_of_runs.py [FOLDER]
"""

import sys

from foundry.core import load_experiment, run_rows
from foundry.core.contracts import FoundryError


def main(folder: str = "runs") -> None:
    try:
        baseline = load_experiment()
    except FoundryError:  # there is none here
        baseline = None
    rows = [row for row in run_rows(folder, baseline) if row["status"] == "finished"]
    for row in sorted(rows, key=lambda row: row["val_loss"]):
        print(f"{row['val_loss']:.4f}  {row['run']}  {', '.join(row.get('changes', ()))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
