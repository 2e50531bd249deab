"""pullback: measure, and act on, the geometry of neural networks.

A network is a map f(w, x) from parameters and inputs to outputs. This package holds the linear
maps between the spaces of these, at a point w: the Jacobian J, the metrics `J^T M J` on parameters
(Fisher matrices), the kernels `J J^T` on functions (tangent kernels); and what they say about a
network.
"""

from pullback import data, likelihoods
from pullback.errors import InputError
from pullback.jacobian import Jacobian, jacobian
from pullback.kernels.spectra import alignment, effective_rank, trace_ratios
from pullback.kernels.tangent import TangentKernel, tangent_kernel
from pullback.metrics.fisher import fisher
from pullback.metrics.metric import Metric
from pullback.network import Network
from pullback.parameters import ParameterSpace, ParameterVector

__all__ = [
    "InputError",
    "Jacobian",
    "Metric",
    "Network",
    "ParameterSpace",
    "ParameterVector",
    "TangentKernel",
    "alignment",
    "data",
    "effective_rank",
    "fisher",
    "jacobian",
    "likelihoods",
    "tangent_kernel",
    "trace_ratios",
]
