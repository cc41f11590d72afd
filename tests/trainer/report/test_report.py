import base64
import io
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from trainer import run
from trainer.errors import StorageError
from trainer.report import Report, Timings, write_report
from trainer.report.plots import draw_curve
from trainer.training import Epoch, SplitResult

NO_END_TAG = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects the elements of a page with their attributes and text; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: dict[str, list[list[str]]] = {}  # rows of each table by its class
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in NO_END_TAG:
            self.open.append(tag)
        if tag == "table":
            self.table = self.cells.setdefault(str(dict(attrs)["class"]), [])
        if tag == "tr":
            self.table.append([])
        if tag in ("td", "th"):
            self.table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.table[-1][-1] += data
        if self.open and self.open[-1] != "style":
            self.text += data

    def images(self) -> list[Image.Image]:
        uris = [str(attrs["src"]) for tag, attrs in self.tags if tag == "img"]
        return [Image.open(io.BytesIO(base64.b64decode(uri.split("base64,")[1]))) for uri in uris]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """400 × 200 pixels, red on the left and blue on the right, with EXIF data that turns red to the top."""
    image = Image.new("RGB", (400, 200), (250, 0, 0))
    image.paste((0, 0, 250), (200, 0, 400, 200))
    exif = image.getexif()
    exif[0x0112] = 6
    path = tmp_path / "photo.jpg"
    image.save(path, exif=exif, quality=95)
    return path


def result_of(
    class_count: int = 3, count: int = 30, *, paths: Sequence[Path] = (), names: Sequence[str] = ()
) -> SplitResult:
    """Random predictions, about half of them correct."""
    rng = np.random.default_rng(class_count)
    truth = rng.integers(class_count, size=count).astype(np.int32)
    logits = rng.normal(size=(count, class_count)).astype(np.float32)
    logits[np.arange(count), truth] += 1
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return SplitResult(
        "test",
        tuple(names) or tuple(f"class {index}" for index in range(class_count)),
        tuple(paths) or tuple(Path(f"/nowhere/{index}.jpg") for index in range(count)),
        truth,
        probabilities,
        loss=0.6931,
    )


def wrong(path: Path, classes: tuple[str, str] = ("moon", "sun")) -> SplitResult:
    return SplitResult(
        "test", classes, (path,), np.zeros(1, np.int32), np.array([[0.125, 0.875]], np.float32)
    )


HISTORY = [
    Epoch("head", number, 2 / number, 0.5, 2 / number, 0.5 + number / 100, 1.0) for number in (1, 2, 3)
]


def report_of(*results: SplitResult, **changes: Any) -> Report:
    settings: dict[str, Any] = {
        "title": "tiny, version 1",
        "facts": {"backbone": "vgg16"},
        "history": (),  # its curves take most of the time
        "results": results,
        "stages": {"checks": 0.5, "frozen layers": 4.0, "head": 90.0},
        "image_counts": {"frozen layers": 600, "head": 0},
    }
    return Report(**{**settings, **changes})


def written(directory: Path, content: Report) -> tuple[Page, dict[str, Any], str]:
    write_report(directory, content)
    text = (directory / "report.html").read_text(encoding="utf-8")
    return Page(text), json.loads((directory / "report.json").read_text(encoding="utf-8")), text


def test_the_page_is_self_contained(tmp_path: Path, photo: Path) -> None:
    page, _, text = written(tmp_path, report_of(wrong(photo), history=HISTORY))
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for key in ("src", "href", "srcset"):
            assert str(attrs.get(key, "data:")).startswith("data:")
        assert tag != "img" or attrs["alt"]
    assert not re.search(r"https?://|url\(|@import", text)
    assert any("default-src 'none'" in str(attrs.get("content")) for _, attrs in page.tags)
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.json", "photo.jpg"}


