"""TFLite Micro in a process of its own (the wheel crashes after a few models in one): reads inputs, writes outputs.

Arguments: the file, the number of samples, the number of outputs, then each input and each output as
"1,6,100:SCALE:ZERO": codes become floats on the way in, and floats codes on the way out, where the file wants floats.
"""

import sys
from pathlib import Path

import numpy as np
from tflite_micro.python.tflite_micro import runtime


def main(path: str, samples: str, outputs: str, *ports: str) -> None:
    interpreter = runtime.Interpreter.from_bytes(Path(path).read_bytes(), arena_size=4_000_000)
    parts = [port.split(":") for port in ports]
    codes = [([int(n) for n in shape.split(",")], np.float32(scale), int(zero)) for shape, scale, zero in parts]
    inputs, results = codes[: -int(outputs)], codes[-int(outputs) :]
    for _ in range(int(samples)):
        for n, (shape, scale, zero) in enumerate(inputs):
            data = np.frombuffer(sys.stdin.buffer.read(int(np.prod(shape))), np.int8).reshape(shape)
            floating = interpreter.get_input_details(n)["dtype"] == np.float32
            interpreter.set_input((data.astype(np.float32) - zero) * scale if floating else data, n)
        interpreter.invoke()
        for n, (_, scale, zero) in enumerate(results):
            found = np.ascontiguousarray(interpreter.get_output(n))
            if found.dtype == np.float32:
                found = (np.rint(found / scale) + zero).astype(np.int8)
            sys.stdout.buffer.write(found.tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
