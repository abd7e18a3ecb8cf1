"""What the drift of gradient descent does to a network: trends with the learning rate."""

from . import trends as trends