def test_page_and_json_have_the_same_figures(tmp_path: Path) -> None:
    page, figures, _ = written(tmp_path, report_of(result_of(), history=HISTORY))
    assert figures["schema_version"] == 2
    split = figures["splits"]["test"]
    assert f"{split['correct']} of {split['count']} correct" in page.text
    assert f"{100 * split['accuracy']:.1f}\N{NO-BREAK SPACE}%" in page.text
    assert f"{100 * split['expected_calibration_error']:.1f}\N{NO-BREAK SPACE}%" in page.text
    assert split["loss"] == 0.6931 and "0.6931" in page.text
    rows = page.cells["classes"][1:]
    assert [row[1] for row in rows] == split["classes"]
    for row, one, counts in zip(rows, split["per_class"], split["confusion_matrix"], strict=True):
        assert int(row[2]) == one["support"] == sum(counts)
        assert row[4:6] == [f"{100 * one[key]:.1f}\N{NO-BREAK SPACE}%" for key in ("precision", "recall")]
    assert [(row[2], float(row[6])) for row in page.cells["epochs"][1:]] == [
        (str(epoch["epoch"]), epoch["val_accuracy"]) for epoch in figures["history"]
    ]
    assert sum(one["count"] for one in split["calibration"]) == split["count"]
    for mistake in split["mistakes"]:
        assert Path(mistake["path"]).name in page.text


def test_an_undefined_ratio_is_null_in_json_and_a_dash_on_the_page(tmp_path: Path) -> None:
    page, figures, _ = written(tmp_path, report_of(wrong(Path("/nowhere/0.jpg"))))
    moon, sun = figures["splits"]["test"]["per_class"]
    assert (moon["precision"], moon["recall"], sun["recall"]) == (None, 0, None)
    assert page.cells["classes"][1][4:6] == ["–", "0.0\N{NO-BREAK SPACE}%"]


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    folder = tmp_path / "evil"
    folder.mkdir()
    file = Path(f'"><img src=x onerror=alert(2)>{evil[:8]}.jpg')
    content = report_of(
        wrong(folder / file.name, (evil, "$x_$ & 猫")),
        title=evil,
        facts={evil: evil},
        warnings=[evil],
        stages={evil: 1.0},
        history=[Epoch(evil, 1, 1.0, 0.5, 1.0, 0.5, 1.0)],
    )
    page, figures, text = written(tmp_path, content)
    assert "<script" not in text and "<img src=x" not in text
    assert {tag for tag, _ in page.tags}.isdisjoint({"script"})
    assert evil in page.text and "$x_$ & 猫" in page.text and file.name in page.text
    assert figures["title"] == evil


def test_throughput_is_shown_for_stages_that_process_images(tmp_path: Path) -> None:
    page, figures, _ = written(tmp_path, report_of(result_of()))
    assert page.cells["stages"][1:] == [
        ["checks", "0.5 s", "–", "–"],
        ["frozen layers", "4.0 s", "600", "150.0"],
        ["head", "90.0 s", "0", "–"],
    ]
    assert [stage["images_per_second"] for stage in figures["stages"]] == [None, 150, None]


def test_times_are_shown_in_seconds_minutes_or_hours(tmp_path: Path) -> None:
    shown = {0.04: "0.0 s", 119.94: "119.9 s", 400: "6 min 40 s", 8040: "2 h 14 min"}
    page, _, _ = written(tmp_path, report_of(stages={str(seconds): seconds for seconds in shown}))
    assert {float(row[0]): row[1] for row in page.cells["stages"][1:]} == shown


def test_a_stage_that_is_measured_twice_adds_up() -> None:
    timings = Timings()
    with timings.measure("head"):
        pass
    first = timings.seconds["head"]
    with timings.measure("evaluation"), timings.measure("head"):
        pass
    assert timings.seconds["head"] > first >= 0
    assert list(timings.seconds) == ["head", "evaluation"]


def test_warnings_come_before_the_figures(tmp_path: Path) -> None:
    page, figures, text = written(tmp_path, report_of(result_of(), warnings=["3 images are in train too."]))
    assert page.text.index("3 images are in train too.") < page.text.index("test: 30 images")
    assert figures["warnings"] == ["3 images are in train too."]
    assert 'role="alert"' in text
    assert 'role="alert"' not in written(tmp_path, report_of())[2]


def test_a_mistake_is_shown_as_the_model_sees_it(tmp_path: Path, photo: Path) -> None:
    """Small, upright, with true label, predicted label, probability and file name."""
    page, _, _ = written(tmp_path, report_of(wrong(photo)))
    thumbnail = page.images()[0]
    assert (thumbnail.size, thumbnail.format) == ((80, 160), "JPEG")
    levels = np.asarray(thumbnail.convert("RGB"))
    top, bottom = levels[20, 40], levels[140, 40]
    assert top[0] > 200 > 50 > top[2] and bottom[2] > 200 > 50 > bottom[0]
    assert "predicted as sun, 87.5\N{NO-BREAK SPACE}%is moonphoto.jpg" in page.text.replace("\n", "")
    assert any(attrs.get("alt") == "photo.jpg: moon, predicted as sun" for _, attrs in page.tags)


