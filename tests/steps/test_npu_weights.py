"""Compressed weights, against Vela's own encoder."""

from __future__ import annotations

import json

from tests.support.fixtures import RunScript

_ROUND_TRIPS = """
import json
import numpy as np
from ethosu import mlw_codec
from stages.vela.npu.weights import Geometry, read_filter

random = np.random.default_rng(1)

def weights(count):
    '''Of every kind that the encoder treats in a way of its own.'''
    kind = random.integers(7)
    if kind == 0:
        return random.integers(-255, 256, count)
    if kind == 1:
        return random.integers(-127, 128, count) * (random.random(count) < 0.1)
    if kind == 2:
        return random.choice(random.integers(-127, 128, int(random.integers(1, 20))), count)
    if kind == 3:
        return np.clip(np.round(random.normal(0, random.uniform(0.3, 60), count)), -127, 127)
    if kind == 4:
        return np.zeros(count)
    if kind == 5:
        return np.repeat(np.round(random.normal(0, 9, count // 50 + 1)), 50)[:count]
    return np.concatenate([random.integers(-255, 256, count // 2), np.zeros(count - count // 2)])

def geometry():
    depthwise = bool(random.random() < 0.25)
    microblock = int(random.choice([4, 8]))
    return Geometry(
        depthwise=depthwise,
        part_kernel=not depthwise and bool(random.random() < 0.5),
        ofm_depth=int(random.integers(1, 80)),
        ifm_depth=1 if depthwise else int(random.integers(1, 80)),
        height=int(random.integers(1, 12)),
        width=int(random.integers(1, 5)),
        dilation_y=int(random.integers(1, 3)),
        dilation_x=int(random.integers(1, 3)),
        block_depth=int(random.choice([8, 16, 24, 32, 64, 128])),
        ofm_microblock=microblock,
        ifm_bits=int(random.choice([8, 8, 16])),
    )

wrong = []
for number in range(150):
    g = geometry()
    wanted = weights(g.count).astype(np.int16).reshape(g.ofm_depth, g.height, g.width, g.ifm_depth)
    encoded, _ = mlw_codec.reorder_encode(
        8, g.ofm_microblock, wanted, g.block_depth, g.depthwise, g.part_kernel, g.ifm_bits,
        8 // g.dilation_y, 8 // g.dilation_x,
    )
    found = read_filter(bytes(encoded), g, 255).matrix
    if not np.array_equal(found, wanted.reshape(g.ofm_depth, -1).T):
        wrong.append(repr(g))
print(json.dumps(wrong))
"""

_DAMAGE = """
import json
import numpy as np
from ethosu import mlw_codec
from stages.vela.npu.errors import NpuError
from stages.vela.npu.weight_stream import decode_weights

random = np.random.default_rng(2)
whole = bytes(mlw_codec.encode(random.integers(-60, 60, 3000).astype(np.int16).tolist()))
sentences = set()
for number in range(400):
    damaged = bytearray(whole)
    for _ in range(int(random.integers(1, 4))):
        damaged[int(random.integers(len(damaged)))] ^= 1 << int(random.integers(8))
    damaged = damaged[: int(random.integers(1, len(damaged) + 1))]
    try:
        assert len(decode_weights(bytes(damaged), 4000)) <= 4000
    except NpuError as error:
        sentences.add(str(error))
print(json.dumps(sorted(sentences)))
"""


def test_weights_come_back_from_what_vela_encodes(run_script: RunScript) -> None:
    assert json.loads(run_script("vela", _ROUND_TRIPS)) == []


def test_damaged_weights_are_a_sentence(run_script: RunScript) -> None:
    sentences = json.loads(run_script("vela", _DAMAGE))
    assert len(sentences) >= 2
    assert all("weights" in sentence for sentence in sentences)
