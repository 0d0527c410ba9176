"""Chains of plain tensors, exact or learned online, as task posteriors with dimensions."""

from __future__ import annotations

from gbi_pyro.inference.chain_joint import ChainJoint
from gbi_pyro.inference.hmm import HMMPosterior
from gbi_pyro.learning.online_em import OnlineEMRun
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.sites import Plate, TaskSite

SITE = "z"


def chain_posteriors(chain: HMMPosterior) -> tuple[TaskPosterior, TaskPosterior]:
    """Return the smoothed and the filtered posterior of a chain.

    The site is called ``z``, its last dimension ``time``, the one before it, if there is one,
    ``sequence``. Its prior is p(z_t | x_1..t-1).

    Args:
        chain: what ``hmm_posterior`` or ``hsmm_posterior`` returned.

    Returns:
        The smoothed and the filtered posterior.

    Example:
        >>> import torch
        >>> from gbi_pyro import hmm_posterior
        >>> half = torch.full((2,), 0.5).log()
        >>> chain = hmm_posterior(half, half.expand(2, 2), torch.tensor([[[1.0, 3.0]]]).log())
        >>> smoothed, filtered = chain_posteriors(chain)
        >>> smoothed.sites["z"].dims, smoothed.method
        (('sequence', 'time'), 'exact chain, smoothed')
    """
    shape = chain.log_smoothed.shape[:-1]
    named = {-1: "time", -2: "sequence"}
    plates = [
        Plate(named[i], n, n) if i in named else None
        for i, n in zip(range(-len(shape), 0), shape, strict=True)
    ]
    log_prior = chain.log_predicted.detach()
    sites = {SITE: TaskSite(SITE, log_prior, tuple(plates))}
    evidence = chain.log_evidence.detach()
    smoothed, filtered = (
        TaskPosterior(
            {SITE: log_probs.detach()},
            sites,
            f"exact chain, {name}",
            log_evidence=evidence,
            joint=ChainJoint(SITE, chain.paths, -1, log_prior.shape)
            if name == "smoothed"
            else None,
        )
        for name, log_probs in (("smoothed", chain.log_smoothed), ("filtered", chain.log_filtered))
    )
    return smoothed, filtered


def stream_posterior(run: OnlineEMRun) -> TaskPosterior:
    """Return the filtered posterior of a stream that was learned online.

    The site is called ``z``, its dimension ``time``, its prior the prediction before x_t. The
    log evidence of a step is log p(x_t | x_1..t-1), before the weights saw x_t: minus its sum is
    the prequential code length.

    Args:
        run: what ``OnlineEM.run`` returned.

    Example:
        >>> import torch
        >>> half = torch.tensor([[0.5, 0.5]])
        >>> run = OnlineEMRun(half, torch.tensor([[0.9, 0.1]]), torch.tensor([-1.0]), None)
        >>> stream_posterior(run).sites["z"].dims
        ('time',)
    """
    T = len(run.filtered)
    site = TaskSite(SITE, run.predicted.log(), (Plate("time", T, T),))
    log_probs = {SITE: run.filtered.log()}
    return TaskPosterior(log_probs, {SITE: site}, "online EM, filtered", log_evidence=run.log_prob)
