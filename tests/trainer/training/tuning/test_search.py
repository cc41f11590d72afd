import csv
import itertools
import json
import logging
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer import run
from trainer.config import Grid, TrainConfig
from trainer.errors import ConfigError, DataError, DivergedError, StoppedError, StorageError
from trainer.runtime import stopping, storage
from trainer.training.features.extraction import Extraction
from trainer.training.tuning.search import Tuned, tune
from trainer.training.tuning.summary import print_summary
from trainer.training.tuning.trials import Trial, rank_trials, trial_settings

GRID = Grid(learning_rates=(0.003, 0.03), hidden_unit_counts=(0, 12), dropouts=(0.0, 0.5))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any]) -> TrainConfig:
    return TrainConfig(**{**settings, "model_dir": tmp_path_factory.mktemp("models"), "epochs": 4})


@pytest.fixture(scope="module")
def tuned(config: TrainConfig) -> Tuned:
    """A search over 8 combinations; not to be changed."""
    return tune(config, GRID)


def with_cache_of(config: TrainConfig, model_dir: Path, **changes: Any) -> dict[str, Any]:
    """Settings for another model directory, with the features that are stored already."""
    settings = {name: getattr(config, name) for name in TrainConfig.__dataclass_fields__}
    return {**settings, "model_dir": model_dir, "cache_dir": config.model_dir / ".feature_cache", **changes}


def test_every_combination_is_tried_once(tuned: Tuned) -> None:
    tried = [(one.learning_rate, one.hidden_units, one.dropout) for one in tuned.trials]
    assert sorted(tried) == sorted(itertools.product((0.003, 0.03), (0, 12), (0.0, 0.5)))
    assert sorted(one.number for one in tuned.trials) == list(range(1, 9))


def test_the_table_is_ranked_and_its_counts_are_exact(tuned: Tuned) -> None:
    assert list(tuned.trials) == rank_trials(tuned.trials)
    assert len({one.val_loss for one in tuned.trials}) == 8
    for one in tuned.trials:
        assert one.correct is not None
        assert one.count == 60
        assert one.correct / one.count == one.val_accuracy
        assert one.best_epoch in (1, 2, 3, 4)
    assert tuned.trials[0].val_accuracy > tuned.trials[-1].val_accuracy  # type: ignore[operator]  # not None: the trial was run


@pytest.mark.parametrize("place", [0, pytest.param(-1, marks=pytest.mark.soak)])
def test_train_with_a_trials_settings_gives_the_same(tuned: Tuned, tmp_path: Path, place: int) -> None:
    """Dropout and an hidden layer too: the same initial weights, the same order, the same masks."""
    chosen = [one for one in tuned.trials if one.hidden_units and one.dropout][place]
    settings = trial_settings(tuned.config.model_dir, "tiny", str(chosen.number))
    config = TrainConfig(
        **{**settings, "cache_dir": tuned.config.model_dir / ".feature_cache"},
        model_dir=tmp_path,
        name="tiny",
    )
    published = run.train(config)
    history = json.loads((published.run_directory / "history.json").read_text())
    best = history[chosen.best_epoch - 1]  # type: ignore[operator]  # not None: the trial was run
    assert (best["val_accuracy"], best["val_loss"]) == (chosen.val_accuracy, chosen.val_loss)
    assert best["val_accuracy"] == max(epoch["val_accuracy"] for epoch in history)
    assert published.metrics["validation"].correct == chosen.correct


def test_json_and_csv_are_the_table_and_the_plot_is_a_picture(tuned: Tuned) -> None:
    assert tuned.directory == tuned.config.model_dir / "tiny" / ".tune"
    assert {path.name for path in tuned.directory.iterdir()} == {"trials.json", "trials.csv", "trials.png"}
    content = json.loads((tuned.directory / "trials.json").read_text())
    assert content["config"] == json.loads(tuned.config.to_json())
    assert [Trial(**one) for one in content["trials"]] == list(tuned.trials)
    with (tuned.directory / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{key: str(value) for key, value in one.items()} for one in content["trials"]] == rows
    with Image.open(tuned.directory / "trials.png") as plot:
        assert len(np.unique(np.asarray(plot.convert("L")))) > 10


