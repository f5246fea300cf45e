"""Likelihoods: modules that turn a decoder's output into the distribution p(x|z,y) over one x.

Each also says, once for training and judging, how stored data become x: :meth:`Likelihood.prepare`. Where some entries
are not observed, :func:`masked` leaves them out.
"""

from cvae_lib.likelihoods._levels import CategoricalLevel, DiscretisedLogistic
from cvae_lib.likelihoods._likelihood import Likelihood
from cvae_lib.likelihoods._masked import Masked, masked
from cvae_lib.likelihoods._pixels import BernoulliPixels, CategoricalPixels, GaussianPixels, LogisticPixels
from cvae_lib.likelihoods._table import TableLikelihood, TableRow
from cvae_lib.likelihoods._tokens import TokenLikelihood, TokenSequence

__all__ = [
    "BernoulliPixels",
    "CategoricalLevel",
    "CategoricalPixels",
    "DiscretisedLogistic",
    "GaussianPixels",
    "Likelihood",
    "LogisticPixels",
    "Masked",
    "TableLikelihood",
    "TableRow",
    "TokenLikelihood",
    "TokenSequence",
    "masked",
]
