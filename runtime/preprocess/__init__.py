"""From a volume to voxels, trial betas and normalised features: causal and pure."""

from .baseline import PercentSignal as PercentSignal
from .beta import MEASURED_SHARE as MEASURED_SHARE
from .beta import LateTrialError as LateTrialError
from .beta import TrialBeta as TrialBeta
from .centre import RunningCentre as RunningCentre
from .drift import cosine_drift as cosine_drift
from .feature_space import FeatureSpace as FeatureSpace
from .glm import IncrementalTrialGlm as IncrementalTrialGlm
from .hrf import CANONICAL as CANONICAL
from .hrf import Hrf as Hrf
from .hrf import step_response as step_response
from .hrf import trial_regressor as trial_regressor
from .mask import VoxelMask as VoxelMask
from .normalise import AffineNormaliser as AffineNormaliser
from .normalise import CausalNormaliser as CausalNormaliser
from .normalise import CausalStatistics as CausalStatistics
from .normalise import normalise_run as normalise_run
from .responses import Responses as Responses
from .timing import decision_volume as decision_volume
from .timing import end_s as end_s
from .timing import middle_s as middle_s
from .timing import middles_s as middles_s
from .today import todays_normaliser as todays_normaliser
from .whiten import NoiseWhitening as NoiseWhitening
