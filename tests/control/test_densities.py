"""The densities of reports are those of the posteriors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from gateway.control.reports.distributions import _density
from policies.bayes.posterior import Beta, Gamma, Posterior, Student


@pytest.mark.parametrize(
    ("posterior", "reference"),
    [
        (Beta(3.2, 7.1), stats.beta(3.2, 7.1)),
        (Beta(0.5, 1e6), stats.beta(0.5, 1e6)),
        (Gamma(3.2, 7.1), stats.gamma(3.2, scale=1 / 7.1)),
        (Student(3.2, 0.3, 7.1), stats.t(3.2, 0.3, 7.1)),
    ],
)
def test_they_are_the_ones_of_scipy(posterior: Posterior, reference: Any) -> None:
    at = np.linspace(posterior.quantile(0.001), posterior.quantile(0.999), 64)
    np.testing.assert_allclose(_density(posterior, at), reference.pdf(at), rtol=1e-9)
