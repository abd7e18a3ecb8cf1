"""One self-contained HTML page: the answer in words, claim by claim, then figures and tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..records import write_text
from ..report import embedded, render, text
from .claims import NEAR, SAME, Claim
from .figures import CAPTIONS


def answer(claims: Sequence[Claim]) -> list[str]:
    """Sentences that say what the verdicts say, and nothing else."""
    own = [claim for claim in claims if not claim.rival]
    rivals = [claim for claim in claims if claim.rival]
    sentences = [
        f"Of {len(own)} claims that a learning rate is a step size, {_count(own)}.",
        f"Of {len(rivals)} rival readings, {_count(rivals)}.",
    ]
    whole = [claim.key for claim in own if claim.verdict == "held"]
    if whole:
        sentences.append(f"Held without exception: {', '.join(whole)}.")
    partly = [claim for claim in own if claim.verdict == "held only in part"]
    sentences += [f"Held only in part, {claim.key}: {claim.range}." for claim in partly]
    failed = [claim.key for claim in own if claim.verdict == "did not hold"]
    if failed:
        sentences.append(f"Did not hold: {', '.join(failed)}.")
    surprising = [claim.key for claim in rivals if claim.verdict not in ("did not hold",)]
    if surprising:
        sentences.append(
            f"Rival readings that were not refuted everywhere: {', '.join(surprising)}."
        )
    return sentences


def _count(claims: Sequence[Claim]) -> str:
    verdicts = [claim.verdict for claim in claims]
    order = ("held", "held only in part", "did not hold", "not measured")
    return ", ".join(f"{verdicts.count(word)} {word}" for word in order if word in verdicts)


def write(result: Any, out: Path, figures: Mapping[str, Path]) -> Path:
    """Writes `report.html`, which needs no network and no other file.

    Args:
        result: A `study.Result`.
        out: An existing folder.
        figures: What `figures.draw` returned.

    Returns:
        The page's path.
    """
    page = render(
        "equivalence/page.html.jinja",
        answer=answer(result.claims),
        claims=result.claims,
        checks=_cells(result.checks),
        deviations=_cells(result.deviations),
        figures=embedded(figures, CAPTIONS),
        same=SAME,
        near=NEAR,
        titles=result.titles,
        seconds=result.seconds,
        versions=result.settings["versions"],
    )
    write_text(out / "report.html", page)
    return out / "report.html"


def _cells(table: pd.DataFrame) -> list[dict[str, str]]:
    rows = table.replace({True: "yes", False: "no"}).to_dict(orient="records")
    return [{str(name): text(_plain(value)) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    return "blew up" if isinstance(value, float) and np.isinf(value) else value
