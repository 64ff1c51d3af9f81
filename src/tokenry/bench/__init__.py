"""Measuring what fewer tokens cost: comparing, storing, reporting, tuning."""

from tokenry.bench.arms import BUDGETS
from tokenry.bench.columns import COSTS
from tokenry.bench.compare import Comparison, compare, require_free
from tokenry.bench.data import Data, load_data
from tokenry.bench.demo import run_demo
from tokenry.bench.export import as_csv, as_json
from tokenry.bench.metrics import METRICS, Metric, metric
from tokenry.bench.prompts import Template
from tokenry.bench.report import Report, write_report
from tokenry.bench.results import Results, read_results
from tokenry.bench.single import Single, ask, prepare
from tokenry.bench.summary import Row, summarise
from tokenry.bench.table import as_table
from tokenry.bench.tune import Tuning, tune
from tokenry.data.pictures import open_picture

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
