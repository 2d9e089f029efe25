"""The plots of simulated runs."""

from cero_alloc import plotting

RUN_PLOTS = [
    plotting.plot_price,
    plotting.plot_pacing,
    plotting.plot_exposure,
    plotting.plot_allocation,
    plotting.plot_lift,
    plotting.plot_calibration,
    plotting.plot_mixed_groups,
    plotting.plot_frontier,
]
