"""Runs single operators of a model in TensorFlow Lite Micro, in a process of its own.

An untrusted file may crash that process. This file, run as a script, is that process, and imports
nothing of Kiln: it reads the model, then takes turns to read an operator's number and inputs and to
write its outputs, all pickled.
"""

from __future__ import annotations

import math
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, Any

from numpy.typing import NDArray

#: More than an operator's tensors: the interpreter's own structures.
_ARENA_BYTES = 16 << 20
#: Of a processor, for one operator: thousands of times what one takes that a board could run.
MOST_SECONDS = 20


class OperatorFailed(Exception):
    """Why an operator could not be run: the end of a sentence."""


class CpuOperators:
    """The operators of a model that no NPU runs, each of which may take some seconds of a
    processor. The process starts with the first one."""

    def __init__(self, model: bytes, *, most_seconds: int = MOST_SECONDS) -> None:
        self._model = model
        self._most_seconds = most_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __del__(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def run(self, number: int, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the operator of the first graph with this number on its inputs that are no constants,
        in their order; all outputs. Raises OperatorFailed."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(process.stdin, (number, list(inputs)))
            reply = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            code = process.wait()
            self._process = None
            if code == -signal.SIGXCPU:
                raise OperatorFailed(
                    f"takes more than {self._most_seconds} s in TensorFlow Lite Micro"
                ) from None
            ended = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            raise OperatorFailed(f"ends TensorFlow Lite Micro with {ended}") from None
        if isinstance(reply, str):
            raise OperatorFailed(f"is refused by TensorFlow Lite Micro: {reply}")
        return list(reply)

    def _start(self) -> subprocess.Popen[bytes]:
        # -P keeps this folder off the path, where its modules could hide others.
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(self._most_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        _send(self._process.stdin, self._model)
        return self._process


def _send(stream: IO[bytes], message: object) -> None:
    pickle.dump(message, stream)
    stream.flush()


def single_operator(model: Any, number: int) -> bytes:
    """A model of one operator, whose inputs are those that are no constants.

    ``model``: the object form of the whole one, from the generated schema.
    """
    import flatbuffers
    from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

    graph = model.subgraphs[0]
    operator = graph.operators[number]
    used = [index for index in (*operator.inputs, *operator.outputs) if index >= 0]
    places = {index: place for place, index in enumerate(dict.fromkeys(used))}
    single = schema.ModelT()
    single.version = 3
    single.operatorCodes = [model.operatorCodes[operator.opcodeIndex]]
    single.buffers = [schema.BufferT()]
    subgraph = schema.SubGraphT()
    subgraph.tensors = []
    for index in places:
        tensor = graph.tensors[index]
        single.buffers.append(model.buffers[tensor.buffer])
        tensor.buffer = len(single.buffers) - 1
        subgraph.tensors.append(tensor)
    # A tensor that is computed may have no data, or data of length 0.
    contents = {index: single.buffers[1 + place].data for index, place in places.items()}
    constants = {index for index, data in contents.items() if data is not None and len(data)}
    subgraph.inputs = [places[i] for i in operator.inputs if i >= 0 and i not in constants]
    subgraph.outputs = [places[index] for index in operator.outputs]
    operator.inputs = [places.get(index, -1) for index in operator.inputs]
    operator.outputs = list(subgraph.outputs)
    operator.opcodeIndex = 0
    subgraph.operators = [operator]
    single.subgraphs = [subgraph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(single.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _open(content: bytes, number: int) -> tuple[Any, int]:
    """An interpreter of one operator, and its number of outputs."""
    from tflite_micro.python.tflite_micro import runtime
    from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

    # Read again for each operator: `single_operator` changes the object.
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    outputs = len(model.subgraphs[0].operators[number].outputs)
    single = single_operator(model, number)
    return runtime.Interpreter.from_bytes(single, arena_size=_ARENA_BYTES), outputs


def _limit_time(seconds: int) -> None:
    """End this process if it computes longer from now on."""
    most = math.ceil(time.process_time()) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def main() -> None:
    """Serve until the other side closes; anything but replies goes to stderr. Argv: the seconds
    that an operator may take."""
    most_seconds = int(sys.argv[1])
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    content = pickle.load(sys.stdin.buffer)
    interpreters: dict[int, tuple[Any, int]] = {}
    while True:
        try:
            number, inputs = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        _limit_time(most_seconds)
        reply: object
        try:
            if number not in interpreters:
                interpreters[number] = _open(content, number)
            interpreter, outputs = interpreters[number]
            for place, values in enumerate(inputs):
                interpreter.set_input(values, place)
            interpreter.invoke()
            reply = [interpreter.get_output(place).copy() for place in range(outputs)]
        except Exception as error:  # a damaged operator may raise anything
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reply = lines[0]
        _send(replies, reply)


if __name__ == "__main__":
    main()
