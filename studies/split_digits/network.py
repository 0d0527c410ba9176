"""The network of the split digits: it classifies within a task and draws the image."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from gbi_pyro.models.conditioning import Conditioning, make_conditioner
from gbi_pyro.models.image import ImageModel
from gbi_pyro.models.initial import initialise, weights_from
from gbi_pyro.models.layers import ImageEncoder, IsotropicNormal

CLASSES = 2  # of a task


class SplitNetwork(ImageModel):
    """p(x | z, h(x)) and p(y | z, h(x)): image and class, conditioned on the task.

    ::

        x -> Linear -> ReLU -> Linear(d) -> h --+                 +-> Linear -> mean -> x
                                                v                 |
                                   z --> conditioner -> ReLU -----+-> Linear -> logits -> y

    x: (image,) + image_shape, z: (image, K), y: (image,). The classes share one head: y = 1 is the
    second class of whichever task is going on. The class is not known when a task is inferred, so
    it is the image that speaks for a task: how well the network draws it, given that task.

    Args:
        image_shape: the shape of one image.
        num_tasks: K.
        conditioning: how the task enters the hidden layer, see ``models.conditioning``.
        hidden_size: its units, and those of the encoder.
        latent_size: d.
        generator: a seeded generator for the initial weights.

    >>> network = SplitNetwork((4, 4), 5, generator=torch.Generator().manual_seed(0))
    >>> network.log_classes(torch.zeros(3, 4, 4)).shape  # under every task
    torch.Size([5, 3, 2])
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        num_tasks: int,
        *,
        conditioning: Conditioning = "concat",
        hidden_size: int = 64,
        latent_size: int = 8,
        generator: torch.Generator,
    ) -> None:
        super().__init__(image_shape, num_tasks)
        with weights_from(generator):
            self.encoder = ImageEncoder(image_shape, latent_size, hidden_size=hidden_size)
            self.conditioner = make_conditioner(conditioning, latent_size, num_tasks, hidden_size)
            self.image = nn.Linear(hidden_size, math.prod(self.image_shape))
            self.classes = nn.Linear(hidden_size, CLASSES)
        self.log_sigma = nn.Parameter(torch.tensor(0.3).log())
        initialise(self, generator)

    def forward(self, x: Tensor, z: Tensor | None = None, y: Tensor | None = None) -> None:
        """Run the Pyro model.

        Args:
            x: images, ``(N,) + image_shape``.
            z: the tasks where they are given, ``(N, K)``.
            y: the classes within their task where they are known (training), ``(N,)``.
        """
        h = self.encoder(x)
        with pyro.plate("image", len(x), dim=-1):
            z = self.sample_task(z)
            hidden = self.conditioner(h, z).relu()
            pixels = IsotropicNormal(self.image(hidden), self.log_sigma.exp())
            pyro.sample("x", pixels, obs=x.flatten(1))
            if y is not None:
                classes = dist.Categorical(logits=self.classes(hidden), validate_args=False)
                pyro.sample("y", classes, obs=y)

    def log_classes(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Return log p(y | x, z): for tasks ``(N, K)``, or without them under every task first."""
        if z is None:
            z = torch.eye(self.num_tasks).unsqueeze(1)
        logits: Tensor = self.classes(self.conditioner(self.encoder(x), z).relu())
        return logits.log_softmax(-1)
