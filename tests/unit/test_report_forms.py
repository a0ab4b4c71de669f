"""The report as page, Markdown and JUnit XML: what it says, what it escapes, what it leaves unsaid."""

from __future__ import annotations

import html as html_lib
import io
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline import console
from pipeline.release import flipped, html, junit, markdown, samples
from pipeline.release.html import charts, pictures, svg, words
from pipeline.release.report import Report

N = 40
CLASSES = ("<cat>", "dog", "bird")
HOSTILE = '<script>alert("x")</script>|'


def record(change: Callable[[Any], None] = lambda record: None) -> Report:
    """A run of one target with two candidates, one of which is no good."""
    latency = {"p50": 0.5, "p90": 0.6, "p99": None, "n": 200}
    common = {
        "artifact": None, "sha256": None, "scheme": None, "observer": None, "int8_op_share": 1.0, "metric": 0.9,
        "agreement": 1.0, "latency_ms": latency, "drop_points": 0.0, "quant_drop_points": 0.0,
    }  # fmt: skip
    candidates = [
        {**common, "id": "float", "quantizer": "none", "precision": "f32", "size_bytes": 40_000, "weight_bytes": 39_000,
         "int8_mac_share": 0.0, "float_ops": [], "sqnr_db": None, "verdict": "pass",
         "speedup": {"median": 1.0, "low": 1.0, "high": 1.0}},
        {**common, "id": "ours", "quantizer": "ours", "precision": "int8", "size_bytes": 12_345, "weight_bytes": 9_000,
         "int8_mac_share": 0.97, "float_ops": ["HARD_SWISH at 3"], "sqnr_db": 31.25, "verdict": "pass",
         "speedup": {"median": 1.75, "low": 1.5, "high": 2.0}},
        {**common, "id": "broken", "quantizer": "vendor", "precision": "int8", "size_bytes": None, "weight_bytes": None,
         "int8_mac_share": None, "float_ops": [], "sqnr_db": 3.0, "verdict": "fail", "why": HOSTILE, "speedup": None},
    ]  # fmt: skip
    run = {
        "device": {"cpu": "a"}, "runtime": "tflite", "runtime_version": "2", "precision": "int8", "batch": 1, "n": N,
        "finite": True, "metric": 0.9, "drop_points": 0.5, "margin_points": 2.0, "drop_upper_points": 1.5,
        "quant_drop_points": None, "flips": {"lost": 1, "gained": 1}, "agreement": 0.95, "sqnr_db": 31.25,
        "latency_ms": latency, "float_latency_ms": latency, "peak_memory_bytes": None,
        "speedup": {"median": 1.75, "low": 1.5, "high": 2.0},
    }  # fmt: skip
    made = {
        "verdict": "fail", "exit_code": 1,
        "environment": {"python": "3", "platform": "l", "device": {}, "versions": {}},
        "recipe": {"name": HOSTILE, "seed": 0, "folder": "/a b", "set": ["prune.macs=0.5"], "batch": 1,
                   "gate": {"confidence": 0.95}, "profile": {"threads": 1}, "task": {"metric": "accuracy"}},
        "data": {"gate": N}, "gate_split": {"n": N, "groups": None, "shared_samples": 0, "digest": "d"},
        "gate_looks": 1, "float": {"metric": 0.95, "n": N, "params": 10_000, "macs": 1_000_000, "size_bytes": 40_000},
        "stages": [{"name": "train", "branches": [], "key": "k", "seconds": 1.0, "cached": False, "metric": 0.95,
                    "params": 10_000, "macs": 1_000_000}],
        "targets": {
            "tflite": {
                "verdict": "fail", "reasons": ["too large"], "shipped": "ours", "sha256": "ab", "size_bytes": 12_345,
                "batches": [1], "candidates": candidates, "runs": [run],
                "checks": [{"name": "accuracy", "verdict": "pass", "reason": "bound < margin", "batch": 1},
                           {"name": "file size", "verdict": "fail", "reason": "12,345 > 10,000 bytes"},
                           {"name": "flip rate", "verdict": "inconclusive", "reason": "more samples"}]},
            "openvino": {"verdict": "error", "reasons": ["it broke\x00"]},
        },
    }  # fmt: skip
    change(made)
    return Report.model_validate(made)


