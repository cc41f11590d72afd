"""One training run: devices, features, phases, the loop, checkpoints, metrics and the gate."""

from trainer.training.devices import Devices
from trainer.training.distribution import connect_devices, name_lost_worker
from trainer.training.fitting import Training
from trainer.training.gate import gate_refusal, newest_version_metrics
from trainer.training.inputs import prepare_inputs
from trainer.training.loop import Epoch, Loop, best_epoch
from trainer.training.metrics import Metrics, SplitResult, measure_logits
from trainer.training.phases import Plan, architecture_of, plan_training, step_options
from trainer.training.preflight import check_and_scan, first_error, run_checks
from trainer.training.results import MeasuredSplit, measure_splits
from trainer.training.run_directory import RunDirectory, open_run
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
    "architecture_of",
    "best_epoch",
    "check_and_scan",
    "connect_devices",
    "first_error",
    "gate_refusal",
    "measure_logits",
    "measure_splits",
    "name_lost_worker",
    "newest_version_metrics",
    "open_run",
    "plan_training",
    "prepare_inputs",
    "print_summary",
    "run_checks",
    "step_options",
    "trial_settings",
    "tune",
]
