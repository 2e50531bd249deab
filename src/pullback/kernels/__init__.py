"""Operators on function space: tangent kernels, their spectra, alignment, what they predict.

`pullback.tangent_kernel` makes a kernel; what is here says what follows from one.
"""

from pullback.kernels import infinite
from pullback.kernels.dynamics import (
    StepModes,
    Trajectory,
    gradient_descent,
    gradient_flow,
    step_modes,
)
from pullback.kernels.implicit import ImplicitKernel
from pullback.kernels.kernel import Kernel
from pullback.kernels.regression import (
    KernelRegression,
    class_targets,
    kernel_regression,
    project,
)
from pullback.kernels.solvers import ConjugateGradients, Direct
from pullback.kernels.stored import StoredKernel

__all__ = [
    "ConjugateGradients",
    "Direct",
    "ImplicitKernel",
    "Kernel",
    "KernelRegression",
    "StepModes",
    "StoredKernel",
    "Trajectory",
    "class_targets",
    "gradient_descent",
    "gradient_flow",
    "infinite",
    "kernel_regression",
    "project",
    "step_modes",
]
