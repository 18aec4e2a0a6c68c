"""Small TFLite files with the outputs of YOLOv8's raw heads, and each with a fault of its own.

Three convolutions lead to the strides 8, 16 and 32, and one for each head on from there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.fixtures import RunScript

#: Argv: a folder, and a JSON object {name: what to change of DEFAULTS}. Writes <name>.tflite each.
SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils

DEFAULTS = {
    "size": 64,         # of the image
    "channels": 3,      # of the image
    "width": 8,         # of the first layers
    "heads": ["box8", "score8", "box16", "score16", "box32", "score32", "keypoints"],
    "classes": 1,
    "keypoints": 17,
    "highest": 1.0,     # of the calibration images
    "int8": True,       # or the float model
    "extra": "",        # what else the network does: an operator, or how its outputs are put
}

def build(spec):
    random = np.random.default_rng(0)

    def conv(x, width, stride, kernel=3):
        shape = (kernel, kernel, x.shape[-1], width)
        weights = random.normal(scale=(2 / np.prod(shape[:3])) ** 0.5, size=shape)
        return tf.nn.conv2d(x, tf.constant(weights, tf.float32), stride, "SAME")

    def rows(x, width):
        return tf.reshape(conv(x, width, 1, kernel=1), (1, -1, width))

    def turned(x, width):
        return tf.reshape(tf.transpose(conv(x, width, 1, kernel=1), (0, 3, 1, 2)), (1, -1, width))

    def heads(levels):
        reshape = turned if spec["extra"] == "TRANSPOSE" else rows
        for stride, x in levels.items():
            yield f"box{stride}", reshape(x, 64)
            yield f"score{stride}", reshape(x, spec["classes"])
        points = [rows(x, 3 * spec["keypoints"]) for x in levels.values()]
        yield "keypoints", tf.concat(points, 1)

    def network(x):
        if spec["extra"] == "RESHAPE":
            return [tf.reshape(x, (1, -1, 2**i)) for i in range(len(spec["heads"]))]
        x = tf.nn.relu(conv(x, spec["width"], 2))
        x = quarter = tf.nn.relu(conv(x, 16, 2))
        if spec["extra"] == "TANH":
            x = tf.tanh(x)
        if spec["extra"] == "TILE":
            x = tf.tile(x, (1, 1, 1, 2))
        if spec["extra"] == "WHILE":
            _, x = tf.while_loop(lambda i, _: i < 2, lambda i, x: (i + 1, tf.nn.relu(x)), (0, x))
        levels = {}
        for stride in (8, 16, 32):
            x = levels[stride] = tf.nn.relu(conv(x, 16, 2))
        named = dict(heads(levels))
        if spec["extra"] in ("decoded", "pixels"):
            parts = [tf.concat([named[f"{n}{s}"] for s in levels], 1) for n in ("box", "score")]
            columns = [parts[0][..., :4], parts[1]]
            columns += [named["keypoints"]] if "keypoints" in spec["heads"] else []
            unit = 1000.0 if spec["extra"] == "pixels" else 1.0
            return [tf.transpose(tf.concat(columns, 2) * unit, (0, 2, 1))]
        if spec["extra"].startswith("segment"):
            parts = [tf.concat([rows(x, width) for x in levels.values()], 1) for width in (4, 32)]
            parts.insert(1, tf.concat([named[f"score{stride}"] for stride in levels], 1))
            found = tf.transpose(tf.concat(parts, 2), (0, 2, 1))
            masks = conv(quarter, 32, 1, kernel=1)
            return [masks, found] if spec["extra"].endswith("masks first") else [found, masks]
        return [named[name] for name in spec["heads"]]

    shape = (1, spec["size"], spec["size"], spec["channels"])
    function = tf.function(network).get_concrete_function(tf.TensorSpec(shape, tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    if spec["int8"]:
        def representative():
            for _ in range(2):
                image = random.uniform(0, spec["highest"], shape).astype(np.float32)
                image.flat[0], image.flat[-1] = 0, spec["highest"]
                yield [image]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        if spec["extra"] == "int16":
            sets = tf.lite.OpsSet
            converter.target_spec.supported_ops = [
                sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
            ]
            converter.inference_input_type = converter.inference_output_type = tf.int16
        if spec["extra"] == "WHILE":
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            converter.inference_input_type = converter.inference_output_type = tf.float32
    content = converter.convert()
    if spec["extra"] == "unscaled":
        model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
        graph = model.subgraphs[0]
        for index in graph.outputs:
            graph.tensors[index].quantization = None
        content = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    return content

for name, changes in json.loads(sys.argv[2]).items():
    Path(sys.argv[1], f"{name}.tflite").write_bytes(build({**DEFAULTS, **changes}))
"""


def make_nets(
    run_script: RunScript, specs: Mapping[str, Mapping[str, Any]], folder: Path
) -> dict[str, Path]:
    """Build files in the export environment; ``specs`` says what differs from SCRIPT's DEFAULTS."""
    run_script("export", SCRIPT, folder, json.dumps(specs))
    return {name: folder / f"{name}.tflite" for name in specs}
