"""The posterior along time, of a filter and of a marginal, against every path."""

import itertools

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from gbi_pyro import (
    BayesFilter,
    Enumeration,
    OneStepGradient,
    Sessions,
    TaskChain,
    TaskPrior,
    TaskSiteError,
    log_likelihoods,
    to_inference_data,
)
from gbi_pyro.inference import ChainPosterior, marginalize

F64 = torch.float64
TASK = {"task": True}
MEANS = torch.tensor([-1.0, 0.5], dtype=F64)
CHAIN = TaskChain(
    torch.tensor([0.6, 0.4], dtype=F64).log(),
    torch.tensor([[0.8, 0.2], [0.1, 0.9]], dtype=F64).log(),
)


def time_first(x: Tensor, real: Tensor | None = None) -> None:
    """(T, S): time on the left, sessions on the right, as no chain has them inside."""
    real = torch.ones(x.shape, dtype=torch.bool) if real is None else real
    with pyro.plate("time", len(x), dim=-2), pyro.plate("session", x.shape[1], dim=-1):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
        with poutine.mask(mask=real):
            pyro.sample("x", dist.Normal(z @ MEANS, 1.0), obs=x)


def path_weights(x: Tensor) -> tuple[Tensor, Tensor]:
    """Every path of one sequence, (2^T, T), and log p(path, x)."""
    paths = torch.tensor(list(itertools.product(range(2), repeat=len(x))))
    log_p = CHAIN.log_initial[paths[:, 0]]
    log_p = log_p + CHAIN.log_transition[paths[:, :-1], paths[:, 1:]].sum(-1)
    return paths, log_p + dist.Normal(MEANS[paths], 1.0).log_prob(x).sum(-1)


def filtered(output: str, x: Tensor) -> ChainPosterior:
    return BayesFilter(Enumeration(), CHAIN, output)(time_first, x)  # type: ignore[arg-type]


def marginal(output: str, x: Tensor) -> ChainPosterior:
    found = marginalize(time_first, CHAIN).infer(x, output=output)  # type: ignore[arg-type]
    assert isinstance(found, ChainPosterior)
    return found


@pytest.mark.parametrize("infer", [filtered, marginal])
def test_all_it_gives_agrees_with_every_path_in_the_axes_of_the_model(
    infer: object, generator: torch.Generator
) -> None:
    assert callable(infer)
    x = torch.randn(5, 3, dtype=F64, generator=generator)
    found = infer("smoothed", x)
    assert found.step_log_evidence.shape == found.viterbi.shape == (5, 3)
    for s in range(3):
        evidence = [path_weights(x[: t + 1, s])[1].logsumexp(0) for t in range(5)]
        steps = torch.stack(evidence).diff(prepend=torch.zeros(1, dtype=F64))
        torch.testing.assert_close(found.step_log_evidence[:, s], steps)
        paths, weights = path_weights(x[:, s])
        assert torch.equal(found.viterbi[:, s], paths[weights.argmax()])
        smoothed = torch.einsum("p,pt->t", weights.softmax(0), paths.double())
        torch.testing.assert_close(found.log_smoothed[:, s, 1].exp(), smoothed)
        for t in range(5):
            paths, weights = path_weights(x[: t + 1, s])
            now = weights.softmax(0)[paths[:, t] == 1].sum()
            torch.testing.assert_close(found.log_filtered[t, s, 1].exp(), now)
            before, earlier = path_weights(x[:t, s]) if t else (None, None)
            if before is None or earlier is None:
                expected = CHAIN.log_initial[1].exp()
            else:
                moves = CHAIN.log_transition[before[:, -1], 1].exp()
                expected = earlier.softmax(0) @ moves
            torch.testing.assert_close(found.log_predicted[t, s, 1].exp(), expected)
    for output in ("filtered", "predicted", "smoothed"):
        asked = infer(output, x)
        assert torch.equal(asked.logits(), getattr(asked, f"log_{output}"))
        assert torch.equal(asked.logits(), getattr(found, f"log_{output}"))
        assert (asked.joint is None) is (output != "smoothed")


