"""Step and Found: what a step of ``bench gpu`` is told, and what it returns."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

from penultimate.engine.bench.timing.cells import number
from penultimate.engine.bench.timing.measurement import Measurement
from penultimate.engine.bench.timing.report import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a step measures on, and for how long."""

    device: str
    """``cuda``, or ``cpu`` for tiny sizes."""

    seconds: float

    @property
    def is_tiny(self) -> bool:
        """Return True without a GPU."""
        return self.device == "cpu"


@dataclass(kw_only=True, slots=True)
class Found:
    """What a step found."""

    measurements: list[Measurement] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    not_measured: list[str] = field(default_factory=list)

    other_cores: float | None = None
    """Largest number of cores that other programs took during a part of it; None where that is not known."""

    thresholds: list[dict[str, Any]] = field(default_factory=list)
    """``what``, ``value``, ``wanted`` and ``passed`` of each."""

    def take(self, report: Report, prefix: str) -> None:
        """Add a report of another bench, whose groups are called ``prefix`` besides."""
        self.measurements += [replace(line, group=f"{prefix}: {line.group}") for line in report.measurements]
        self.findings += [f"{prefix}: {sentence}" for sentence in report.findings]
        self.not_measured += [f"{prefix}: {sentence}" for sentence in report.not_measured]
        if report.other_cores is not None:
            self.other_cores = max(report.other_cores, self.other_cores or 0.0)

    def want(self, what: str, value: float, *, least: float | None = None, most: float | None = None) -> None:
        """Add a threshold, which the value is to reach or not to exceed."""
        passed = (least is None or value >= least) and (most is None or value <= most)
        wanted = f">= {least:g}" if least is not None else f"<= {most:g}"
        self.thresholds.append({"what": what, "value": number(value), "wanted": wanted, "passed": passed})

    def tell(self) -> None:
        """Print what was found so far as a line of JSON: the last one counts, should the step be stopped."""
        print(json.dumps(self.as_dict(), allow_nan=False), flush=True)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        return {
            "measurements": [line.as_dict() for line in self.measurements],
            "findings": self.findings,
            "not_measured": self.not_measured,
            "other_cores": self.other_cores,
            "thresholds": self.thresholds,
        }
