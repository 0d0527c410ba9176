import math

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models import normal
from torch import Tensor

from gbi_pyro import Enumeration, Sessions, TaskPosterior, TaskSiteError
from gbi_pyro.posterior import Objective, detached, entropy
from gbi_pyro.sites import Plate, TaskSite


def posterior_of(**log_probs: Tensor) -> TaskPosterior:
    sites = {n: TaskSite(n, p, (None,) * (p.ndim - 1)) for n, p in log_probs.items()}
    return TaskPosterior(log_probs, sites, "example")


def test_samples_have_the_frequencies_of_the_posterior(generator: torch.Generator) -> None:
    log_probs = normal(generator, 2, 3, 4).log_softmax(-1)
    n = 20_000
    ids = posterior_of(z=log_probs).sample(n, generator=generator)["z"]
    assert ids.shape == (n, 2, 3)
    frequencies = torch.nn.functional.one_hot(ids, 4).double().mean(0)
    p = log_probs.exp()
    assert ((frequencies - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all()


def test_elements_and_sites_are_drawn_independently(generator: torch.Generator) -> None:
    even = torch.full((2, 2), 0.5).log()
    n = 20_000
    draws = posterior_of(a=even, b=even[0]).sample(n, generator=generator)
    a, b = draws["a"].double(), draws["b"].double()
    assert b.shape == (n,)
    for left, right in ((a[:, 0], a[:, 1]), (a[:, 0], b), (a[:-1, 0], a[1:, 0])):
        agree = (left == right).double().mean()
        assert abs(agree - 0.5) <= 5 * math.sqrt(0.25 / n)


def test_samples_come_from_the_generator_alone() -> None:
    posterior = posterior_of(z=torch.full((5, 3), 1 / 3).log())
    state = torch.get_rng_state()
    first, again = (
        posterior.sample(50, generator=torch.Generator().manual_seed(7))["z"] for _ in range(2)
    )
    other = posterior.sample(50, generator=torch.Generator().manual_seed(8))["z"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_impossible_tasks_are_never_drawn(generator: torch.Generator) -> None:
    posterior = posterior_of(z=torch.tensor([[0.5, 0.0, 0.5]]).log())
    assert not (posterior.sample(1000, generator=generator)["z"] == 1).any()


def test_entropy_runs_from_zero_to_log_k() -> None:
    probs = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    expected = torch.tensor([0.0, math.log(2), math.log(3)])
    torch.testing.assert_close(posterior_of(z=probs.log()).entropy(), expected)


def test_entropy_is_concave(generator: torch.Generator) -> None:
    p, q = normal(generator, 50, 4).softmax(-1), normal(generator, 50, 4).softmax(-1)
    between = entropy((0.3 * p + 0.7 * q).log())
    assert (between >= 0.3 * entropy(p.log()) + 0.7 * entropy(q.log()) - 1e-12).all()


def test_probs_task_and_point_agree(generator: torch.Generator) -> None:
    log_probs = normal(generator, 2, 5, 3).log_softmax(-1)
    posterior = posterior_of(z=log_probs)
    torch.testing.assert_close(posterior.probs().sum(-1), torch.ones(2, 5).double())
    assert torch.equal(posterior.logits("z"), log_probs)
    assert torch.equal(posterior.mode(), posterior.probs().argmax(-1))
    assert torch.equal(posterior.point(), posterior.probs())
    free = normal(generator, 2, 5, 3)
    moved = TaskPosterior({"z": log_probs}, posterior.sites, "free", points={"z": free})
    assert torch.equal(moved.point(), free)
    assert torch.equal(moved.probs(), posterior.probs())


def test_sites_are_called_by_name() -> None:
    even = torch.tensor([0.5, 0.5]).log()
    one, two = posterior_of(z=even), posterior_of(a=even, b=even)
    assert one.site_name() == "z"
    assert two.site_name("b") == "b"
    with pytest.raises(TaskSiteError, match=r"2 task sites, \['a', 'b'\].*name it"):
        two.probs()
    for posterior, known in ((one, "'z'"), (two, "'a', 'b'")):
        with pytest.raises(TaskSiteError) as error:
            posterior.entropy("y")
        assert "'y' is not a task site" in str(error.value)
        assert known in str(error.value)


def test_the_objective_is_the_sum_of_its_parts() -> None:
    objective = Objective(torch.tensor([-2.0]), torch.tensor([0.5]), temperature=3.0)
    assert objective.total == torch.tensor([-0.5])


def test_detached_sites_keep_all_but_the_graph() -> None:
    log_prior = torch.zeros(2, 3, requires_grad=True) * 1.0
    site = TaskSite("z", log_prior, (None,))
    cut = detached({"z": site})["z"]
    assert not cut.log_prior.requires_grad
    assert torch.equal(cut.log_prior, log_prior)
    assert cut.dims == ("z_dim_0",)


# Data frames


def posterior_in_plates(log_probs: Tensor, *plates: str | None) -> TaskPosterior:
    placed = tuple(
        Plate(p, n, n) if p else None for p, n in zip(plates, log_probs.shape, strict=False)
    )
    return TaskPosterior({"z": log_probs}, {"z": TaskSite("z", log_probs, placed)}, "example")


def test_a_data_frame_has_a_row_for_each_element_of_two_plates(generator: torch.Generator) -> None:
    log_probs = normal(generator, 2, 3, 4).log_softmax(-1)
    posterior = posterior_in_plates(log_probs, "sequence", "time")
    frame = posterior.to_dataframe()
    assert list(frame) == ["sequence", "time", "task", "p_0", "p_1", "p_2", "p_3", "entropy"]
    assert len(frame) == 6
    by_element = frame.set_index(["sequence", "time"])
    for i in range(2):
        for t in range(3):
            row = by_element.loc[(i, t)]
            assert row["task"] == posterior.mode()[i, t]
            assert row["entropy"] == posterior.entropy()[i, t].item()
            p = torch.tensor([row[f"p_{k}"] for k in range(4)])
            torch.testing.assert_close(p.double(), posterior.probs()[i, t])


def test_a_data_frame_goes_back_to_the_probabilities(generator: torch.Generator) -> None:
    log_probs = normal(generator, 5, 2, 3).log_softmax(-1)
    frame = posterior_in_plates(log_probs.requires_grad_(), "sequence", "time").to_dataframe()
    p = torch.tensor(frame[["p_0", "p_1", "p_2"]].to_numpy()).reshape(5, 2, 3)
    torch.testing.assert_close(p, log_probs.detach().exp())
    torch.testing.assert_close(
        torch.tensor(frame["task"].to_numpy()).reshape(5, 2), log_probs.argmax(-1)
    )


def test_names_of_tasks_name_columns_and_modes() -> None:
    log_probs = torch.tensor([[0.1, 0.9], [0.8, 0.2]]).log()
    frame = posterior_in_plates(log_probs, "trial").to_dataframe("z", names=["rest", "move"])
    assert list(frame) == ["trial", "task", "p_rest", "p_move", "entropy"]
    assert list(frame["task"]) == ["move", "rest"]


def test_dimensions_of_size_one_without_a_plate_are_left_out() -> None:
    log_probs = torch.full((3, 1, 2), 0.5).log()
    assert list(posterior_in_plates(log_probs, "text", None).to_dataframe())[:2] == ["text", "task"]
    wide = posterior_in_plates(log_probs, None, None).to_dataframe()
    assert list(wide)[:2] == ["z_dim_0", "task"]
    assert len(posterior_in_plates(torch.tensor([0.5, 0.5]).log()).to_dataframe()) == 1


def test_of_several_sites_one_has_to_be_named() -> None:
    half = torch.full((2,), 0.5).log()
    posterior = posterior_of(a=half, b=half)
    assert len(posterior.to_dataframe("b")) == 1
    with pytest.raises(TaskSiteError, match=r"2 task sites.*name it"):
        posterior.to_dataframe()


@pytest.mark.parametrize(
    ("plate", "names", "message"),
    [
        ("trial", ["one"], "names should be 2 different names"),
        ("trial", ["same", "same"], "names should be 2 different names"),
        ("task", None, "a plate of 'z' should not be called task"),
        ("p_b", ["a", "b"], "should not be called p_b, like another column"),
    ],
)
def test_columns_of_a_data_frame_have_different_names(
    plate: str, names: list[str] | None, message: str
) -> None:
    posterior = posterior_in_plates(torch.full((3, 2), 0.5).log(), plate)
    with pytest.raises(ValueError, match=message):
        posterior.to_dataframe(names=names)


def test_rows_of_a_subsample_keep_their_indices() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("trial", 30, subsample=torch.tensor([3, 10, 20])):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
            pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 1.0), obs=x)

    frame = Enumeration()(model, torch.zeros(3)).to_dataframe()
    assert frame["trial"].tolist() == [3, 10, 20]


def test_no_draws_are_an_empty_batch_and_fewer_are_refused() -> None:
    site = TaskSite("z", torch.full((4, 3), 1 / 3).log(), (None,))
    posterior = TaskPosterior({"z": site.log_prior}, {"z": site}, "example")
    assert posterior.sample(0)["z"].shape == (0, 4)
    with pytest.raises(ValueError, match="n should be a number of draws"):
        posterior.sample(-1)


# Data frames of sessions


ROWS = pd.DataFrame(
    {"rat": ["b", "a", "b", "b", "c"], "x": [1.0, 2.0, 3.0, 4.0, 5.0]}, list("vwxyz")
)


def sessions_of(df: pd.DataFrame, order: str | None = None) -> Sessions:
    return Sessions.from_frame(df, by="rat", columns="x", order=order)


@pytest.mark.parametrize("plates", [("session", "time"), ("time", "session")])
def test_a_data_frame_of_sessions_has_the_rows_of_their_table(
    plates: tuple[str, str], generator: torch.Generator
) -> None:
    log_probs = normal(generator, 3, 3, 4).log_softmax(-1)
    by_session = log_probs if plates[0] == "session" else log_probs.transpose(0, 1)
    posterior = posterior_in_plates(log_probs.requires_grad_(), *plates)
    frame = posterior.to_dataframe(sessions=sessions_of(ROWS), names=list("klmn"))
    assert list(frame) == ["rat", "task", "p_k", "p_l", "p_m", "p_n", "entropy"]
    pd.testing.assert_frame_equal(frame[["rat"]], ROWS[["rat"]])
    steps = [(0, 0), (1, 0), (0, 1), (0, 2), (2, 0)]
    for (_, row), at in zip(frame.iterrows(), steps, strict=True):
        expected = by_session[at].detach()
        assert row["task"] == "klmn"[expected.argmax()]
        assert row["entropy"] == pytest.approx(entropy(expected).item())
        assert [row[f"p_{k}"] for k in "klmn"] == pytest.approx(expected.exp().tolist())


def test_steps_without_data_have_rows_and_an_order_its_column() -> None:
    df = ROWS.assign(x=math.nan, day=[3, 1, 2, 1, 1])
    sessions = sessions_of(df, "day")
    log_probs = torch.arange(1.0, 19.0).reshape(3, 1, 3, 2).log_softmax(-1)
    plates = (Plate("session", 3, 3), None, Plate("day", 3, 3))
    site = TaskSite("z", log_probs, plates)
    nothing = {"z": torch.zeros(3, 1, 3)}
    posterior = TaskPosterior({"z": log_probs}, {"z": site}, "example", num_observations=nothing)
    frame = posterior.to_dataframe(sessions=sessions, time="day")
    assert frame["day"].tolist() == [3, 1, 2, 1, 1]
    assert frame["p_0"].tolist() == [log_probs.exp()[s, 0, t, 0].item() for s, t in
                                     [(0, 2), (1, 0), (0, 1), (0, 0), (2, 0)]]  # fmt: skip


def test_a_chain_knows_its_plate_over_time(generator: torch.Generator) -> None:
    log_probs = normal(generator, 3, 3, 2).log_softmax(-1)
    site = TaskSite("z", log_probs, (Plate("trial", 3, 3), Plate("rat", 3, 3)))
    chain = TaskPosterior({"z": log_probs}, {"z": site}, "chain", settings={"time": "trial"})
    alone = TaskPosterior({"z": log_probs}, {"z": site}, "alone")
    frame = chain.to_dataframe(sessions=sessions_of(ROWS))
    named = alone.to_dataframe(sessions=sessions_of(ROWS), time="trial")
    pd.testing.assert_frame_equal(frame, named)
    assert frame["p_0"].iloc[2] == log_probs[1, 0, 0].exp()
    with pytest.raises(TaskSiteError, match=r"plates 'trial', 'rat'; expected one.*time=\.\.\."):
        alone.to_dataframe(sessions=sessions_of(ROWS))
    with pytest.raises(TaskSiteError, match=r"expected one named 'tim': name the plate"):
        alone.to_dataframe(sessions=sessions_of(ROWS), time="tim")


def test_sessions_that_do_not_fit_a_site_are_refused() -> None:
    sessions = sessions_of(ROWS)
    even = torch.full((3, 4, 2), 0.5).log()
    with pytest.raises(ValueError, match=r"3 sessions of 4 steps; .* are 3, of up to 3 .*select"):
        posterior_in_plates(even, "session", "time").to_dataframe(sessions=sessions)
    taken = Sessions.from_frame(ROWS.rename(columns={"rat": "task"}), by="task", columns="x")
    with pytest.raises(ValueError, match="should not be called 'task', like another"):
        posterior_in_plates(even[:, :3], "session", "time").to_dataframe(sessions=taken)
    for posterior, where in (
        (posterior_in_plates(even[:, 0], "session"), "'session'"),
        (posterior_in_plates(even[:, :3], "session", None), "'session', 'z_dim_1'"),
        (posterior_in_plates(even[None], "rat", "session", "time"), "'rat', 'session', 'time'"),
        (posterior_in_plates(even[0, 0]), "no plate"),
    ):
        with pytest.raises(TaskSiteError, match=f"lies in {where}; expected two plates, one over"):
            posterior.to_dataframe(sessions=sessions)
    with pytest.raises(
        ValueError, match=r"time has an effect with sessions=.* got 'time': drop it"
    ):
        posterior_in_plates(even, "session", "time").to_dataframe(time="time")
