"""Reports of runs and published versions: HTML, JSON, plots and TensorBoard."""

from trainer.report.evaluate import evaluate_version
from trainer.report.record import ChiefRecord, RunRecord
from trainer.report.report import Report, Timings, write_report

__all__ = ["ChiefRecord", "Report", "RunRecord", "Timings", "evaluate_version", "write_report"]
