"""The public names with their types, for editors and type checkers; at run time __init__.py resolves them when they are used."""

from stepsmith.baking import bake as bake
from stepsmith.certificate import Certificate as Certificate
from stepsmith.certificate import certify as certify
from stepsmith.certificate import emit as emit
from stepsmith.derive import LinearSDE as LinearSDE
from stepsmith.derive import Method as Method
from stepsmith.derive import Sampler as Sampler
from stepsmith.derive import ScoreParameterization as ScoreParameterization
from stepsmith.derive import list_samplers as list_samplers
from stepsmith.derive import list_sdes as list_sdes
from stepsmith.derive import load_sampler as load_sampler
from stepsmith.derive import load_sde as load_sde
from stepsmith.derive.method import derive as derive
from stepsmith.errors import CertificateError as CertificateError
from stepsmith.errors import InputError as InputError
from stepsmith.errors import Unsupported as Unsupported
from stepsmith.loading import load as load
from stepsmith.measure import problems as problems
from stepsmith.measure.equidistributed import equidistributed as equidistributed
from stepsmith.measure.moments import feature_moments as feature_moments
from stepsmith.runtime import NoiseSource as NoiseSource
from stepsmith.runtime import TimeGrid as TimeGrid
from stepsmith.runtime import data as data
from stepsmith.runtime import draw_path as draw_path
from stepsmith.runtime import follow_path as follow_path
from stepsmith.runtime import invert as invert
from stepsmith.runtime import networks as networks
from stepsmith.runtime import read_samples as read_samples
from stepsmith.runtime import sample as sample
from stepsmith.runtime import step_with_logprob as step_with_logprob
from stepsmith.runtime import transition as transition
from stepsmith.runtime import write_samples as write_samples
from stepsmith.tuned import Tuned as Tuned
from stepsmith.tuning import tune as tune

__version__: str
__all__: list[str]