def deliver(folder: Path, images: Any) -> None:
    """The evidence beside a delivered model: sample 1 lost, sample 2 gained."""
    labels = np.zeros(N, np.int64)
    before, after = np.eye(3)[labels], np.eye(3)[labels]
    after[1], before[2] = (0, 1, 0), (0, 0, 1)
    beside = folder / "tflite" / "evidence"
    beside.mkdir(parents=True)
    answers = samples.from_logits(labels, before, after, CLASSES)
    samples.Samples(N, answers).save(beside / samples.file_name(1))
    flipped.save(beside / flipped.FILE, answers, {"input": images})
    (folder / "samples").mkdir()
    raw = np.random.default_rng(0).integers(400_000, 600_000, 200)
    np.savez(folder / "samples" / "tflite-profile.npz", float=raw * 2, shipped=raw)


def test_the_page_says_the_verdict_first_and_draws_what_flipped(tmp_path: Path) -> None:
    deliver(tmp_path, np.random.default_rng(0).normal(size=(N, 1, 8, 8)).astype(np.float32))
    page = html.page(record(), tmp_path)
    body = page.partition("<body>")[2]
    assert body.index("fails") < body.index("openvino") < body.index("HARD_SWISH at 3")
    assert body.index("lost</span>") < body.index("gained</span>")
    assert "is <b>&lt;cat&gt;</b> (sample 1)<br>float: &lt;cat&gt;" in body
    assert "tflite: dog" in body
    assert "is <b>&lt;cat&gt;</b> (sample 2)<br>float: bird" in body
    assert body.count("data:image/png;base64,") == 2
    assert "float, 200 samples" in body
    assert "97.0" in body
    assert "--recipe &#39;/a b/deploy.toml&#39; --seed 0 --set prune.macs=0.5" in body


def test_nothing_in_a_page_comes_from_elsewhere_or_runs(tmp_path: Path) -> None:
    page = html.page(record(), tmp_path)
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)|url\(|@import', page)
    assert "&lt;script&gt;" in page


def test_what_is_not_there_is_said_and_never_0(tmp_path: Path) -> None:
    page = html.page(record(), tmp_path)
    assert "no raw samples beside this report" in page
    assert "no evidence of them lies beside this report" in page
    assert re.search(r"<td>broken</td><td>unavailable</td><td>unavailable</td>", page)


def test_damaged_evidence_shows_less_and_breaks_nothing(tmp_path: Path) -> None:
    deliver(tmp_path, np.zeros((N, 1, 8, 8), np.float32))
    for file in [*tmp_path.rglob("*.npz")]:
        file.write_bytes(file.read_bytes()[:50])
    assert "no raw samples beside this report" in html.page(record(), tmp_path)


def test_other_metrics_than_accuracy_are_no_percentages(tmp_path: Path) -> None:
    def regression(made: Any) -> None:
        made["recipe"]["task"]["metric"] = "mae"
        made["float"]["metric"] = -0.1234
        run = made["targets"]["tflite"]["runs"][0]
        run |= {"flips": {}, "drop_points": None, "drop_upper_points": None, "agreement": None}
        run["metrics"] = {"mae": {"drop": 0.5, "low": 0.25, "high": 0.75, "method": "how", "unit": "% of float"}}

    page, comment = html.page(record(regression), tmp_path), markdown.text(record(regression))
    assert "−0.1234 mae there" in page
    assert "+0.25 to +0.75" in page
    assert "Float: −0.1234 mae" in comment


def test_junit_has_a_case_for_each_check_and_an_error_for_a_target_without() -> None:
    root = ElementTree.fromstring(junit.text(record()))
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("4", "2", "1")
    cases = {(case.get("classname"), case.get("name")): [child.tag for child in case] for case in root.iter("testcase")}
    assert cases == {
        ("tflite", "accuracy, batch 1"): ["system-out"],
        ("tflite", "file size"): ["failure"],
        ("tflite", "flip rate"): ["failure"],
        ("openvino", "evidence"): ["error"],
    }
    assert [f.get("type") for f in root.iter("failure")] == ["fail", "inconclusive"]


def test_markdown_keeps_its_tables_whole() -> None:
    text = markdown.text(record())
    assert "<script>" not in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table
    assert "- **tflite**: too large" in text
    assert "| 1.75× (1.50–2.00) |" in text


def test_which_of_several_outputs_is_judged_stands_beside_the_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def several(made: Any) -> None:
        made["float"]["output"] = "scores"
        made["recipe"]["name"] = "two"

    one, other = record(several), record()
    console.summary(one, tmp_path)
    assert "two: float 95.00% of output 'scores' on 40 gate samples" in capsys.readouterr().out
    assert "accuracy of output 'scores' on 40 gate samples" in html_lib.unescape(markdown.text(one))
    assert "accuracy of output 'scores' there" in html_lib.unescape(html.page(one, tmp_path))
    assert "of output" not in markdown.text(other) + html.page(other, tmp_path)


def test_the_terminal_says_why_a_candidate_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console.summary(record(), tmp_path)
    assert f"\n  broken: {HOSTILE}\n" in capsys.readouterr().out
    console.summary(record(), tmp_path, brief=True)  # what was judged alone
    assert "broken" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [
        ((1, 28, 28), "<img"), ((3, 9, 9), "<img"), ((9, 9, 3), "<img"), ((6, 100), "<svg"), ((100,), "<svg"),
        ((16000,), "<img"), ((1, 4000), "<img"), ((49, 40), "<img"), ((7,), None), ((2, 2, 2, 2), None),
    ],
)  # fmt: skip
def test_a_sample_is_drawn_by_its_shape(shape: tuple[int, ...], drawn: str | None) -> None:
    sample = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    picture = pictures.draw(sample)
    assert (picture is None) == (drawn is None)
    assert drawn is None or drawn in str(picture)


