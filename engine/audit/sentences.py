"""Say in a few sentences what an audit found, the worst first."""

from collections.abc import Iterator

from penultimate.engine.analysis.jsonable import records
from penultimate.engine.audit.audit import Audit
from penultimate.store.key import label_of


def sentences(audit: Audit) -> list[str]:
    """Return what the tables say, as sentences for the top of the page and for a terminal."""
    return [*_leaks(audit), *_scores(audit), *_twins(audit), *_labels(audit), *_others(audit)]


def _leaks(audit: Audit) -> Iterator[str]:
    about = audit.summary
    test, leaked = about["splits"]["test"], about["leaked_test_images"]
    if not test:
        yield "No image is in test, so that nothing can leak into it."
    elif leaked:
        yield f"{leaked:,} of {test:,} test images ({100 * about['leaked_share']:.1f} %) have a twin in train or val."
    else:
        yield f"None of {test:,} test images has a twin in train or val."


def _twins(audit: Audit) -> Iterator[str]:
    about = audit.summary
    for name in about["against"]:
        rows = audit.twins[audit.twins["other_dataset"] == name]
        yield f"{rows['image'].nunique():,} images have a twin in {name}."
    near = about["twins"] - about["equal"]
    equal = "1 pair of images is" if about["equal"] == 1 else f"{about['equal']:,} pairs of images are"
    yield f"{equal} equal, and {near:,} {'is a near-duplicate' if near == 1 else 'are near-duplicates'}."


def _scores(audit: Audit) -> Iterator[str]:
    known = audit.scores.dropna(subset=["without"]) if len(audit.scores) else audit.scores
    if not audit.summary["leaked_test_images"] or not len(known):
        return
    if len(known) == 1:
        (row,) = records(known)
        name = label_of(row["backbone"], row["readout"])
        yield (
            f"Without them {name} scores {100 * row['without']:.2f} % instead of {100 * row['score']:.2f} % "
            f"({row['metric']}, {row['method']})."
        )
        return
    points = 100 * (known["without"] - known["score"])
    yield f"Without them the scores of {len(known)} trials change by {points.min():+.2f} to {points.max():+.2f} points."


def _labels(audit: Audit) -> Iterator[str]:
    if (checked := audit.summary["labels_checked"]) is None:
        return
    yield (
        f"{len(audit.label_issues):,} of {checked:,} labels are doubtful." if checked else "No label could be checked."
    )


def _others(audit: Audit) -> Iterator[str]:
    if num := len(audit.unreadable):
        yield f"{num:,} {'image' if num == 1 else 'images'} could not be read."
    lacking = audit.classes[(audit.classes["lacking"] != "") & (audit.classes["total"] > 0)]
    if len(lacking):
        are = "is" if len(lacking) == 1 else "are"
        yield f"{len(lacking):,} of {audit.summary['classes']:,} classes {are} missing in some split."
    empty = audit.classes[audit.classes["total"] == 0]
    if len(empty):
        yield f"{len(empty):,} {'class has' if len(empty) == 1 else 'classes have'} no image at all."
