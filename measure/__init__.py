"""stepsmith.measure: what is measured, and never imported when a user samples.

problems (data whose score is known exactly), probe (mean and covariance of a run without Monte Carlo), flow (the exact law and
its probability flow), slopes (measured orders), budgets (errors at equal numbers of calls), frechet (distance of digits);
orders and coefficients hold the emitted modules to what derive proves, and are the only two that import derive or templates.
"""