def test_constant_sound_and_images_are_drawn_and_nan_is_not() -> None:
    for shape in ((1, 28, 28), (6, 100), (16000,)):
        assert pictures.draw(np.zeros(shape, np.float32)) is not None
        assert pictures.draw(np.full(shape, np.nan, np.float32)) is None
    assert pictures.draw(np.arange(12)) is None  # token ids are no trace


def test_a_tone_is_bright_at_its_own_height() -> None:
    rate, tone = 16_000, 2_000
    shares = pictures._spectrogram(np.sin(2 * np.pi * tone * np.arange(rate) / rate))
    brightest = int(shares.mean(axis=1).argmax())
    assert abs((1 - (brightest + 0.5) / len(shares)) * rate / 2 - tone) < rate / 2 / len(shares) * 2


def test_png_is_read_by_another_program() -> None:
    image = pytest.importorskip("PIL.Image")
    for channels in (1, 3):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(np.uint8)
        seen = np.asarray(image.open(io.BytesIO(pictures.png(pixels)))).reshape(5, 7, channels)
        np.testing.assert_array_equal(seen, pixels)


def test_the_front_joins_only_what_nothing_beats() -> None:
    # places on the page: left is faster, smaller y is better
    stairs = str(charts._front([(10.0, 50.0), (20.0, 20.0), (30.0, 40.0), (40.0, 10.0)]))
    assert 'd="M10 50L20 50L20 20L40 20L40 10"' in stairs


def test_labels_keep_their_distance() -> None:
    places = charts._spread([10.0, 11.0, 12.0, 98.0, 99.0], 14, 10, 100)
    assert all(after - before >= 14 for before, after in pairwise(places))
    assert max(places) <= 100