def test_paths_are_drawn_whatever_the_output(generator: torch.Generator) -> None:
    """Pairs of neighbours within 5 standard errors of their probability."""
    x = torch.randn(4, 2, dtype=F64, generator=generator)
    found, n = marginal("filtered", x), 4000
    drawn = found.sample_paths(n, generator=generator)
    assert drawn.shape == (n, 4, 2)
    for s in range(2):
        paths, weights = path_weights(x[:, s])
        for t in range(3):
            p = weights.softmax(0)[paths[:, t] != paths[:, t + 1]].sum().item()
            share = (drawn[:, t, s] != drawn[:, t + 1, s]).double().mean().item()
            assert abs(share - p) < 5 * (p * (1 - p) / n) ** 0.5


def test_padding_by_lengths_or_masks_changes_nothing(generator: torch.Generator) -> None:
    x, lengths = torch.randn(6, 2, dtype=F64, generator=generator), torch.tensor([6, 4])
    real = torch.arange(6).unsqueeze(-1) < lengths
    alone = marginal("smoothed", x[:4, 1:])
    by_mask = marginalize(time_first, CHAIN).infer(x.masked_fill(~real, torch.nan), real)
    by_lengths = marginalize(time_first, CHAIN, lengths).infer(x)
    for found in (by_mask, by_lengths):
        assert isinstance(found, ChainPosterior)
        assert torch.equal(found.padding(), ~real)
        torch.testing.assert_close(found.logits()[:4, 1], alone.logits()[:, 0], rtol=0, atol=1e-14)
        steps, evidence = found.step_log_evidence, found.log_evidence
        assert steps is not None
        assert evidence is not None
        assert steps[4:, 1].abs().max() < 1e-14
        torch.testing.assert_close(evidence[1], alone.log_evidence[0])  # type: ignore[index]
        assert len(found.to_dataframe()) == 10
        assert found.num_observations["z"].sum() == 10


