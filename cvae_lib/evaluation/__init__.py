"""Judging a model: how likely it finds held-out data, whether it draws what it is asked for, and what of it is used."""

from cvae_lib.evaluation._estimate import Estimate, mean_and_error
from cvae_lib.evaluation.attributes import Calibration, calibration, control_calibration
from cvae_lib.evaluation.collapse import CollapseReport, collapse_report
from cvae_lib.evaluation.control import Classifier, Control, accuracy, control_accuracy, train_classifier
from cvae_lib.evaluation.disentanglement import Disentanglement, mutual_information_gap
from cvae_lib.evaluation.forecasts import (
    Coverage,
    ForecastReport,
    crps,
    crps_gaussian,
    crps_gaussian_mixture,
    energy_score,
    forecast_report,
    interval_coverage,
)
from cvae_lib.evaluation.information import Information, mutual_information
from cvae_lib.evaluation.likelihood import (
    class_log_likelihoods,
    likelihood_by_samples,
    log_likelihood,
    marginal_log_likelihood,
)
from cvae_lib.evaluation.probe import linear_probe, posterior_means
from cvae_lib.evaluation.spread import Diversity, diversity, mean_pairwise_distance, relative_diversity
from cvae_lib.evaluation.terms import RateDistortion, rate_distortion
from cvae_lib.evaluation.use import ActiveUnits, YUse, ZUse, active_units, is_y_used, is_z_used

__all__ = [
    "ActiveUnits",
    "Calibration",
    "Classifier",
    "CollapseReport",
    "Control",
    "Coverage",
    "Disentanglement",
    "Diversity",
    "Estimate",
    "ForecastReport",
    "Information",
    "RateDistortion",
    "YUse",
    "ZUse",
    "accuracy",
    "active_units",
    "calibration",
    "class_log_likelihoods",
    "collapse_report",
    "control_accuracy",
    "control_calibration",
    "crps",
    "crps_gaussian",
    "crps_gaussian_mixture",
    "diversity",
    "energy_score",
    "forecast_report",
    "interval_coverage",
    "is_y_used",
    "is_z_used",
    "likelihood_by_samples",
    "linear_probe",
    "log_likelihood",
    "marginal_log_likelihood",
    "mean_and_error",
    "mean_pairwise_distance",
    "mutual_information",
    "mutual_information_gap",
    "posterior_means",
    "rate_distortion",
    "relative_diversity",
    "train_classifier",
]