def test_ticks_are_round_and_inside() -> None:
    assert svg.Scale(-1.07, 5.4, 0, 1).ticks() == [0, 2, 4]
    assert svg.Scale(0.0161, 0.0183, 0, 1).ticks() == [0.017, 0.018]
    assert svg.LogScale(0.13, 4.2, 0, 1).ticks() == [0.2, 0.5, 1, 2]
    assert svg.LogScale(0.0161, 0.0183, 0, 1).ticks() == [0.017, 0.018]
    assert svg.LogScale(1, 100, 0, 50)(10) == 25
    assert svg.Scale(-0.3, 0.3, 0, 1).ticks(6) == [-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.size(999), "999\xa0B"), (words.size(16_811), "16.8\xa0kB"), (words.size(2_500_000), "2.5\xa0MB"),
        (words.milliseconds(0.00627), "0.00627\xa0ms"), (words.milliseconds(12.345), "12.3\xa0ms"),
        (words.milliseconds(1234.5), "1234\xa0ms"), (words.count(63_959), "64\xa0k"), (words.points(-0.5), "−0.50"),
        (words.size(None), "unavailable"), (words.percent(None), "unavailable"), (words.ratio(None), "unavailable"),
        (words.points(None), "unavailable"), (words.milliseconds(None), "unavailable"),
    ],
)  # fmt: skip
def test_figures_carry_their_units(said: str, expected: str) -> None:
    assert said == expected


def test_only_a_few_of_each_kind_are_kept(tmp_path: Path) -> None:
    labels = np.zeros(100, np.int64)
    before, after = np.eye(3)[labels], np.eye(3)[labels]
    after[10:40], before[50:55] = (0, 1, 0), (0, 0, 1)
    answers = samples.from_logits(labels, before, after)
    flipped.save(tmp_path / "f.npz", answers, {"x": np.arange(100.0)})
    kept = flipped.load(tmp_path / "f.npz")
    assert kept.index.tolist() == [*range(10, 10 + flipped.MOST), *range(50, 55)]
    np.testing.assert_array_equal(kept.inputs["x"], kept.index)


EXPLAINED = {
    "target": "tflite", "candidate": "ours", "n": 7, "sqnr_db": 12.5, "agreement": 0.75, "breaks_at": "conv<1>",
    "note": "", "outputs": {"boxes": 31.25, HOSTILE: None}, "lengths": {"4": 8.5},
    "causes": [{"name": "dead channels", "layer": "conv<1>", "text": HOSTILE}],
    "layers": [{"name": "conv<1>", "sqnr_db": 3.25, "clipped": 0.5, "dead": [1, 2]},
               {"name": "same", "sqnr_db": None, "clipped": None, "dead": []}],
    "kept": [{"layer": "fc", "sqnr_db": 20.0, "gain_db": 7.5, "why": ""},
             {"layer": "none", "sqnr_db": None, "gain_db": None, "why": "x"}],
}  # fmt: skip


def test_an_explanation_beside_the_report_is_shown(tmp_path: Path) -> None:
    (tmp_path / "explain.json").write_text(json.dumps([EXPLAINED, EXPLAINED | {"candidate": "gone"}]))
    text = html.page(record(), tmp_path)
    assert "<h3>tflite: ours</h3>" in text
    assert "tflite: gone" not in text  # not of this run
    assert "conv&lt;1&gt;" in text
    assert HOSTILE not in text
    for said in ("12.5", "75.0", "dead channels", "+7.5", "identical", "50.00", "31.2", "length 4 8.5"):
        assert said in text, said
    (tmp_path / "explain.json").write_text("{}")
    assert "Why int8 differs" not in html.page(record(), tmp_path)


def test_layers_are_drawn_slowest_first_and_a_runtime_that_tells_none_is_named() -> None:
    rows = [
        {"op": HOSTILE if k == 7 else "Conv", "name": f"layer{k}", "type": "jit", "precision": "int8", "ms": k / 100,
         "share": k / 210}
        for k in range(1, 21)
    ]  # fmt: skip

    def told(made: Any) -> None:
        made["targets"]["tflite"]["runs"][0]["layers"] = rows

    page = html.page(record(told), Path("nowhere"))
    drawn = re.findall(r'<rect [^>]*class="layer"[^>]*><title>([^<]*)', page)
    assert drawn == [f"layer{k}" for k in range(20, 8, -1)] + ["8 more"]
    assert "10%, 0.2 ms" in page

    def untold(made: Any) -> None:
        made["targets"]["tflite"]["runs"][0]["layers_unavailable"] = HOSTILE

    assert "unavailable: &lt;script&gt;" in html.page(record(untold), Path("nowhere"))
