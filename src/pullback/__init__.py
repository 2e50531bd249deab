"""pullback: measure, and act on, the geometry of neural networks.

A network is a map f(w, x) from parameters and inputs to outputs. This package holds the linear
maps between the spaces of these, at a point w: the Jacobian J, the metrics `J^T M J` on parameters
(Fisher matrices), the kernels `J J^T` on functions (tangent kernels); and what they say about a
network.
"""

from pullback import anisotropy, data, kernels, likelihoods, linear, probes
from pullback.errors import InputError
from pullback.estimates import Estimate
from pullback.jacobian import Jacobian, jacobian
from pullback.kernels.cost import KernelCost, kernel_cost
from pullback.kernels.dense import TangentKernel
from pullback.kernels.spectra import alignment, effective_rank, trace_ratios
from pullback.kernels.tangent import tangent_kernel
from pullback.linear import LinearizedModel, linearize
from pullback.metrics.average import average
from pullback.metrics.cost import Cost, cost
from pullback.metrics.fisher import fisher
from pullback.metrics.hessian import hessian
from pullback.metrics.metric import Metric
from pullback.metrics.quality import Quality, quality
from pullback.network import Network
from pullback.parameters import ParameterSpace, ParameterVector

__all__ = [
    "Cost",
    "Estimate",
    "InputError",
    "Jacobian",
    "KernelCost",
    "LinearizedModel",
    "Metric",
    "Network",
    "ParameterSpace",
    "ParameterVector",
    "Quality",
    "TangentKernel",
    "alignment",
    "anisotropy",
    "average",
    "cost",
    "data",
    "effective_rank",
    "fisher",
    "hessian",
    "jacobian",
    "kernel_cost",
    "kernels",
    "likelihoods",
    "linear",
    "linearize",
    "probes",
    "quality",
    "tangent_kernel",
    "trace_ratios",
]
