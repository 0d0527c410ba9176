"""Arrays, lists and frames where tensors are expected, and careless arguments: right, or words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models import TASK
from torch import nn

from gbi_pyro import (
    AutoTaskGuide,
    BayesFilter,
    Calibration,
    Enumeration,
    GradientEM,
    IterativeGradient,
    OneStepGradient,
    OnlineEM,
    OnlineGradient,
    TaskChain,
    TaskPrior,
    TaskSiteError,
    calibrate,
    check_model,
    clamp_tasks,
    clamped_loss,
    find_task_sites,
    hmm_posterior,
    log_likelihoods,
    relaxed_log_joint,
    stepwise,
)
from gbi_pyro._arrays import as_tensor
from gbi_pyro.inference import NearestCentroid, Recogniser, fit_centroids
from gbi_pyro.learning import match_labels
from gbi_pyro.metrics import kl
from gbi_pyro.metrics.prequential import SwitchingMeans, fewest_nats, prequential_code
from gbi_pyro.models import SequenceLSTM

F64 = torch.float64
PRIOR, MEANS = torch.tensor([0.3, 0.7]), torch.tensor([0.0, 2.0])
X = [0.5, 1.0, 2.0]
EXACT = (PRIOR.log() + dist.Normal(MEANS, 1.0).log_prob(torch.tensor(X)[:, None])).log_softmax(-1)


def model(x: Any, z: Any = None, dtype: torch.dtype = torch.float32) -> None:
    with pyro.plate("trial", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(PRIOR.to(dtype)), infer=TASK, obs=z)
        pyro.sample("x", dist.Normal(z @ MEANS.to(dtype), 1.0), obs=x)


class Trained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.tensor([0.0, 1.0]))

    def forward(self, x: Any) -> None:
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)
            pyro.sample("x", dist.Normal(z @ self.means, 1.0), obs=x)


def em_of(network: nn.Module) -> GradientEM:
    return GradientEM(network, Enumeration(), torch.optim.SGD(network.parameters(), 0.1))


# Data


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    "data",
    [
        np.array(X),
        np.array(X, dtype=np.float16),
        np.array(X, dtype=">f4"),
        np.array(X[::-1])[::-1],
        pd.Series(X),
        pd.DataFrame({"x": X})["x"],
        X,
        tuple(X),
        [torch.tensor(v) for v in X],
    ],
    ids=["array", "half", "big endian", "reversed", "series", "column", "list", "tuple", "tensors"],
)
def test_data_may_be_anything_that_holds_numbers(data: Any, dtype: torch.dtype) -> None:
    for infer in (Enumeration(), OneStepGradient(), IterativeGradient(num_steps=1)):
        found = infer(model, data, dtype=dtype).logits()
        assert found.dtype == dtype, "the model's, not the array's"
        torch.testing.assert_close(found, EXACT.to(dtype), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.bool], ids=str)
def test_yes_and_no_may_be_integers_or_booleans(kind: torch.dtype) -> None:
    rates = torch.tensor([0.2, 0.8])

    def coins(x: Any) -> None:
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)
            pyro.sample("x", dist.Bernoulli((z @ rates).unsqueeze(-1)).to_event(1), obs=x)

    x = torch.tensor([[1.0], [0.0]])
    joint = PRIOR * torch.where(x == 1, rates, 1 - rates)
    for data in (x.to(kind), x.to(kind).tolist(), x.to(kind).numpy()):
        found = Enumeration()(coins, data).probs()
        torch.testing.assert_close(found, joint / joint.sum(-1, keepdim=True))


def test_data_stay_as_they_are() -> None:
    x = np.array(X)
    x.setflags(write=False)
    OneStepGradient()(model, x)
    assert x.tolist() == X
    shared = np.zeros(2)
    assert as_tensor(shared, "x").data_ptr() == shared.ctypes.data
    t = torch.zeros(2, requires_grad=True)
    assert as_tensor(t, "x") is t


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a", "b"], "got list of <U1: encode categories"),
        (np.array([1.0, None]), "got ndarray of object"),
        (pd.Series(["a", "b"], dtype="category"), "got Series of object"),
        (np.array([1.0 + 1j, 0.0]), "complex128"),
        ({"a": 1}, "got dict"),
        ([[1.0], [1.0, 2.0]], "lists of equal length.*pad it"),
        ([torch.ones(1, requires_grad=True)] * 2, r"torch\.stack"),
        (np.ma.array([1.0, 2.0], mask=[True, False]), r"masked array.*poutine\.mask"),
        (torch.zeros(2, device="meta"), "device 'meta'"),
    ],
    ids=["text", "objects", "categories", "complex", "dict", "ragged", "graph", "masked", "meta"],
)
def test_what_holds_no_numbers_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(TaskSiteError, match=f"the data of site 'x': expected.*{message}"):
        OneStepGradient()(model, value)
    assert not check_model(model, value).ok
    with pytest.raises(ValueError, match=f"x: expected.*{message}"):
        prequential_code(SwitchingMeans(2, 0.3), value)


def test_empty_data_are_said_to_be_empty() -> None:
    for call in (OneStepGradient(), IterativeGradient(), find_task_sites):
        with pytest.raises(TaskSiteError, match=r"plate of the model has size 0.*empty batches"):
            call(lambda: model([])) if call is find_task_sites else call(model, torch.zeros(0))
    prior = dist.OneHotCategorical(PRIOR.expand(0, 2), validate_args=False)
    with pytest.raises(TaskSiteError, match=r"'z' has batch shape \(0,\).*at least one element"):
        find_task_sites(lambda: pyro.sample("z", prior, infer=TASK))
    with pyro.validation_enabled(False):  # which looks at the numbers, before the model runs
        nowhere = dist.OneHotCategorical(PRIOR.to("meta"))
    with pytest.raises(TaskSiteError, match=r"the prior of task site 'z'.*'meta'"):
        find_task_sites(lambda: pyro.sample("z", nowhere, infer=TASK))


# Tasks and labels


@pytest.mark.parametrize(
    "z",
    [torch.eye(2)[[0, 1, 1]].long(), torch.eye(2).bool()[[0, 1, 1]], np.eye(2)[[0, 1, 1]]],
    ids=["integers", "booleans", "array"],
)
def test_one_hot_tasks_may_be_integers_or_arrays(z: Any) -> None:
    means = MEANS[[0, 1, 1]]
    log_prior = PRIOR.log()[[0, 1, 1]].sum()
    joint = log_prior + dist.Normal(means, 1.0).log_prob(torch.tensor(X)).sum()
    torch.testing.assert_close(clamped_loss(model, X, z), -joint / 3)
    torch.testing.assert_close(clamped_loss(clamp_tasks(model, {"z": z}), X), -joint / 3)
    torch.testing.assert_close(relaxed_log_joint(model, {"z": z}, X).total, joint)
    start = IterativeGradient(num_steps=1, rate=1e-6, start={"z": z})(model, X)
    assert start.mode().tolist() == [0, 1, 1]


def test_task_ids_at_a_task_site_are_told_to_be_made_one_hot() -> None:
    with pytest.raises(TaskSiteError, match=r"'z' has shape \(3,\).*one_hot\(ids, K\)"):
        clamped_loss(model, X, torch.tensor([0, 1, 1]))


@pytest.mark.parametrize(
    "labels", [[0, 1, -1], np.array([0, 1, -1]), pd.Series([0, 1, -1]), torch.tensor([0, 1, -1])]
)
def test_labels_may_be_lists_arrays_and_series(labels: Any) -> None:
    q = [[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]]
    assert match_labels(q, labels).tolist() == [1, 0, -1]
    found = em_of(Trained()).infer(X, labels=labels).mode()
    assert found[:2].tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"got \[1, 1\] elements of each"):
        fit_centroids(lambda x: np.array(x)[:, None], labels, 2, X)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.0, 1.0], r"float32: take one_hot\.argmax\(-1\) of one-hot rows; of ids"),
        (torch.eye(2).long()[[0, 1, 1]], r"shape \(3, 2\), expected \(3,\).*one_hot\.argmax\(-1\)"),
        (["a", "b", "a"], "labels: expected numbers"),
    ],
)
def test_labels_that_are_no_ids_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        em_of(Trained()).step(torch.tensor(X), labels=labels)
    with pytest.raises(ValueError, match=message):
        match_labels(torch.full((3, 2), 0.5), labels)


def test_a_misspelt_site_is_answered_with_the_sites_there_are() -> None:
    q = torch.full((3, 2), 0.5)
    with pytest.raises(TaskSiteError, match=r"'zz' is not a task.*are: 'z'\. Did you mean 'z'\?"):
        clamp_tasks(model, {"zz": q})(torch.tensor(X))
    with pytest.raises(TaskSiteError, match=r"'kind' is not a task.*are: 'z'\. .*correct the name"):
        clamp_tasks(model, {"kind": q})(torch.tensor(X))
    for values in (q, {"z": None}):
        with pytest.raises(TypeError, match="values should map names"):
            clamp_tasks(model, values)  # type: ignore[arg-type]


# Functions of arrays


def test_chains_take_arrays_and_frames() -> None:
    initial, transition = np.log([0.5, 0.5]), np.log([[0.9, 0.1], [0.1, 0.9]])
    emission = np.log([[1.0, 3.0], [1.0, 1.0]])
    expected = [[0.25, 0.75], [0.3, 0.7]]  # see the docstring of hmm_posterior
    frames = pd.Series(initial), pd.DataFrame(transition), pd.DataFrame(emission)
    lists = initial.tolist(), transition.tolist(), emission.tolist()
    for given, dtype in ((frames, F64), (lists, torch.float32)):
        found = hmm_posterior(*given).log_filtered.exp()
        torch.testing.assert_close(found, torch.tensor(expected, dtype=dtype))
    assert TaskChain(initial, transition).hazard == pytest.approx(0.1)  # type: ignore[arg-type]
    assert prequential_code(SwitchingMeans(1, 0.3, grid=(0.0, 1.0)), [0.0, 0.0]).sum() < 0.2
    assert fewest_nats({1: [5.0, 9.0], 2: np.array([6.0, 7.0])}).tolist() == [1, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_for_what_it_rounds(dtype: torch.dtype) -> None:
    p = torch.tensor([[0.07, 0.13, 0.8], [0.2, 0.3, 0.5]])
    rounded = p.log().to(dtype)
    eps = torch.finfo(dtype).eps
    assert rounded.double().exp().sum(-1).sub(1).abs().max() > 1e-4, "off by rounding alone"
    found = hmm_posterior(rounded[0], rounded[[0, 1, 1]], rounded)
    exact = hmm_posterior(p[0].log(), p[[0, 1, 1]].log(), p.log())
    assert found.log_filtered.dtype == torch.float32
    torch.testing.assert_close(found.log_filtered, exact.log_filtered, atol=10 * eps, rtol=0)
    assert kl(p.log(), rounded).max() < eps
    assert TaskPrior(rounded[0]).log_probs.exp().sum() == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"a row that sums to (2|1\.99)"):
        kl(p.log(), rounded + rounded.new_tensor(2.0).log())


def test_a_network_in_half_precision_has_a_posterior() -> None:
    found = OneStepGradient()(model, torch.tensor(X).bfloat16(), dtype=torch.bfloat16)
    torch.testing.assert_close(found.logits().float(), EXACT, atol=0.05, rtol=0)


def test_networks_take_arrays_and_name_what_does_not_fit() -> None:
    network = SequenceLSTM(2, 4, generator=torch.Generator().manual_seed(0))
    x = np.linspace(0, 1, 6).reshape(2, 3)
    same = torch.tensor(x, dtype=torch.float32)
    for given in (x, x.tolist(), pd.DataFrame(x)):
        torch.testing.assert_close(
            OneStepGradient()(network, given).logits(), OneStepGradient()(network, same).logits()
        )
    tasks = {"z": np.full((2, 3, 2), 0.5)}
    torch.testing.assert_close(
        Enumeration()(stepwise(network, x, tasks=tasks)).logits(),  # type: ignore[arg-type]
        Enumeration()(stepwise(network, same)).logits(),
    )
    run = OnlineGradient()(network, x, np.full((2, 2), 0.5))
    torch.testing.assert_close(run.mean, OnlineGradient()(network, same, torch.ones(2, 2) / 2).mean)
    optim = torch.optim.SGD(network.parameters(), 1e-3)
    assert OnlineEM(network, optim, TaskChain.sticky(2, 0.1)).run(x[0]).log_prob.shape == (3,)
    with pytest.raises(ValueError, match=r"x has shape \(3,\), expected \(sequence, time\)"):
        OneStepGradient()(network, x[0])
    with pytest.raises(ValueError, match=r"x has dtype torch\.float64, but the weights are"):
        OneStepGradient()(network, torch.tensor(x))
    with pytest.raises(ValueError, match="chain has 3 tasks, but the network 2"):
        OnlineEM(network, optim, TaskChain.sticky(3, 0.1))


def test_what_a_network_of_the_user_returns_may_be_an_array() -> None:
    recogniser = Recogniser(lambda x: np.stack([np.zeros(3), np.array(x) * 2 - 2], -1))
    torch.testing.assert_close(recogniser(model, X).logits().float(), EXACT)
    nearest = NearestCentroid(lambda x: np.array(x)[:, None], [[0.0], [2.0]], 1.0)  # type: ignore
    torch.testing.assert_close(nearest(model, X).logits().float(), EXACT)


# Arguments that are something else


CAREFUL: list[tuple[Callable[[], Any], str]] = [
    (lambda: OneStepGradient(model), r"temperature of OneStepGradient.*OneStepGradient\(\)\(model"),
    (lambda: IterativeGradient(model), r"num_steps of IterativeGradient.*an integer.*\(\)\(model"),
    (lambda: OnlineGradient(model), r"rate of OnlineGradient should be a number"),
    (lambda: OneStepGradient("1"), "temperature of OneStepGradient should be a number, got a str"),
    (lambda: IterativeGradient(2.5), "num_steps of IterativeGradient should be an integer"),
    (lambda: IterativeGradient(start=torch.ones(3, 2)), "start of IterativeGradient should be"),
    (lambda: OneStepGradient(calibration=model), "calibration should be what calibrate"),
    (lambda: AutoTaskGuide(OneStepGradient()), r"got OneStepGradient and NoneType: AutoTaskGuide"),
    (lambda: AutoTaskGuide(model, infer=3), r"got function and int"),
    (lambda: OnlineGradient()(model, X, [0.5, 0.5]), r"function has no step\("),
    (lambda: Recogniser(3), "network should be callable, got a int"),
    (lambda: find_task_sites(3), "model should be a Pyro model.*int"),
    (lambda: calibrate(model, model), "calibrate takes what inferences return.*function"),
    (lambda: log_likelihoods(torch.zeros(2)), "expected a TaskPosterior, got a Tensor"),
    (lambda: GradientEM(model, torch.optim.SGD([torch.ones(1)], 1), Enumeration()), "got function"),
    (
        lambda: GradientEM(model, Enumeration(), pyro.optim.Adam({})),
        r"torch\.optim, got.*PyroOptim",
    ),
    (lambda: OnlineEM(model, TaskChain.sticky(2, 0.1), 3), "and a TaskChain, got function"),
]


@pytest.mark.parametrize(("call", "message"), CAREFUL)
def test_an_argument_of_another_type_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_calibrations_come_as_a_list_or_a_tuple() -> None:
    calibration = Calibration(2.0, np.zeros(2))  # type: ignore[arg-type]
    expected = (EXACT / 2).log_softmax(-1)
    for given in (calibration, [calibration], (calibration,)):
        found = OneStepGradient(calibration=given)(model, torch.tensor(X))
        torch.testing.assert_close(found.logits(), expected)
    assert OneStepGradient(calibration=[calibration]) == OneStepGradient(calibration=(calibration,))


def test_a_calibration_of_few_elements_says_so(generator: torch.Generator) -> None:
    x = torch.randn(30, generator=generator)
    one_step, exact = OneStepGradient()(model, x[:1]), Enumeration()(model, x[:1])
    with pytest.raises(ValueError, match=r"1 element\(s\) hold too little.*20 elements or more"):
        calibrate(one_step, exact)
    reverse = Enumeration()(model, 2 - x[:3])
    with pytest.raises(ValueError, match=r"no positive.*3 elements are few.*at least 20"):
        calibrate(OneStepGradient()(model, x[:3]), reverse)
    with pytest.raises(ValueError, match=r"no positive.*is the sign or the data"):
        calibrate(OneStepGradient()(model, x), Enumeration()(model, 2 - x))


def test_options_of_an_inference_are_not_the_model() -> None:
    with pytest.raises(TypeError, match=r"chunk_size.*Enumeration\(\)\(model, \*args\)"):
        Enumeration(lambda x: None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"infer should be an inference.*int"):
        BayesFilter(3, TaskChain.sticky(2, 0.1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"chain should be a TaskChain.*TaskChain\(log_initial"):
        BayesFilter(Enumeration(), torch.zeros(1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"model should be a Pyro model.*str"):
        Enumeration()("model")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"points by the name of their site.*Tensor"):
        relaxed_log_joint(lambda: None, torch.zeros(2))  # type: ignore[arg-type]


def test_a_chain_may_be_given_as_arrays() -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
            pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 1.0), obs=x)

    x, initial, stay = torch.randn(5), np.log([0.5, 0.5]), np.log([[0.9, 0.1], [0.1, 0.9]])
    found = BayesFilter(Enumeration(), TaskChain(initial, stay))(model, x)  # type: ignore[arg-type]
    chain = TaskChain(torch.from_numpy(initial), torch.from_numpy(stay))
    torch.testing.assert_close(found.probs(), BayesFilter(Enumeration(), chain)(model, x).probs())
