"""`python -m benchmarks.claims [FOLDER]`: take over a run of `odeopt reproduce`, write its page."""

import json
import sys
from pathlib import Path

from odeopt.studies.reproduce import SUMMARY, document

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "benchmarks" / "results" / "claims" / SUMMARY
PAGE = ROOT / "docs" / "claims.md"


def main(folder: str | None = None) -> None:
    """Copy the summary of a folder, if any, and write the page."""
    if folder is not None:
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        KEPT.write_text((Path(folder) / SUMMARY).read_text(encoding="utf-8"), encoding="utf-8")
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    PAGE.write_text(document(kept), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:2])
