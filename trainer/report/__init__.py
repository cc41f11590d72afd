"""Reports of runs and published versions: HTML, JSON, plots and TensorBoard."""

from trainer.report.evaluate import evaluate_version
from trainer.report.event_log import EventLog
from trainer.report.plots import write_learning_curves
from trainer.report.report import Report, Timings, write_report

__all__ = ["EventLog", "Report", "Timings", "evaluate_version", "write_learning_curves", "write_report"]
