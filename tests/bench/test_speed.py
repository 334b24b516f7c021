"""What the timings are made into."""

from __future__ import annotations

from asqcli.bench.speed import _figures
from asqcli.bench.timing import Timing


def test_ratios_are_our_time_over_theirs():
    figures = _figures({
        "asq": Timing(6.0, 5.9, 6.1, cores=0.99, runs=100),
        "torch-eager": Timing(24.0, 23.0, 25.0, cores=1.0, runs=25),
        "onnxruntime-int8": Timing(5.0, 4.9, 5.2, cores=1.0, runs=120),
        "openvino-int8": Timing(4.0, 3.9, 4.1, cores=0.98, runs=150),
    })  # fmt: skip
    assert figures["median_ms"] == 6 and figures["peers"]["torch-eager"] == 24
    assert figures["ratios"] == {"torch-eager": 0.25, "onnxruntime-int8": 1.2, "openvino-int8": 1.5}
    assert figures["ratio_to_best_int8"] == 1.5 and figures["spread"]["asq"] == [5.9, 6.1]
    assert not figures["disturbed"]


def test_other_work_is_noticed_and_no_int8_peer_gives_no_ratio():
    figures = _figures({"asq": Timing(6, 6, 6, cores=0.7, runs=9), "torch-eager": Timing(8, 8, 8, cores=1.9, runs=9)})
    assert figures["disturbed"] and figures["ratio_to_best_int8"] is None
