"""The filter of live streams: step by step what the batch filter finds at once."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from gbi_pyro import BayesFilter, Enumeration, LearnedChain, OneStepGradient, TaskChain
from gbi_pyro.inference import ChainStream, StreamState
from gbi_pyro.sites import TaskSiteError

F64 = torch.float64
K, T = 3, 25
MEANS = torch.tensor([-1.0, 0.5, 1.0], dtype=F64)
KINDS = [
    "plain",
    "forbidden",
    "stationary",
    "blocks",
    "fixed blocks",
    "left",
    "entered",
    "driven blocks",
]


def chain_of(kind: str, generator: torch.Generator, batch: tuple[int, ...] = ()) -> TaskChain:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=F64, generator=generator)

    A, options, initial = normal(K, K), {}, normal(K).log_softmax(-1)
    if kind == "forbidden":
        A[0, 1] = A[1, 2] = -math.inf
        initial[0] = -math.inf
    if "blocks" in kind:
        options["log_duration"] = normal(K, 6).log_softmax(-1)
    if kind == "fixed blocks":
        options["log_duration"] = torch.eye(6, dtype=F64)[[1, 3, 2]].log()
    if kind in ("left", "entered", "driven blocks"):
        of = "entered" if kind == "entered" else "left"
        options.update(inputs=normal(*batch, T, 2), slopes=normal(2, K, K), of=of)
    start: Any = "stationary" if kind == "stationary" else initial.log_softmax(-1)
    return TaskChain(start, A.log_softmax(-1), **options)


@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_each_step_is_that_of_the_batch_filter(
    kind: str, batch: tuple[int, ...], generator: torch.Generator
) -> None:
    chain = chain_of(kind, generator, batch)
    x = 2 * torch.randn(*batch, T, K, dtype=F64, generator=generator)
    x[..., 5, :], x[..., 9, 0] = 0.0, -math.inf  # a missing step, and a task that is ruled out
    together, stream = chain.posterior(x), ChainStream(chain)
    for t in range(T):
        if t == T // 2:  # kept in a file, and restored
            assert stream.state is not None
            kept = {k: v for k, v in vars(stream.state).items() if v is not None}
            stream = ChainStream(chain, StreamState(**load(save(kept))))
        u = None if chain.inputs is None else chain.inputs[..., t, :]
        found = stream.step(x[..., t, :], u)
        for now, whole in zip(
            found,
            (
                together.log_filtered,
                together.log_predicted,
                together.step_log_evidence.unsqueeze(-1),
            ),
            strict=True,
        ):
            expected = whole[..., t, :].reshape(now.shape)
            torch.testing.assert_close(now, expected, rtol=0, atol=1e-12)


def model(x: Tensor) -> None:
    with pyro.plate("session", x.shape[0], dim=-2), pyro.plate("time", x.shape[1], dim=-1):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(K, dtype=F64)), infer={"task": True})
        pyro.sample("x", dist.Normal(z @ MEANS, 1.0), obs=x)


def one_step(x: Tensor) -> None:
    with pyro.plate("session", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(K, dtype=F64)), infer={"task": True})
        pyro.sample("x", dist.Normal(z @ MEANS, 1.0), obs=x)


@pytest.mark.parametrize("output", ["filtered", "predicted"])
@pytest.mark.parametrize("infer", [Enumeration(), OneStepGradient()])
def test_models_with_and_without_a_plate_over_time_stream(
    infer: Any, output: Any, generator: torch.Generator
) -> None:
    x = torch.randn(2, 8, dtype=F64, generator=generator)
    bayes = BayesFilter(infer, chain_of("blocks", generator), output)
    together = bayes(model, x)
    streams = bayes.stream(model), bayes.stream(one_step)
    for t in range(8):
        found = streams[0].step(x[:, t : t + 1]), streams[1].step(x[:, t])
        expected = together.logits()[:, t : t + 1]
        torch.testing.assert_close(found[0].logits(), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(found[1].logits(), expected.squeeze(1), rtol=0, atol=1e-12)
        assert found[0].method == together.method
        assert found[0].passes == bayes(model, x[:, t : t + 1]).passes
        for one in found:
            if together.step_log_evidence is None:
                assert one.log_evidence is None
            else:
                torch.testing.assert_close(one.log_evidence, together.step_log_evidence[:, t])
    state = streams[1].state
    assert state is not None
    torch.testing.assert_close(
        bayes.stream(one_step, state).step(x[:, 0]).logits(), streams[1].step(x[:, 0]).logits()
    )


def test_a_learned_chain_reads_the_inputs_of_each_step(generator: torch.Generator) -> None:
    u = torch.randn(8, 2, dtype=F64, generator=generator)
    x = torch.randn(8, dtype=F64, generator=generator)
    pyro.param("chain_slopes", torch.randn(2, K, K - 1, dtype=F64, generator=generator))

    def driven(x: Tensor, u: Tensor) -> None:
        with pyro.plate("time", len(x)):
            z = pyro.sample(
                "z", dist.OneHotCategorical(torch.ones(K, dtype=F64)), infer={"task": True}
            )
            pyro.sample("x", dist.Normal(z @ MEANS, 1.0), obs=x)

    bayes = BayesFilter(Enumeration(), LearnedChain(K, inputs=lambda x, u: u))
    together, stream = bayes(driven, x, u), bayes.stream(driven)
    for t in range(8):
        found = stream.step(x[t : t + 1], u[t : t + 1])
        torch.testing.assert_close(found.logits()[0], together.logits()[t], rtol=0, atol=1e-12)


def test_buffers_that_are_filled_again_change_no_state(generator: torch.Generator) -> None:
    chain = chain_of("left", generator)
    fresh, reused = ChainStream(chain), ChainStream(chain)
    x, u = torch.zeros(K, dtype=F64), torch.zeros(2, dtype=F64)
    for _ in range(4):
        x.normal_(generator=generator)
        u.normal_(generator=generator)
        one, other = fresh.step(x.clone(), u.clone()), reused.step(x, u)
        assert torch.equal(one.log_filtered, other.log_filtered)


def test_float32_streams_keep_their_state_in_float64() -> None:
    stream = ChainStream(TaskChain.sticky(2, 0.1))
    found = stream.step(torch.tensor([0.5, -0.5]))
    assert {v.dtype for v in found} == {torch.float32}
    assert stream.state is not None
    assert stream.state.log_states.dtype == F64


def test_what_does_not_fit_is_refused_and_the_state_stays(generator: torch.Generator) -> None:
    chain = chain_of("plain", generator)
    stream = ChainStream(chain)
    stream.step(torch.zeros(K))
    before = stream.state
    for x, message in (
        (torch.zeros(2), r"\(\.\.\., 3\), one for each task; got torch.float32, \(2,\)"),
        (torch.zeros(3, dtype=torch.int64), "floating numbers"),
        (torch.zeros(2, 3), r"streams that went before, \(3,\); got \(2, 3\)"),
        (torch.tensor([0.0, math.nan, 0.0]), "NaN or \\+inf"),
        (torch.tensor([0.0, math.inf, 0.0]), "NaN or \\+inf"),
        (torch.full((3,), -math.inf), "x_t should be possible"),
    ):
        with pytest.raises(ValueError, match=message):
            stream.step(x)
    with pytest.raises(ValueError, match="no inputs drive this chain"):
        stream.step(torch.zeros(K), torch.zeros(2))
    assert stream.state is before
    driven = ChainStream(chain_of("left", generator))
    for u, message in (
        (None, "expected u_t, got none"),
        (torch.zeros(3), r"inputs should be finite numbers, \(\.\.\., 2\); got \(3,\)"),
        (torch.tensor([0.0, math.nan]), "with 1 finite ones"),
        (torch.zeros(4, 2), "one row for all streams"),
    ):
        with pytest.raises(ValueError, match=message):
            driven.step(torch.zeros(K), u)
    with pytest.raises(ValueError, match=r"state.log_states should be \(\.\.\., 3, 6\)"):
        ChainStream(chain_of("blocks", generator), before)
    with pytest.raises(ValueError, match="no slopes"):
        chain.transitions_at(torch.zeros(2))
    bayes = BayesFilter(Enumeration(), chain)
    with pytest.raises(TaskSiteError, match=r"2 steps in plate 'time'.*pass x\[t:t \+ 1\]"):
        bayes.stream(model).step(torch.zeros(1, 2, dtype=F64))
    with pytest.raises(ValueError, match="future is not known; got 'smoothed'"):
        BayesFilter(Enumeration(), chain, "smoothed").stream(model)
