"""`python -m benchmarks.claims [FOLDER]`: take over a run of `odeopt reproduce`, write its page."""

import json
import sys
from pathlib import Path

import pandas as pd

from odeopt.studies.claim import NOT_RUN
from odeopt.studies.claims import claims
from odeopt.studies.engine.store import Record
from odeopt.studies.papers import FOLLOWING, FOUNDING, NEIGHBOUR, PAPERS
from odeopt.studies.reproduce import SUMMARY, counts

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "benchmarks" / "results" / "claims" / SUMMARY
PAGE = ROOT / "docs" / "claims.md"
FRESH = "Criteria were posed, and posed again, on other seeds: those of this run are fresh."
KINDS = {
    FOUNDING: "What odeopt was built from",
    FOLLOWING: "Papers of 2025-26 that follow",
    NEIGHBOUR: "Neighbours",
}


def document(kept: Record) -> str:
    """The page of the documentation, from a run's summary."""
    found, listed = kept["claims"], claims()
    words = pd.Series([entry["verdict"] for entry in found.values()])
    lines = [
        "# The claims of the papers",
        "",
        "`python -m benchmarks.claims` writes this page from the committed run "
        "`benchmarks/results/claims/summary.json`; do not edit it. `odeopt reproduce --list` lists "
        "the claims, `odeopt reproduce NAME` tests one on your machine, and `--all` tests all and "
        "writes a report with figures. A claim is a module of `odeopt/studies/claims`. Its "
        "criterion was committed before its first run; if it was changed after a run, the claim "
        "says what the first version was. Only the abstracts of the papers were read: a claim is "
        "taken from an abstract, and its experiment is odeopt's. As a control, a claim of a law "
        "also says what a wrong law would give, which must not be found. A comparison must have "
        "the same outcome in more seeds than chance would give (sign test, p <= 0.05).",
        "",
        f"**Of {len(found)} claims: {counts(words)}.** "
        f"{'A full' if kept['full'] else 'A quick'} run on {kept['machine']}, "
        f"seeds from {kept['first seed']} on; "
        + ", ".join(f"{name} {version}" for name, version in kept["versions"].items())
        + ".",
        *(("", FRESH) if kept["first seed"] else ()),
    ]
    for kind in (FOUNDING, FOLLOWING, NEIGHBOUR):
        lines += ["", f"## {KINDS[kind]}"]
        for key, paper in PAPERS.items():
            mine = [name for name, claim in listed.items() if claim.papers[0] == key]
            also = [name for name, claim in listed.items() if key in claim.papers[1:]]
            if paper.kind != kind:
                continue
            lines += ["", f"### {paper}", ""]
            if not mine and not also:
                lines.append(f"No claim: {paper.none}.")
            for name in mine:
                entry = found.get(name, {"verdict": NOT_RUN, "reason": "", "seeds": 0})
                seeds = f", {entry['seeds']} seeds" if entry["seeds"] > 1 else ""
                values = entry.get("wrong laws", {})
                wrong = [
                    f"{bound.quantity} {bound.wanted} (found: {values[bound.quantity]})"
                    for bound in listed[name].control
                    if values
                ]
                words = [
                    f"- **`{name}`: {entry['verdict']}**{seeds}. {listed[name].says}",
                    f"*{listed[name].note}*" if listed[name].note else "",
                    f"Found: {entry['reason']}." if entry["reason"] else "",
                    f"A wrong law would give: {'; '.join(wrong)}." if wrong else "",
                ]
                lines.append(" ".join(word for word in words if word))
            if also:
                lines.append(f"- See also {', '.join(f'`{name}`' for name in also)}.")
    return "\n".join(lines) + "\n"


def main(folder: str | None = None) -> None:
    """Copy the summary of a folder, if any, and write the page."""
    if folder is not None:
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        KEPT.write_text((Path(folder) / SUMMARY).read_text(encoding="utf-8"), encoding="utf-8")
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    PAGE.write_text(document(kept), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:2])
