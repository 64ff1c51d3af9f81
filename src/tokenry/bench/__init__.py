"""Measuring what fewer tokens cost: comparing, storing, reporting, tuning."""

from tokenry.bench.reducers.arms import BUDGETS
from tokenry.bench.reducers.columns import COSTS
from tokenry.bench.reducers.compare import Comparison, compare, require_free
from tokenry.bench.reducers.data import Data, load_data
from tokenry.bench.reducers.demo import run_demo
from tokenry.bench.reducers.export import as_csv, as_json
from tokenry.bench.reducers.metrics import METRICS, Metric, metric
from tokenry.bench.reducers.prompts import Template
from tokenry.bench.reducers.report import Report, write_report
from tokenry.bench.reducers.results import Results, read_results
from tokenry.bench.reducers.single import Single, ask, prepare
from tokenry.bench.reducers.summary import Row, summarise
from tokenry.bench.reducers.table import as_table
from tokenry.bench.reducers.tune import Tuning, tune
from tokenry.data.images.pictures import open_picture

__all__ = [
    "BUDGETS",
    "COSTS",
    "METRICS",
    "Comparison",
    "Data",
    "Metric",
    "Report",
    "Results",
    "Row",
    "Single",
    "Template",
    "Tuning",
    "as_csv",
    "as_json",
    "as_table",
    "ask",
    "compare",
    "load_data",
    "metric",
    "open_picture",
    "prepare",
    "read_results",
    "require_free",
    "run_demo",
    "summarise",
    "tune",
    "write_report",
]