def test_sessions_and_exports_take_it(generator: torch.Generator) -> None:
    frame = pd.DataFrame({"rat": ["b", "a", "b", "b"], "x": [0.5, 1.0, -1.0, 2.0]})
    sessions = Sessions.from_frame(frame, by="rat", columns="x", dtype=F64)

    def model(x: Tensor) -> None:
        with pyro.plate("session", len(x), dim=-2), pyro.plate("time", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
            pyro.sample("x", dist.Normal(z @ MEANS, 1.0), obs=x)

    found = marginalize(model, CHAIN, sessions.lengths).infer(sessions["x"])
    assert found.passes == (2, 0, 5)  # each task once, and the check of independence
    table = found.to_dataframe(sessions=sessions)
    assert list(table["rat"]) == list(frame["rat"])
    alone = marginalize(model, CHAIN).infer(torch.tensor([[0.5, -1.0, 2.0]], dtype=F64))
    assert table["p_1"][[0, 2, 3]].tolist() == pytest.approx(alone.probs()[0, :, 1].tolist())
    data = to_inference_data(found, num_draws=20, generator=generator)
    assert (data.posterior["z"].values[0, :, 1, 1:] == -1).all()
    assert data.log_likelihood["log_evidence"].dims == ("chain", "draw", "session")


def test_without_a_chain_it_is_the_posterior_of_each_element(generator: torch.Generator) -> None:
    x = torch.randn(3, 2, dtype=F64, generator=generator)
    exact = Enumeration()(time_first, x)
    found = marginalize(time_first).infer(x)
    torch.testing.assert_close(found.logits(), exact.logits())
    torch.testing.assert_close(found.log_evidence, exact.log_evidence)
    prior = TaskPrior(torch.tensor([0.2, 0.8]).log())
    given = marginalize(time_first, prior).infer(x)
    each = dist.Normal(MEANS, 1.0).log_prob(x.unsqueeze(-1)) + prior.log_probs
    torch.testing.assert_close(given.logits(), each.log_softmax(-1))
    assert given.sites["z"].log_prior.exp()[0, 0].tolist() == pytest.approx([0.2, 0.8])


def test_latent_sites_need_values_and_count_in_the_evidence(generator: torch.Generator) -> None:
    def model(x: Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(torch.zeros((), dtype=F64), 1.0))
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
            pyro.sample("x", dist.Normal(shift + z @ MEANS, 1.0), obs=x)

    def prior(x: Tensor) -> TaskChain:
        leave = pyro.sample("leave", dist.Beta(torch.ones((), dtype=F64), 2.0))
        rows = torch.stack([torch.stack([1 - leave, leave]), torch.stack([leave, 1 - leave])])
        return TaskChain("uniform", rows.log())

    x = torch.randn(6, dtype=F64, generator=generator)
    learned = marginalize(model, prior)
    with pytest.raises(TaskSiteError, match="latent sites, 'leave', 'shift'; expected a value"):
        learned.infer(x)
    values = {"shift": torch.tensor(0.3, dtype=F64), "leave": torch.tensor(0.2, dtype=F64)}
    found = learned.condition(values).infer(x)
    given = poutine.trace(poutine.condition(learned, data=values)).get_trace(x)
    assert found.total_log_evidence == pytest.approx(given.log_prob_sum().item())


def test_it_leaves_nothing_behind_and_refuses_networks_in_training() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> None:
            mean = pyro.param("mean", torch.tensor(0.5, dtype=F64))
            with pyro.plate("time", len(x)):
                z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
                pyro.sample("x", dist.Normal(self.dropout(z @ MEANS) + mean, 1.0), obs=x)

    network, x = Noisy(), torch.zeros(3, dtype=F64)
    with pytest.raises(TaskSiteError, match="Dropout in training mode"):
        marginalize(network, CHAIN, check=False).infer(x)
    before = torch.get_rng_state()
    marginalize(network.eval(), CHAIN).infer(x)
    assert torch.equal(before, torch.get_rng_state())
    assert "mean" not in pyro.get_param_store()


def test_what_does_not_fit_is_refused() -> None:
    x = torch.zeros(4, 2, dtype=F64)
    with pytest.raises(ValueError, match="output must be"):
        marginalize(time_first, CHAIN).infer(x, output="smooth")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="output='filtered' is of a chain"):
        marginalize(time_first).infer(x, output="filtered")
    inputs = torch.zeros(3, 4, 1)
    driven = TaskChain("uniform", CHAIN.log_transition, slopes=torch.zeros(1, 2, 2), inputs=inputs)
    with pytest.raises(ValueError, match=r"inputs are for \(3,\) sequences.*has \(1,\)"):
        marginalize(time_first, driven).infer(x[:, :1])

    with pytest.raises(ValueError, match="inferred one by one, got 'enumeration, filtered' along"):
        log_likelihoods(filtered("filtered", x))

    def impossible(x: Tensor) -> None:
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
            pyro.factor("never", -torch.inf * (z[..., 0] + z[..., 1]))

    with pytest.raises(
        ValueError, match=r"no task of 'z' can have made the data of element \(0,\)"
    ):
        marginalize(impossible, check=False).infer(x[:, 0])


def test_without_the_evidence_of_steps_there_is_none_of_the_chain() -> None:
    x = torch.zeros(4, 2, dtype=F64)
    found = BayesFilter(OneStepGradient(), CHAIN)(time_first, x)
    assert found.step_log_evidence is None
    exact = CHAIN.posterior(dist.Normal(MEANS, 1.0).log_prob(x.T.unsqueeze(-1)))
    torch.testing.assert_close(found.log_filtered.movedim(0, 1), exact.log_filtered)
