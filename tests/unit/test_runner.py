"""What platforms' benchmark programs print, read into figures.

The first and the last recording follow the formats that the programs' sources and documents show (benchmark_model of
TensorFlow 2.9 and 2.21, onnxruntime_perf_test of ONNX Runtime 1.3 and 1.24); that of benchmark_app was made here, with
OpenVINO 2026.4's own. No package carries the others.
"""

import pytest

from targets.channels.runner import TOOLS, read

BENCHMARK_MODEL_2_21 = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Loaded model model.tflite
INFO: Initialized session in 92.318ms.
INFO: Running benchmark for at least 1 iterations and at least 0.1 seconds but terminate if exceeding 150 seconds.
INFO: count=4 first=41200 curr=30020 min=29950 max=41200 avg=32790.5 std=4860 p5=29950 median=30020 p95=41200

INFO: Running benchmark for at least 10 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=17 first=30512 curr=29990 min=29871 max=31245 avg=30061.2 std=310 p5=29871 median=30003 p95=31245

INFO: Inference timings in us: Init: 92318, First inference: 41200, Warmup (avg): 32790.5, Inference (avg): 30061.2
INFO: Memory footprint delta from the start of the tool (MB): init=54.25 overall=73.5
"""
BENCHMARK_MODEL_2_9 = """\
STARTING!
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=1 first=1041765

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=977738 curr=964908 min=911877 max=1112273 avg=1.01535e+06 std=39112

Inference timings in us: Init: 6418, First inference: 1041765, Warmup (avg): 1.04176e+06, Inference (avg): 1.01535e+06
"""
PERF_TEST_1_24 = """\
Session creation time cost: 0.0127918 s
First inference time cost: 9 ms
Total inference time cost: 1.44871 s
Total inference requests: 172
Average inference time cost total: 8.422733 ms
Total inference run time: 1.44916 s
Number of inferences per second: 118.689
Avg CPU usage: 68 %
Peak working set size: 158171136 bytes
Avg CPU usage:68
Min Latency: 0.00802 s
Max Latency: 0.01311 s
P50 Latency: 0.00833 s
P90 Latency: 0.00901 s
P95 Latency: 0.00934 s
P99 Latency: 0.0122 s
P999 Latency: 0.01311 s
"""
PERF_TEST_1_3 = """\
Session creation time cost:0.133189 s
Total inference time cost:600.051 s
Total inference requests:7160
Average inference time cost:83.8059 ms
Total inference run time:600.102 s
"""
BENCHMARK_APP_2026_4 = """\
[Step 7/11] Loading the model to the device
[ INFO ] Compile model took 201.58 ms
[Step 10/11] Measuring performance (Start inference synchronously, limits: 1000 ms duration)
[ INFO ] Benchmarking in inference only mode (inputs filling are not included in measurement loop).
[ INFO ] First inference took 27.45 ms
[Step 11/11] Dumping statistics report
[ INFO ] Execution Devices:['CPU']
[ INFO ] Count:            96 iterations
[ INFO ] Duration:         1007.24 ms
[ INFO ] Latency:
[ INFO ]    Median:        11.17 ms
[ INFO ]    Average:       10.36 ms
[ INFO ]    Min:           1.87 ms
[ INFO ]    Max:           21.23 ms
[ INFO ] Throughput:   95.31 FPS
"""


@pytest.mark.parametrize(
    ("runtime", "said", "figures"),
    [
        (
            "tflite",
            BENCHMARK_MODEL_2_21,
            {"n": 17, "p50": 30.003, "average": 30.0612, "load": 92.318, "memory": 73.5 * 2**20},
        ),
        ("tflite", BENCHMARK_MODEL_2_9, {"n": 50, "p50": None, "average": 1015.35, "load": 6.418, "memory": None}),
        (
            "onnxruntime",
            PERF_TEST_1_24,
            {
                "n": 172,
                "p50": 8.33,
                "p90": 9.01,
                "p99": 12.2,
                "average": 8.422733,
                "load": 12.7918,
                "memory": 158171136,
            },
        ),
        (
            "onnxruntime",
            PERF_TEST_1_3,
            {"n": 7160, "p50": None, "p90": None, "p99": None, "average": 83.8059, "load": 133.189, "memory": None},
        ),
        ("openvino", BENCHMARK_APP_2026_4, {"n": 96, "p50": 11.17, "average": 10.36, "load": 201.58}),
        (
            "openvino",
            BENCHMARK_APP_2026_4.replace("11.17 ms", "812.30 us").replace("10.36 ms", "830.00 us"),
            {"n": 96, "p50": 0.8123, "average": 0.83, "load": 201.58},
        ),
    ],
)
def test_recordings_are_read(runtime, said, figures):
    found = read(TOOLS[runtime], said)
    assert found == {name: None if value is None else pytest.approx(value) for name, value in figures.items()}


@pytest.mark.parametrize("runtime", TOOLS)
@pytest.mark.parametrize("said", ["", "no such option: --graph\n", "Segmentation fault\n"])
def test_what_is_no_such_program_is_named(runtime, said):
    with pytest.raises(ValueError, match=said.strip() or "it said nothing"):
        read(TOOLS[runtime], said)
