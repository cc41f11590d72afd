"""One training run: devices, features, loop, checkpoints, metrics and the gate."""

from trainer.training.distribution import Devices, connect_devices, name_lost_worker
from trainer.training.fitting import Training
from trainer.training.gate import check_gate, newest_version_metrics
from trainer.training.loop import Epoch, Loop, best_epoch
from trainer.training.metrics import Metrics, SplitResult, measure_logits
from trainer.training.phases import Plan, plan_training, step_options
from trainer.training.preflight import first_error, require_ready, run_checks
from trainer.training.results import MeasuredSplit, measure_splits
from trainer.training.run_directory import RunDirectory, choose_run_id, run_identity
from trainer.training.step import StepOptions
from trainer.training.tuning.search import tune
from trainer.training.tuning.summary import print_summary
from trainer.training.tuning.trials import trial_settings

__all__ = [
    "Devices",
    "Epoch",
    "Loop",
    "MeasuredSplit",
    "Metrics",
    "Plan",
    "RunDirectory",
    "SplitResult",
    "StepOptions",
    "Training",
    "best_epoch",
    "check_gate",
    "choose_run_id",
    "connect_devices",
    "first_error",
    "measure_logits",
    "measure_splits",
    "name_lost_worker",
    "newest_version_metrics",
    "plan_training",
    "print_summary",
    "require_ready",
    "run_checks",
    "run_identity",
    "step_options",
    "trial_settings",
    "tune",
]
