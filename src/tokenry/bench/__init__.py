"""Measuring what fewer tokens cost: comparing, storing, reporting, tuning.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.bench.reducers.arms import BUDGETS as BUDGETS
    from tokenry.bench.reducers.columns import COSTS as COSTS
    from tokenry.bench.reducers.compare import Comparison as Comparison
    from tokenry.bench.reducers.compare import compare as compare
    from tokenry.bench.reducers.compare import require_free as require_free
    from tokenry.bench.reducers.data import Data as Data
    from tokenry.bench.reducers.data import load_data as load_data
    from tokenry.bench.reducers.demo import run_demo as run_demo
    from tokenry.bench.reducers.export import as_csv as as_csv
    from tokenry.bench.reducers.export import as_json as as_json
    from tokenry.bench.reducers.metrics import METRICS as METRICS
    from tokenry.bench.reducers.metrics import Metric as Metric
    from tokenry.bench.reducers.metrics import metric as metric
    from tokenry.bench.reducers.prompts import Template as Template
    from tokenry.bench.reducers.report import Report as Report
    from tokenry.bench.reducers.report import write_report as write_report
    from tokenry.bench.reducers.results import Results as Results
    from tokenry.bench.reducers.results import read_results as read_results
    from tokenry.bench.reducers.single import Single as Single
    from tokenry.bench.reducers.single import ask as ask
    from tokenry.bench.reducers.single import prepare as prepare
    from tokenry.bench.reducers.summary import Row as Row
    from tokenry.bench.reducers.summary import summarise as summarise
    from tokenry.bench.reducers.table import as_table as as_table
    from tokenry.bench.reducers.tune import Tuning as Tuning
    from tokenry.bench.reducers.tune import tune as tune
    from tokenry.bench.reproduce.outcome import Outcome as Outcome
    from tokenry.bench.reproduce.study import Study as Study
    from tokenry.bench.reproduce.vqa.predictions import points as points
    from tokenry.bench.testbeds.asking import BedLab as BedLab
    from tokenry.bench.testbeds.bed import Bed as Bed
    from tokenry.bench.testbeds.bed import open_bed as open_bed
    from tokenry.bench.testbeds.bed import scene_bed as scene_bed
    from tokenry.bench.testbeds.probes import probe_bed as probe_bed
    from tokenry.bench.testbeds.report import judge_bed as judge_bed
    from tokenry.bench.testbeds.report import measure_bed as measure_bed
    from tokenry.data.images.pictures import open_picture as open_picture

__getattr__, __dir__, __all__ = face(__name__)
