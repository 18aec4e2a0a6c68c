"""What a file would take whose weights were coarser."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from stages.results.int8_network import Int8Network, NetworkOperator, QuantizedTensor
from stages.train.finetuning.budget import StartFile, read_start

#: Vela writes GiB a second; with this clock it is one byte in eight cycles.
SUMMARY = {
    "cycles_total": "1000000",
    "off_chip_flash_memory_used": "500",
    "off_chip_flash_bandwidth": str(50e6 / (1 << 30)),
    "core_clock": "400e6",
}
#: Waits for its 60,000 bytes; does not wait; and one that Vela says nothing of.
LAYERS: list[dict[str, object]] = [
    {
        "operator": "CONV_2D",
        "name": "late",
        "cycles": 481_000,
        "counted": {"flash_bytes": 60_000, "floor_cycles": 200_000},
    },
    {
        "operator": "CONV_2D",
        "name": "early",
        "cycles": 200_000,
        "counted": {"flash_bytes": 8_000, "floor_cycles": 90_000},
    },
    {"operator": "CONV_2D", "name": "on the CPU", "cycles": None, "counted": None},
]
ENTROPIES = [4.0, 4.0, 4.0]


@pytest.fixture
def start(tmp_path: Path) -> StartFile:
    with (tmp_path / "start.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(SUMMARY))
        writer.writeheader()
        writer.writerow(SUMMARY)
    (tmp_path / "layers.json").write_text(json.dumps(LAYERS))
    names = [str(each["name"]) for each in LAYERS]
    network = Int8Network(
        operators=tuple(
            NetworkOperator(number=number, type="CONV_2D", inputs=(0,), output=number + 1)
            for number in range(len(names))
        ),
        tensors={
            str(number + 1): QuantizedTensor(name=name, shape=(1, 8, 8, 4), scale=1, zero_point=0)
            for number, name in enumerate(names)
        },
        input=0,
        outputs=(3,),
        roles=("score8",),
    )
    return read_start(tmp_path / "layers.json", tmp_path / "start.csv", network, ENTROPIES)


def test_weights_as_they_are_take_what_vela_says(start: StartFile) -> None:
    found = start.estimate(ENTROPIES)
    assert (found.cycles, found.flash_kib) == (1_000_000, 500)
    assert start.waits(ENTROPIES) == [True, False, False]


def test_cycles_are_saved_where_the_flash_is_waited_for(start: StartFile) -> None:
    """Half the bytes: 30,000 of the first layer are 240,000 cycles, those of the second none."""
    half = (4.0 + 0.45) / 2 - 0.45
    found = start.estimate([half, 4.0, 4.0])
    assert found.cycles == pytest.approx(1_000_000 - 240_000)
    assert found.flash_kib == pytest.approx(500 - 30_000 / 1024)
    found = start.estimate([4.0, half, 4.0])
    assert found.cycles == 1_000_000
    assert found.flash_kib == pytest.approx(500 - 4_000 / 1024)


def test_a_layer_takes_its_multiply_accumulates_however_coarse_it_is(start: StartFile) -> None:
    found = start.estimate([0.0, 4.0, 4.0])
    assert found.cycles == pytest.approx(1_000_000 - 480_000 + 200_000)
    assert start.waits([0.0, 4.0, 4.0]) == [False, False, False]


def test_what_vela_says_nothing_of_saves_nothing(start: StartFile) -> None:
    assert start.estimate([4.0, 4.0, 1.0]) == start.estimate(ENTROPIES)
