"""Judging a model: how likely it finds held-out data, and whether it draws what it is asked for."""

from cvae_lib.evaluation.control import Control, Judge, accuracy, control_accuracy, train_judge
from cvae_lib.evaluation.likelihood import Estimate, class_log_likelihoods, log_likelihood, mean_and_error
from cvae_lib.evaluation.probe import linear_probe, posterior_means

__all__ = [
    "Control",
    "Estimate",
    "Judge",
    "accuracy",
    "class_log_likelihoods",
    "control_accuracy",
    "linear_probe",
    "log_likelihood",
    "mean_and_error",
    "posterior_means",
    "train_judge",
]
