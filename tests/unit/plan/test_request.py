"""What a user may ask for, and what he is told when he may not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kiln.errors import RequestError, UnknownName, WeightsError
from kiln.plan.request import Flags, load_request

TUNED = '[quantize]\ngranularity = "finetuned"\n'


def _config(folder: Path, text: str) -> Path:
    path = folder / "kiln.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    config = _config(tmp_path, 'task = "detect"\nimgsz = 256\n[train]\nepochs = 7\n')
    request = load_request(Flags(imgsz=192), config, tmp_path)
    assert (request.task, request.imgsz, request.train.epochs) == ("detect", 192, 7)
    assert (request.target, request.train.seed) == ("grove-v2", 0)


def test_any_training_argument_passes_through_the_train_table(tmp_path: Path) -> None:
    config = _config(tmp_path, "[train]\nepochs = 3\nlr0 = 0.01\ncos_lr = true\n")
    request = load_request(Flags(), config, tmp_path)
    assert request.train.overrides == {"lr0": 0.01, "cos_lr": True}
    assert request.train.epochs == 3


def test_paths_in_the_file_are_relative_to_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "best.pt").touch()
    (folder / "more").mkdir()
    text = 'weights = "best.pt"\ndata = "people/data.yaml"\n'
    config = _config(folder, f'{text}{TUNED}[finetune]\nfolder = "more"\n')
    request = load_request(Flags(), config, tmp_path)
    assert request.weights_file == folder / "best.pt"
    assert request.data == str(folder / "people/data.yaml")
    assert request.finetune_folder == folder / "more"


def test_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"unknown key 'imgsize' in kiln\.toml") as error:
        load_request(Flags(), _config(tmp_path, "imgsize = 192\n"), tmp_path)
    assert "did you mean 'imgsz'?" in error.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('imgsz = "192"', "imgsz is '192'"),
        ("imgsz = 100000000", "out of range"),
        ('task = "segment"', "task is 'segment'"),
        ("[train]\nepochs = -1", "train.epochs is -1"),
        ("train = 3", "train must be a table"),
        ('name = "a/b"', "cannot name files"),
        ("[finetune]\ncycles = 0.3", "finetune.cycles is 0.3"),
        ("[finetune]\ncycles = 80", "finetune.cycles is 80"),
        ("[finetune]\nflash_kib = 0", "finetune.flash_kib is 0"),
        ("[finetune]\nupdates = 0", "finetune.updates is 0"),
        (f'{TUNED}[finetune]\nfolder = "none"', "which is no folder"),
        (f'task = "classify"\n{TUNED}', "a classifier cannot be fine-tuned"),
        ('model = "yolov5n"', "no YOLOv8 that Kiln builds"),
        ("imgsz = [", "not valid TOML"),
        ("a = " + "[" * 5000, "not valid TOML"),
        ("epochs = 3", "unknown key 'epochs'"),
        ("skeleton = 3", "skeleton must be a list"),
        ("skeleton = [[0, 1, 2]]", "holds (0, 1, 2), which is no pair of keypoints"),
        ("skeleton = [[0, 'nose']]", "skeleton is 'nose'"),
        ("skeleton = [[-1, 0]]", "joins keypoint -1"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        load_request(Flags(), _config(tmp_path, text), tmp_path)


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"mine/best\.pt do not exist"):
        load_request(Flags(weights="mine/best.pt"), None, tmp_path)


def test_published_weights_are_trained_and_own_weights_are_final(tmp_path: Path) -> None:
    named = load_request(Flags(weights="yolov8n-pose.pt"), None, tmp_path)
    assert named.trains
    assert named.weights_file is None
    (tmp_path / "best.pt").touch()
    own = load_request(Flags(weights="best.pt"), None, tmp_path)
    assert not own.trains
    assert load_request(Flags(weights="best.pt", epochs=5), None, tmp_path).trains


def test_published_weights_say_their_architecture(tmp_path: Path) -> None:
    def name(flags: Flags) -> str:
        return load_request(flags, None, tmp_path).architecture.name

    assert name(Flags(weights="yolov8s-pose.pt")) == "yolov8s"
    assert name(Flags(weights="yolov8s-pose.pt", model="yolov8s-relu")) == "yolov8s-relu"
    assert name(Flags()) == "yolov8n"


@pytest.mark.parametrize("weights", [None, "scratch"])
def test_an_untrained_network_is_refused(tmp_path: Path, weights: str | None) -> None:
    with pytest.raises(RequestError, match="untrained"):
        load_request(Flags(weights=weights, epochs=0), None, tmp_path)


@pytest.mark.parametrize(
    "address", ["https://me:secret@example.org/x.zip", "https://example.org/x.zip?key=secret"]
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(tmp_path: Path, address: str) -> None:
    with pytest.raises(RequestError, match="password or a query") as error:
        load_request(Flags(data=address), None, tmp_path)
    assert "secret" not in error.value.message + error.value.hint
