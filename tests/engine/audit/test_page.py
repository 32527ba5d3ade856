"""The page holds every table with its pictures, and sorts, filters and saves ids in headless Chromium."""

import base64
import csv
import io
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.audit_cases import clustered, edited
from support.browser import BROWSER, run_in_page
from support.trial_cases import trial_of

from penultimate.engine.audit import page as page_module
from penultimate.engine.audit.audit import Audit, audit_set
from penultimate.engine.audit.page import Thumbnails, page, pictured
from penultimate.engine.audit.sentences import sentences
from penultimate.engine.audit.settings import AuditSettings

COPIES = [(10, 3), (11, 3), (50, 40), (61, 60), (200, 100)]


@cache
def _audit() -> Audit:
    """Return an audit in which every table has rows; one class is missing in val, one image unreadable."""
    features = clustered(copies=COPIES)
    labels_N = features.labels.copy()
    labels_N[(labels_N == 2) & (features.split == "val")] = 3
    failed = np.array([""] * 299 + ["OSError: truncated"], dtype=np.dtypes.StringDType())
    set_ = edited(features, labels_M=labels_N, failed_M=failed)
    test = features.split[:299] == "test"
    arrays = {
        "test_ids": set_.ids[test],
        "test_labels": set_.labels[test],
        "test_predictions": np.where(np.arange(test.sum()) % 5, set_.labels[test], 0),
    }
    other = replace(clustered(num=60), key=replace(features.key, dataset="b"))
    issues = pd.DataFrame(
        {"image": ["0/0001.jpg", "0/0002.jpg"], "split": ["train", "test"], "label": ["class 1", "class 2"]}
        | {"suggested": ["class 0", "class 3"], "p_label": [0.001, 0.02], "p_suggested": [0.9, 0.8]}
    )
    found = audit_set(set_, [other], [trial_of(features={"images": ""}, arrays=arrays)], AuditSettings(labels=False))
    return replace(found, label_issues=issues, summary=found.summary | {"labels_checked": 299})


def _thumbnails() -> Thumbnails:
    return {
        (dataset, id_): f"of {dataset}: {id_}".encode() for dataset, ids in pictured(_audit()).items() for id_ in ids
    }


def test_the_page_needs_no_network() -> None:
    text = page(_audit(), _thumbnails())
    assert not re.search(r"(src|href|action)\s*=\s*[\"'](?!#|data:)", text)
    assert "@import" not in text
    assert "url(" not in text


def test_every_row_of_every_table_is_on_the_page_with_its_ids() -> None:
    text = page(_audit(), _thumbnails())
    body = {
        name: text.split(f'<table id="{name}-table"')[1].split("<tbody>")[1].split("</tbody>")[0]
        for name in ("leaks", "scores", "twins", "labels", "outliers", "unreadable", "classes")
    }
    tables = {"labels": "label_issues"}
    for name, rows in body.items():
        assert rows.count("<tr ") == len(getattr(_audit(), tables.get(name, name))) > 0
    for image in _audit().twins["image"]:
        assert f">{image}</td>" in body["twins"]
    assert body["twins"].count("<img") == 2 * len(_audit().twins)
    assert body["labels"].count("<img") == 2
    assert "OSError: truncated" in body["unreadable"]


def test_each_thumbnail_is_embedded_once_and_shown_beside_its_id() -> None:
    text = page(_audit(), _thumbnails())
    block = re.search(r'<script type="application/json" id="thumbnails">(.*?)</script>', text, re.DOTALL)
    assert block is not None
    addresses = json.loads(block[1])
    shown = re.findall(r'<img class="thumb" alt="([^"]+)"[^>]* data-thumb="(\d+)"', text)
    assert len(shown) > len(addresses) == len(set(addresses)) == len(_thumbnails())
    for id_, index in shown:
        assert base64.b64decode(addresses[int(index)].partition(",")[2]).decode().endswith(f": {id_}")