def test_an_image_that_can_no_longer_be_read_has_a_placeholder(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("missing.jpg", "empty.jpg", "cut.jpg")]
    paths[1].write_bytes(b"")
    paths[2].write_bytes(b"\xff\xd8\xff cut off")
    truth, probabilities = np.zeros(3, np.int32), np.array([[0.125, 0.875]] * 3, np.float32)
    result = SplitResult("test", ("moon", "sun"), tuple(paths), truth, probabilities)
    page, _, _ = written(tmp_path, report_of(result))
    assert len(page.images()) == 2  # the plots
    for path in paths:
        assert f"{path.name} can no longer be read" in page.text


def test_at_most_twelve_mistakes_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    result = result_of(count=300)
    page, figures, _ = written(tmp_path, report_of(result))
    assert len(figures["splits"]["test"]["mistakes"]) == 12
    assert page.text.count("can no longer be read") == 12
    assert f"12 of {300 - result.correct} mistakes." in page.text


@pytest.mark.parametrize("class_count", [2, 30, 40, 70])
def test_plots_are_drawn_for_few_and_for_many_classes(tmp_path: Path, class_count: int) -> None:
    """Names with `$` or with letters that the font lacks draw without a warning, which would be an error."""
    names = ["$\\frac$", "猫", *(f"a class with a long name {index}" for index in range(class_count - 2))]
    page, _, _ = written(tmp_path, report_of(result_of(class_count, names=names)))
    confusion, calibration = page.images()
    for image in (confusion, calibration):
        assert np.asarray(image.convert("L"))[0, 0] == 255
        assert np.asarray(image.convert("L")).min() < 100
    assert (confusion.width > 1000) == (class_count > 12)


def test_the_x_axis_continues_where_fine_tuning_begins(tmp_path: Path) -> None:
    fine_tuning = [Epoch("fine-tune", number, 0.1, 0.9, 0.1, 0.9 + number / 100, 1.0) for number in (1, 2)]
    page, figures, _ = written(tmp_path, report_of(result_of(), history=[*HISTORY, *fine_tuning]))
    assert [row[:3] for row in page.cells["epochs"][1:]] == [
        ["1", "head", "1"],
        ["2", "head", "2"],
        ["3", "head", "3"],
        ["4", "fine-tune", "1"],
        ["5 best", "fine-tune", "2"],
    ]
    assert figures["best_epoch"] == 5
    axes = drawn_curve([*HISTORY, *fine_tuning])
    assert axes["training"] == [1, 2, 3, 4, 5]
    assert axes["fine-tune begins"] == [3.5, 3.5]
    assert axes["best: epoch 5, 0.9200"] == [5, 5]
    assert "fine-tune begins" not in drawn_curve(HISTORY)


def drawn_curve(history: Sequence[Epoch]) -> dict[str, list[float]]:
    """Return the x coordinates of the lines in the plot of the accuracy, by their labels."""
    axes = Figure().subplots()
    draw_curve(axes, history, "accuracy")
    return {str(line.get_label()): np.asarray(line.get_xdata(), float).tolist() for line in axes.get_lines()}


def test_without_training_there_are_no_curves(tmp_path: Path) -> None:
    page, figures, _ = written(tmp_path, report_of(result_of(), history=()))
    assert "epochs" not in page.cells
    assert len(page.images()) == 2
    assert (figures["history"], figures["best_epoch"]) == ([], None)


def test_a_full_or_missing_volume_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=rf"{tmp_path}/nowhere: No such file"):
        write_report(tmp_path / "nowhere", report_of())


def test_a_figure_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    history = [Epoch("head", 1, float("nan"), 0.5, 1.0, 0.5, 1.0)]
    with pytest.raises(ValueError):
        write_report(tmp_path, report_of(history=history))
    assert list(tmp_path.iterdir()) == []


def test_a_run_reports_each_split_that_it_measured(published: run.Published) -> None:
    figures = json.loads((published.run_directory / "report.json").read_text())
    assert {
        split: (one["correct"], one["count"], one["accuracy"]) for split, one in figures["splits"].items()
    } == {split: (one.correct, one.count, one.accuracy) for split, one in published.metrics.items()}
    Page((published.run_directory / "report.html").read_text(encoding="utf-8"))