def test_what_is_shown_is_the_best_ten_and_how_to_train_the_winner(
    tuned: Tuned, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_summary(tuned.directory, tuned.config, tuned.trials)
    out = capsys.readouterr().out
    best = tuned.trials[0]
    rows = [line.split() for line in out.splitlines() if re.fullmatch(r"(\s+[\d.]+){7}\s*", line)]
    assert [row[0] for row in rows] == [str(one.number) for one in tuned.trials]
    assert rows[0][4:6] == [f"{best.val_accuracy:.4f}", str(best.correct)]
    assert "The best 8 of 8 trials, on 60 validation images" in out
    model_dir = tuned.config.model_dir
    assert f"python -m trainer train --model-dir {model_dir} --name tiny --from-trial best\n" in out


def test_no_more_than_ten_are_shown(tuned: Tuned, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(tuned.directory, tuned.config, [*tuned.trials, *tuned.trials])
    out = capsys.readouterr().out
    assert len(re.findall(r"^(?:\s+[\d.]+){7}\s*$", out, re.MULTILINE)) == 10
    assert "The best 10 of 16 trials" in out


def test_features_are_computed_once_for_all_searches_and_runs(
    tuned: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    compute = Extraction._compute

    def counted(self: Extraction, examples: Any, keys: Any, mine: Any, *rest: Any) -> None:
        seen.append(len(mine))
        compute(self, examples, keys, mine, *rest)

    monkeypatch.setattr(Extraction, "_compute", counted)
    config = TrainConfig(**with_cache_of(tuned.config, tmp_path, epochs=1))
    again = tune(config, Grid(learning_rates=[0.03], hidden_unit_counts=[0], dropouts=[0.0]))
    assert len(again.trials) == 1
    assert seen == [0] * 3  # train, validation and test


def test_a_trial_that_diverges_ranks_last_with_a_note_and_ends_nothing(
    tuned: Tuned, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trainer.training.tuning.search")
    config = TrainConfig(**with_cache_of(tuned.config, tmp_path, epochs=2))
    grid = Grid(learning_rates=[3e38, 0.03], hidden_unit_counts=[0], dropouts=[0.0])
    good, bad = tune(config, grid).trials
    assert (good.number, bad.number) == (2, 1)
    assert good.val_accuracy is not None and not good.note
    assert bad.note.startswith("diverged: The loss must stay finite.")
    assert (bad.val_accuracy, bad.val_loss, bad.best_epoch, bad.correct) == (None, None, None, None)
    assert [line.split("  ")[0] for line in caplog.messages] == ["trial 1/2", "trial 2/2"]
    assert trial_settings(tmp_path, "tiny", "best")["learning_rate"] == 0.03


def test_where_all_diverge_the_table_is_written_and_it_says_so(tuned: Tuned, tmp_path: Path) -> None:
    config = TrainConfig(**with_cache_of(tuned.config, tmp_path, epochs=2))
    with pytest.raises(DivergedError, match=r"--learning-rates.*3e\+38"):
        tune(config, Grid(learning_rates=[3e38], hidden_unit_counts=[0], dropouts=[0.0]))
    assert json.loads((tmp_path / "tiny" / ".tune" / "trials.json").read_text())["trials"][0]["note"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"fine_tune_from": "block5"}, "Received: --fine-tune-from block5"),
        ({"feature_cache": False}, "Received: --no-feature-cache"),
    ],
)
def test_what_is_no_search_over_the_head_is_refused(
    config: TrainConfig, tmp_path: Path, changes: dict[str, Any], part: str
) -> None:
    with pytest.raises(ConfigError, match=part):
        tune(TrainConfig(**with_cache_of(config, tmp_path / "models", **changes)), GRID)
    assert not (tmp_path / "models").exists()


def test_sigterm_ends_the_search_and_leaves_no_half_table(tuned: Tuned, tmp_path: Path) -> None:
    class SendAfterFirstTrial(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "trial 1/2" in record.getMessage():
                signal.raise_signal(signal.SIGTERM)

    config = TrainConfig(**with_cache_of(tuned.config, tmp_path))
    grid = Grid(learning_rates=[0.03], hidden_unit_counts=[0, 4], dropouts=[0.0])
    log = logging.getLogger("trainer.training.tuning.search")
    handler = SendAfterFirstTrial()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with (
            stopping.on_sigterm() as stop,
            pytest.raises(StoppedError, match="1 of 2 trials"),
        ):
            tune(config, grid, stop)
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    assert list((tmp_path / "tiny" / ".tune").iterdir()) == []


@pytest.fixture
def spoilt_tree(tmp_path: Path, tuned: Tuned) -> Path:
    """The images, one of which is a text and one a JPEG that only decoding shows to be broken."""
    tree = tmp_path / "images"
    for path in tuned.config.data.rglob("*"):
        if path.is_file():
            copy = tree / path.relative_to(tuned.config.data)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(path)
    (tree / "train" / "sun" / "text.jpg").write_text("no image")
    whole = next((tree / "train" / "moon").glob("*")).read_bytes()
    (tree / "train" / "moon" / "half.png").write_bytes(whole[: len(whole) // 2])
    return tree


def test_bad_images_are_left_out_only_if_that_is_wanted(
    tuned: Tuned, tmp_path: Path, spoilt_tree: Path
) -> None:
    grid = Grid(learning_rates=[0.03], hidden_unit_counts=[0], dropouts=[0.0])
    changes = {"data": spoilt_tree, "epochs": 1}
    with pytest.raises(DataError, match="text.jpg"):
        tune(TrainConfig(**with_cache_of(tuned.config, tmp_path / "models", **changes)), grid)
    skipping = with_cache_of(tuned.config, tmp_path / "models", **changes, on_invalid_image="skip")
    assert len(tune(TrainConfig(**skipping), grid).trials) == 1
    listed = (tmp_path / "models" / "tiny" / ".tune" / "invalid_images.json").read_text()
    assert "text.jpg" in listed and "half.png" in listed


def test_balanced_class_weights_reach_the_trials(tuned: Tuned, tmp_path: Path, spoilt_tree: Path) -> None:
    """With classes of unequal size another loss is followed."""
    moons = [path for path in (spoilt_tree / "train" / "moon").iterdir() if path.is_symlink()]
    for path in moons[1:]:
        path.unlink()
    grid = Grid(learning_rates=[0.03], hidden_unit_counts=[0], dropouts=[0.0])
    losses = []
    for class_weight in ("none", "balanced"):
        settings = with_cache_of(
            tuned.config,
            tmp_path / class_weight,
            data=spoilt_tree,
            on_invalid_image="skip",
            class_weight=class_weight,
        )
        losses.append(tune(TrainConfig(**settings), grid).trials[0].val_loss)
    assert losses[0] != losses[1]


def test_a_full_volume_leaves_the_table_before(
    tuned: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(**with_cache_of(tuned.config, tmp_path, epochs=1))
    grid = Grid(learning_rates=[0.03], hidden_unit_counts=[0], dropouts=[0.0])
    tune(config, grid)
    path = tmp_path / "tiny" / ".tune" / "trials.json"
    before = path.read_text()
    write = storage.write_atomically

    def full(path: Path, content: Any) -> None:
        if path.name == "trials.json":
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(storage, "write_atomically", full)
    with pytest.raises(StorageError, match="No space left on device"):
        tune(config, grid)
    assert path.read_text() == before
