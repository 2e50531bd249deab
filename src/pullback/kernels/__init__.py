"""Operators on function space: tangent kernels, their spectra, alignment, what they predict.

`pullback.tangent_kernel` makes a kernel; what is here says what follows from one.
"""

from pullback.kernels import infinite
from pullback.kernels.alignment import (
    class_alignment,
    group_alignment,
    hierarchy_ratio,
    layer_alignment,
)
from pullback.kernels.dynamics import (
    StepModes,
    Trajectory,
    gradient_descent,
    gradient_flow,
    step_modes,
)
from pullback.kernels.implicit import ImplicitKernel
from pullback.kernels.kernel import Kernel
from pullback.kernels.mercer import (
    Eigenfunctions,
    LocalEnergy,
    eigenfunctions,
    local_energy,
    numerical_rank,
)
from pullback.kernels.regression import (
    KernelRegression,
    class_targets,
    kernel_regression,
    project,
)
from pullback.kernels.solvers import ConjugateGradients, Direct
from pullback.kernels.stored import StoredKernel
from pullback.kernels.targets import (
    EnergyConcentration,
    RKHSNorm,
    Rotation,
    energy_concentration,
    rkhs_lower_bound,
    rkhs_norm,
    rotation,
    target_alignment,
)

__all__ = [
    "ConjugateGradients",
    "Direct",
    "Eigenfunctions",
    "EnergyConcentration",
    "ImplicitKernel",
    "Kernel",
    "KernelRegression",
    "LocalEnergy",
    "RKHSNorm",
    "Rotation",
    "StepModes",
    "StoredKernel",
    "Trajectory",
    "class_alignment",
    "class_targets",
    "eigenfunctions",
    "energy_concentration",
    "gradient_descent",
    "gradient_flow",
    "group_alignment",
    "hierarchy_ratio",
    "infinite",
    "kernel_regression",
    "layer_alignment",
    "local_energy",
    "numerical_rank",
    "project",
    "rkhs_lower_bound",
    "rkhs_norm",
    "rotation",
    "step_modes",
    "target_alignment",
]
