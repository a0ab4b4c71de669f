"""TFLite Micro in a process of its own (the wheel crashes after a few models in one): reads inputs, writes outputs.

Arguments: the file, the number of samples, the number of outputs, the shape of each input ("1,6,100").
"""

import sys
from pathlib import Path

import numpy as np
from tflite_micro.python.tflite_micro import runtime


def main(path: str, samples: str, outputs: str, *shapes: str) -> None:
    interpreter = runtime.Interpreter.from_bytes(Path(path).read_bytes(), arena_size=4_000_000)
    inputs = [tuple(int(n) for n in shape.split(",")) for shape in shapes]
    for _ in range(int(samples)):
        for n, shape in enumerate(inputs):
            data = sys.stdin.buffer.read(int(np.prod(shape)))
            interpreter.set_input(np.frombuffer(data, np.int8).reshape(shape), n)
        interpreter.invoke()
        for n in range(int(outputs)):
            sys.stdout.buffer.write(np.ascontiguousarray(interpreter.get_output(n)).tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
