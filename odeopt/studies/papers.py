"""The papers whose claims are asked here, and why some of them have none."""

import dataclasses

FOUNDING, FOLLOWING, NEIGHBOUR = "founding", "2025-26", "neighbour"


@dataclasses.dataclass(frozen=True)
class Paper:
    """A paper: its title, or what it is about where only that is known here, and its arXiv number.

    `kind`: odeopt was built from it, it came after, or stands beside; `none`: why no claim follows.
    """

    title: str
    arxiv: str = ""
    kind: str = FOUNDING
    none: str = ""

    def __str__(self) -> str:
        return f"{self.title} (arXiv:{self.arxiv})" if self.arxiv else self.title


_UNREAD = "only a line about it was at hand, too little to pose a criterion"
_LAGRANGIAN = (
    "structure theory: it says what Hamiltonian and Lagrangian maps are made of and composed like; "
    "no optimizer, rate or error follows from it that an experiment could contradict"
)

PAPERS: dict[str, Paper] = {
    "solving": Paper("Learning by solving differential equations", "2505.13397"),
    "reverse": Paper("Training in reverse", "2502.01557"),
    "igr": Paper("Implicit gradient regularization", "2009.11162"),
    "sgd": Paper("On the origin of implicit regularization in SGD", "2101.12176"),
    "games": Paper("Discretization drift in two-player games", "2105.13922"),
    "principal": Paper("On a continuous-time model of gradient descent", "2302.01952"),
    "corridor": Paper("Corridor geometry in gradient-based optimization", "2402.08818"),
    "tasks": Paper("Implicit biases in multitask and continual learning", "2311.00235"),
    "occam": Paper("The geometric Occam's razor", "2111.15090"),
    "regularizers": Paper("Why neural networks find simple solutions", "2209.13083"),
    "collapse": Paper("Geometric complexity and neural collapse", "2405.15706"),
    "margin": Paper("A margin bound via geometric complexity", "2405.18590"),
    "depth": Paper("On residual network depth", "2510.03470"),
    "fusion": Paper("Deep Fusion", "2306.11903"),
    "grow": Paper("Grow, don't overwrite", "2603.08647"),
    "context": Paper("Learning without training", "2507.16003"),
    "prompts": Paper("Transmuting prompts into weights", "2510.08734"),
    "updates": Paper("Equivalence of context and parameter updates", "2511.17864"),
    "micro2": Paper("Symplectic microgeometry II: generating functions"),
    "operad": Paper("The formal Lagrangian operad"),
    "micro1": Paper("Symplectic microgeometry I", none=_LAGRANGIAN),
    "micro3": Paper("Symplectic microgeometry III", none=_LAGRANGIAN),
    "micro4": Paper("Symplectic microgeometry IV", none=_LAGRANGIAN),
    "states": Paper(
        "Geometric states",
        none="structure theory: what a state is in the cotangent category; it has no dynamics to "
        "discretize",
    ),
    "comorphisms": Paper(
        "Integration of Lie algebroid comorphisms",
        none="structure theory: when infinitesimal maps integrate to global ones; every flow here "
        "lives on a vector space, where they always do",
    ),
    "morse": Paper(
        "Morse neural networks", none="a model of uncertainty; it says nothing of how it is trained"
    ),
    "shuffle": Paper("Optimizer memory and shuffle order", "2606.29554", FOLLOWING),
    "stochastic-edge": Paper("Momentum at the stochastic edge", "2604.14108", FOLLOWING),
    "gap": Paper("Stochastic sharpness gap", "2604.21016", FOLLOWING),
    "edge-flow": Paper("Edge flow", "2606.18080", FOLLOWING),
    "rod-flow": Paper("Rod flow", "2605.06821", FOLLOWING),
    "trajectories": Paper(
        "Estimating implicit regularization from trajectories", "2605.05436", FOLLOWING
    ),
    "muon-margin": Paper("Bias of Muon: margins", "2602.16340", FOLLOWING),
    "muon-spectrum": Paper("Bias of Muon: spectrum", "2606.08388", FOLLOWING),
    "fair": Paper("Fair races of pretraining optimizers", "2509.02046", FOLLOWING),
    "decay": Paper("Decay as 1/k", "2605.11172", FOLLOWING, _UNREAD),
    "autocorrelation": Paper("Momentum from autocorrelation", "2512.06370", FOLLOWING, _UNREAD),
    "hypergradient": Paper("Hypergradient descent near L-BFGS", "2502.11229", FOLLOWING, _UNREAD),
    "hypergradient-2": Paper(
        "Hypergradient descent near L-BFGS, II", "2509.11007", FOLLOWING, _UNREAD
    ),
    "adana": Paper(
        "Momentum and memory on a clock of log time (ADANA)", "2602.05298", FOLLOWING, _UNREAD
    ),
    "ode-gan": Paper("ODE-GAN", "2010.15040", NEIGHBOUR),
    "acceleration": Paper("Accelerated Runge-Kutta", "1805.00521", NEIGHBOUR),
    "rkcd": Paper("Explicit stabilized descent (RKCD, BIT 2021)", kind=NEIGHBOUR),
    "follow": Paper("Should you follow the gradient flow? (2022)", kind=NEIGHBOUR),
    "conformal": Paper("Conformal symplectic and relativistic descent", "1903.04100", NEIGHBOUR),
    "momentum-bias": Paper("Bias of momentum", "2302.00849", NEIGHBOUR),
    "adam-bias": Paper("Bias of Adam", "2309.00079", NEIGHBOUR),
    "motion": Paper("Equation of motion", "2210.15898", NEIGHBOUR),
    "central": Paper("Central flows", "2410.24206", NEIGHBOUR),
    "imex": Paper("IMEX view of Adam", "2403.13704", NEIGHBOUR),
    "b-series": Paper("B-series modified equations (2010)", kind=NEIGHBOUR),
    "edge": Paper("Edge of stability", "2103.00065", NEIGHBOUR),
}
"""Every paper by a short key; long titles are cut. Full texts were not at hand."""
