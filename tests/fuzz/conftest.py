"""How many examples the fuzz tests try: a few hundred in CI, more with `HYPOTHESIS_PROFILE=thorough pytest tests/fuzz`."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci",
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=True,
    database=None,
)
settings.register_profile("thorough", settings.get_profile("ci"), max_examples=25_000, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