def test_without_thumbnails_ids_are_shown_alone() -> None:
    text = page(_audit(), {})
    assert "<img" not in text
    assert "0/0003.jpg" in text


def test_a_name_cannot_become_markup() -> None:
    evil = "</script><script>alert('x')</script>"
    twins = _audit().twins.assign(image=evil, label=evil)
    text = page(replace(_audit(), twins=twins, notes=(evil,)), {})
    assert "<script>alert" not in text
    assert text.count("</script>") == 2  # the thumbnails' and the page's own


def test_more_rows_than_a_page_holds_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "ROWS", 3)
    text = page(_audit(), {})
    assert f"{len(_audit().twins) - 3:,} more are listed by --json" in text
    assert sum(map(len, pictured(_audit()).values())) <= 3 * 2 + 2 + 3


def test_the_sentences_give_the_numbers_of_the_tables() -> None:
    said = " ".join(sentences(_audit()))
    about = _audit().summary
    test = about["splits"]["test"]
    assert f"{about['leaked_test_images']} of {test} test images" in said
    assert "images have a twin in b" in said
    assert "2 of 299 labels are doubtful" in said
    assert "1 image could not be read" in said
    assert "1 of 5 classes is missing in some split" in said
    (row,) = _audit().scores.to_dict("records")
    assert f"scores {100 * row['without']:.2f} % instead of {100 * row['score']:.2f} %" in said


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
class TestInChromium:
    def test_it_sorts_filters_and_saves_the_ids_that_are_shown(self, tmp_path: Path) -> None:
        got, console = run_in_page(
            page(_audit(), _thumbnails()),
            """
            const table = document.getElementById("twins-table");
            const form = document.querySelector("form[data-for=twins-table]");
            const rows = () => Array.from(table.tBodies[0].rows).filter((row) => !row.hidden);
            const column = Array.from(table.tHead.rows[0].cells).findIndex((head) => head.dataset.name === "distance");
            const values = () => rows().map((row) => Number(cellText(row.cells[column])));
            const button = table.tHead.rows[0].cells[column].querySelector("button");
            const out = { rows: rows().length };
            button.click(); out.falling = values(); button.click(); out.rising = values();
            const set = (name, value) => { const field = form.querySelector(name); field.value = value;
              field.dispatchEvent(new Event("input")); };
            set("select[name=kind]", "equal"); out.equal = rows().length;
            set("input[type=search]", "0/0060 0/0061"); out.found = rows().length;
            out.count = form.querySelector("[role=status]").textContent;
            const blobs = []; URL.createObjectURL = (blob) => { blobs.push(blob.size); return "#"; };
            form.querySelector("[data-save]").click(); out.saved = blobs;
            out.csv = tableAsCsv(table);
            const image = table.querySelector("img"); out.image = [image.src.slice(0, 23), image.alt];
            return out;
            """,
            tmp_path,
        )
        assert isinstance(got, dict)
        assert console == ""
        assert got["rows"] == len(_audit().twins)
        assert got["falling"] == sorted(got["falling"], reverse=True)
        assert got["rising"] == sorted(got["rising"])
        assert got["equal"] == _audit().summary["equal"]
        assert got["image"][0] == "data:image/webp;base64,"
        (saved,) = csv.DictReader(io.StringIO(got["csv"]))
        assert (saved["image"], saved["other"], saved["kind"]) == ("0/0060.jpg", "0/0061.jpg", "equal")
        assert got["saved"] == [len(got["csv"])]
        assert (got["found"], got["count"]) == (1, f"1 of {got['rows']} rows")

    @pytest.mark.parametrize("width", [500, 1400])
    def test_nothing_reaches_past_the_screen(self, width: int, tmp_path: Path) -> None:
        got, console = run_in_page(
            page(_audit(), _thumbnails()),
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth];",
            tmp_path,
            width=width,
        )
        assert console == ""
        assert isinstance(got, list)
        assert got[0] <= got[1]
