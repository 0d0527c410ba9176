import itertools
import math
from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from gbi_pyro.inference import HMMPosterior, hmm_posterior, hsmm_posterior
from gbi_pyro.inference.hmm import log_pairwise

Chain = tuple[Tensor, Tensor, Tensor]
Paths = tuple[Tensor, Tensor]  # every path of tasks, (N, T), and its log prior probability, (N,)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def random_chain(generator: torch.Generator, K: int, T: int, forbid: str = "") -> Chain:
    initial, transition = normal(generator, K), normal(generator, K, K)
    emission = 2 * normal(generator, T, K)
    if forbid == "self":
        transition.fill_diagonal_(-math.inf)
    elif forbid == "some":  # a left-to-right chain that begins at 0, and an excluded observation
        transition.masked_fill_(torch.ones(K, K).tril(-1).bool(), -math.inf)
        initial[1:] = -math.inf
        emission[T // 2, 0] = -math.inf if T > 1 else 0.0
    return initial.log_softmax(-1), transition.log_softmax(-1), emission


def random_durations(generator: torch.Generator, K: int, D: int, gaps: bool = False) -> Tensor:
    logits = normal(generator, K, D)
    if gaps:
        logits[:, ::2] = -math.inf
        logits[0, -1] = -math.inf  # one task's blocks are shorter: p(D >= d) reaches zero
    return logits.log_softmax(-1)


def hmm_paths(initial: Tensor, transition: Tensor, T: int) -> Paths:
    z = torch.tensor(list(itertools.product(range(len(initial)), repeat=T)))
    return z, initial[z[:, 0]] + transition[z[:, :-1], z[:, 1:]].sum(-1)


def hsmm_paths(initial: Tensor, transition: Tensor, duration: Tensor, T: int) -> Paths:
    """Every segmentation of T steps into blocks, the last of which may go on after T."""
    start, change, length = initial.tolist(), transition.tolist(), duration.tolist()
    K, D = duration.shape
    survival = [[float(duration[k, d:].logsumexp(-1)) for d in range(D)] for k in range(K)]
    found: list[tuple[tuple[int, ...], float]] = []

    def extend(path: tuple[int, ...], log_prob: float, entry: list[float]) -> None:
        left = T - len(path)
        for k in range(K):
            here = log_prob + entry[k]
            for d in range(1, min(D, left - 1) + 1):
                if length[k][d - 1] > -math.inf and here > -math.inf:
                    extend(path + (k,) * d, here + length[k][d - 1], change[k])
            if left <= D:
                found.append((path + (k,) * left, here + survival[k][left - 1]))

    extend((), 0.0, start)
    paths, log_probs = zip(*found, strict=True)
    return torch.tensor(paths), torch.tensor(log_probs, dtype=torch.float64)


def marginal(z: Tensor, log_joint: Tensor, K: int) -> Tensor:
    """Log p(z_t | x) of one column of the table, (K,)."""
    by_task = [torch.where(z == k, log_joint, -math.inf).logsumexp(0) for k in range(K)]
    return torch.stack(by_task).log_softmax(0)


def assert_matches_table(
    posterior: HMMPosterior, paths: Callable[[int], Paths], emission: Tensor
) -> None:
    T, K = emission.shape

    def close(got: Tensor, want: Tensor) -> None:
        torch.testing.assert_close(got, want, atol=1e-10, rtol=0)

    for t in range(T):  # z_t given the past alone: the table of a sequence cut off at t
        z, log_prior = paths(t + 1)
        past = emission[range(t), z[:, :t]].sum(-1)
        now = emission[t, z[:, t]]
        close(posterior.log_predicted[t], marginal(z[:, t], log_prior + past, K))
        close(posterior.log_filtered[t], marginal(z[:, t], log_prior + past + now, K))
    z, log_prior = paths(T)
    log_joint = log_prior + emission[range(T), z].sum(-1)
    close(posterior.log_evidence, log_joint.logsumexp(0))
    close(posterior.log_smoothed, torch.stack([marginal(z[:, t], log_joint, K) for t in range(T)]))
    best = log_joint[(z == posterior.viterbi).all(-1)].max()
    close(best, log_joint.max())
    every, at = z.unique(dim=0, return_inverse=True)  # segmentations may make the same path
    by_path = [log_joint[at == i].logsumexp(0) for i in range(len(every))]
    of_path = torch.stack(by_path) - posterior.log_evidence
    close(posterior.paths.log_prob(every).sum(-1), of_path)


@pytest.mark.parametrize("forbid", ["", "self", "some"])
@pytest.mark.parametrize(("K", "T"), [(2, 1), (2, 2), (2, 10), (3, 6)])
def test_hmm_equals_the_table_of_all_paths(
    K: int, T: int, forbid: str, generator: torch.Generator
) -> None:
    initial, transition, emission = random_chain(generator, K, T, forbid)
    assert_matches_table(
        hmm_posterior(initial, transition, emission),
        lambda t: hmm_paths(initial, transition, t),
        emission,
    )


def fixed(generator: torch.Generator, K: int) -> Tensor:
    return torch.full((K, 3), -math.inf, dtype=torch.float64).index_fill_(1, torch.tensor(2), 0.0)


def bounded(generator: torch.Generator, K: int) -> Tensor:
    law = torch.tensor([-math.inf, 0.0, -0.5, -1.0], dtype=torch.float64)
    return law.log_softmax(0).expand(K, 4)


LAWS = {
    "fixed": fixed,
    "bounded": bounded,
    "random": lambda g, K: random_durations(g, K, 5),
    "gaps": lambda g, K: random_durations(g, K, 6, gaps=True),
    "longer than the data": lambda g, K: random_durations(g, K, 12),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("forbid", ["", "self"])
@pytest.mark.parametrize(("K", "T"), [(2, 8), (3, 6)])
def test_hsmm_equals_the_table_of_all_segmentations(
    K: int, T: int, forbid: str, law: str, generator: torch.Generator
) -> None:
    initial, transition, emission = random_chain(generator, K, T, forbid)
    duration = LAWS[law](generator, K)
    assert_matches_table(
        hsmm_posterior(initial, transition, emission, duration),
        lambda t: hsmm_paths(initial, transition, duration, t),
        emission,
    )


def test_hsmm_equals_the_table_on_ten_steps(generator: torch.Generator) -> None:
    initial, transition, emission = random_chain(generator, 2, 10)
    duration = random_durations(generator, 2, 10)
    assert_matches_table(
        hsmm_posterior(initial, transition, emission, duration),
        lambda t: hsmm_paths(initial, transition, duration, t),
        emission,
    )


@pytest.mark.parametrize("D", [40, 70])
def test_geometric_blocks_make_an_ordinary_chain(D: int, generator: torch.Generator) -> None:
    """Geometric durations up to at least T with changes to other tasks: the Markov chain."""
    T, K, hazard = 40, 3, 0.1
    initial, between, emission = random_chain(generator, K, T, forbid="self")
    duration = math.log(hazard) + math.log1p(-hazard) * torch.arange(D, dtype=torch.float64)
    duration[-1] = (D - 1) * math.log1p(-hazard)  # all longer blocks look alike within T steps
    transition = hazard * between.exp() + (1 - hazard) * torch.eye(K, dtype=torch.float64)
    chain = hmm_posterior(initial, transition.log(), emission)
    blocks = hsmm_posterior(initial, between, emission, duration.expand(K, D))
    for name, want in numbers(chain).items():
        torch.testing.assert_close(getattr(blocks, name), want, atol=1e-8, rtol=0, msg=name)


def numbers(posterior: HMMPosterior) -> dict[str, Tensor]:
    """Return the fields that are tensors."""
    return {n: v for n, v in posterior._asdict().items() if isinstance(v, Tensor)}


def arguments(generator: torch.Generator, durations: bool = True) -> list[Tensor]:
    """Arguments of a chain of three tasks, whose batch dimensions broadcast to (3, 2)."""
    K, T, D = 3, 9, 4
    return [
        normal(generator, 3, 1, K).log_softmax(-1),
        normal(generator, 2, K, K).log_softmax(-1),
        normal(generator, 3, 2, T, K),
        random_durations(generator, K, D) if durations else torch.zeros(K, 1).double(),
    ]


@pytest.mark.parametrize("durations", [True, False])
def test_a_batch_is_its_elements_one_by_one(durations: bool, generator: torch.Generator) -> None:
    initial, transition, emission, duration = arguments(generator, durations)
    batched = hsmm_posterior(initial, transition, emission, duration)
    for i, j in itertools.product(range(3), range(2)):
        one = hsmm_posterior(initial[i, 0], transition[j], emission[i, j], duration)
        for name, want in numbers(one).items():
            torch.testing.assert_close(getattr(batched, name)[i, j], want, msg=name)


def test_shared_data_are_expanded_to_the_batch_of_the_chain(generator: torch.Generator) -> None:
    initial, transition, emission, duration = arguments(generator)
    many = hsmm_posterior(initial, transition, emission[0, 0], duration.expand(3, 2, 3, 4))
    assert [tuple(field.shape) for field in numbers(many).values()] == [
        *[(3, 2, 9, 3)] * 3,
        (3, 2, 9),
        (3, 2),
        (3, 2, 9),
    ]


@pytest.mark.parametrize("durations", [True, False])
def test_names_of_tasks_do_not_matter(durations: bool, generator: torch.Generator) -> None:
    initial, transition, emission, duration = arguments(generator, durations)
    order = torch.tensor([2, 0, 1])
    plain = hsmm_posterior(initial, transition, emission, duration)
    renamed = hsmm_posterior(
        initial[..., order],
        transition[..., order, :][..., order],
        emission[..., order],
        duration[order],
    )
    for name in ("log_filtered", "log_predicted", "log_smoothed"):
        torch.testing.assert_close(getattr(renamed, name), getattr(plain, name)[..., order])
    torch.testing.assert_close(renamed.log_evidence, plain.log_evidence)
    assert torch.equal(order[renamed.viterbi], plain.viterbi)


def test_what_all_tasks_explain_equally_moves_only_the_evidence(
    generator: torch.Generator,
) -> None:
    initial, transition, emission, duration = arguments(generator)
    common = 50 * normal(generator, 9)
    plain = hsmm_posterior(initial, transition, emission, duration)
    moved = hsmm_posterior(initial, transition, emission + common[:, None], duration)
    torch.testing.assert_close(moved.log_evidence, plain.log_evidence + common.sum())
    for name in ("log_filtered", "log_predicted", "log_smoothed", "viterbi"):
        torch.testing.assert_close(getattr(moved, name), getattr(plain, name))


def test_the_best_path_is_found_only_where_it_is_asked_for(generator: torch.Generator) -> None:
    everything = arguments(generator)
    plain = hsmm_posterior(*everything)
    lean = hsmm_posterior(*everything, viterbi=False)
    assert lean.viterbi is None
    assert all(torch.equal(b, numbers(plain)[name]) for name, b in numbers(lean).items())
    assert hmm_posterior(*everything[:3], viterbi=False).viterbi is None


@pytest.mark.parametrize("durations", [True, False])
def test_identities_of_the_posterior(durations: bool, generator: torch.Generator) -> None:
    initial, transition, emission, duration = arguments(generator, durations)
    posterior = hsmm_posterior(initial, transition, emission, duration)
    # At the last step there is no future to learn from, at the first one no past.
    torch.testing.assert_close(
        posterior.log_smoothed[..., -1, :], posterior.log_filtered[..., -1, :]
    )
    torch.testing.assert_close(
        posterior.log_predicted[..., 0, :], initial.expand(3, 2, 3), atol=1e-14, rtol=0
    )
    # Bayes at each step, and the chain rule of the evidence.
    joint = posterior.log_predicted + emission
    torch.testing.assert_close(posterior.log_filtered, joint.log_softmax(-1))
    torch.testing.assert_close(posterior.log_evidence, joint.logsumexp(-1).sum(-1))
    for name in ("log_filtered", "log_predicted", "log_smoothed"):
        total = getattr(posterior, name).exp().sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-14, rtol=0)


@pytest.mark.parametrize("forbid", ["", "self", "some"])
@pytest.mark.parametrize("law", ["one step", "gaps", "bounded"])
def test_gradient_of_the_evidence_is_the_smoothed_posterior(
    law: str, forbid: str, generator: torch.Generator
) -> None:
    initial, transition, emission = random_chain(generator, 3, 12, forbid)
    one_step = torch.zeros(3, 1, dtype=torch.float64)
    duration = one_step if law == "one step" else LAWS[law](generator, 3)
    emission.requires_grad_()
    posterior = hsmm_posterior(initial, transition, emission, duration)
    (gradient,) = torch.autograd.grad(posterior.log_evidence, emission)
    torch.testing.assert_close(gradient, posterior.log_smoothed.exp().detach())


def test_pyros_discrete_hmm_applies_one_transition_more(generator: torch.Generator) -> None:
    initial, transition, _ = random_chain(generator, 3, 1)
    means, x = normal(generator, 3), normal(generator, 7)
    theirs = dist.DiscreteHMM(initial, transition, dist.Normal(means, 0.5)).log_prob(x)
    first = (initial[:, None] + transition).logsumexp(0)
    ours = hmm_posterior(first, transition, dist.Normal(means, 0.5).log_prob(x[:, None]))
    torch.testing.assert_close(ours.log_evidence, theirs)


def test_single_precision_stays_accurate_on_long_sequences(generator: torch.Generator) -> None:
    chain = random_chain(generator, 2, 2000)
    exact = hmm_posterior(*chain)
    single = hmm_posterior(*[value.float() for value in chain])
    assert single.log_smoothed.dtype == torch.float32
    torch.testing.assert_close(
        single.log_smoothed.double().exp(), exact.log_smoothed.exp(), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(single.log_evidence.double(), exact.log_evidence, atol=0, rtol=1e-5)


def test_mixed_precision_is_computed_in_the_higher_one(generator: torch.Generator) -> None:
    initial, transition, emission = random_chain(generator, 2, 5)
    mixed = hmm_posterior(initial, transition, emission.float())
    full = hmm_posterior(initial, transition, emission.float().double())
    for name, want in numbers(full).items():
        assert torch.equal(getattr(mixed, name), want)
        assert getattr(mixed, name).dtype == want.dtype


def test_a_single_task_is_certain(generator: torch.Generator) -> None:
    emission = normal(generator, 5, 1)
    posterior = hmm_posterior(torch.zeros(1), torch.zeros(1, 1), emission)
    assert not posterior.log_smoothed.any()
    assert not posterior.viterbi.any()
    torch.testing.assert_close(posterior.log_evidence, emission.sum())


K2 = {
    "log_initial": torch.full((2,), 0.5).log(),
    "log_transition": torch.full((2, 2), 0.5).log(),
    "log_emission": torch.zeros(4, 2),
    "log_duration": torch.full((2, 3), 1 / 3).log(),
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("log_initial", torch.tensor(0.0), r"log_initial should be \(..., K\).*got \(\)"),
        ("log_transition", torch.zeros(3, 2), r"log_transition.*\(..., 2, 2\).*got \(3, 2\)"),
        ("log_transition", torch.zeros(2), r"log_transition.*got \(2,\)"),
        ("log_transition", torch.tensor(0.0), r"log_transition.*got \(\)"),
        ("log_emission", torch.zeros(4, 3), r"log_emission.*\(..., T, 2\).*got \(4, 3\)"),
        ("log_emission", torch.zeros(0, 2), r"log_emission.*T, D >= 1.*got \(0, 2\)"),
        ("log_emission", torch.zeros(2), r"log_emission.*got \(2,\)"),
        ("log_duration", torch.zeros(3, 1), r"log_duration.*\(..., 2, D\).*got \(3, 1\)"),
        ("log_duration", torch.zeros(2, 0), r"log_duration.*got \(2, 0\)"),
        (
            "log_emission",
            torch.zeros(4, 2).long(),
            r"log_emission.*floating numbers.*int64: take the log",
        ),
        ("log_emission", torch.tensor([[0.0, math.nan]]), r"log_emission.*NaN"),
        ("log_emission", torch.tensor([[0.0, math.inf]]), r"log_emission.*\+inf"),
        ("log_initial", torch.tensor([0.0, math.nan]), r"log_initial.*NaN"),
        ("log_transition", torch.full((2, 2), math.nan), r"log_transition.*NaN"),
        ("log_duration", torch.full((2, 2), math.nan), r"log_duration.*NaN"),
        ("log_initial", torch.zeros(2), r"log_initial.*row \[\] sum to 2: apply log_softmax"),
        (
            "log_transition",
            torch.tensor([[1.0, 0.0], [0.5, 0.25]]).log(),
            r"log_transition.*row \[1\] sum to 0.75: apply log_softmax",
        ),
        ("log_duration", torch.zeros(2, 2), r"log_duration.*row \[0\] sum to 2"),
        ("log_duration", torch.full((2, 2), -math.inf), r"log_duration.*row \[0\] sum to 0"),
        ("log_initial", K2["log_initial"].expand(3, 2), r"broadcast; got .*'log_initial': \(3,\)"),
    ],
)
def test_invalid_arguments_are_named(name: str, value: Tensor, message: str) -> None:
    arguments = {**K2, "log_emission": torch.zeros(5, 4, 2)} if value.shape == (3, 2) else K2
    with pytest.raises(ValueError, match=message):
        hsmm_posterior(**{**arguments, name: value})
    if name != "log_duration":
        chain = {key: val for key, val in arguments.items() if key != "log_duration"}
        with pytest.raises(ValueError, match=message):
            hmm_posterior(**{**chain, name: value})


def test_rows_within_single_precision_pass_and_leave_no_trace() -> None:
    rough = K2["log_transition"] + 5e-5
    posterior = hmm_posterior(K2["log_initial"], rough, K2["log_emission"])
    assert float(posterior.log_predicted.logsumexp(-1).abs().max()) < 1e-6


def test_impossible_data_name_the_first_impossible_step() -> None:
    stay = torch.eye(2).log()
    emission = torch.zeros(3, 5, 2)
    emission[2, 1, 0] = emission[2, 3, 1] = -math.inf  # first not 0, then not 1, no change between
    with pytest.raises(ValueError, match=r"-inf at step 3 .* batch element \[2\]"):
        hmm_posterior(K2["log_initial"], stay, emission)
    fixed_blocks = torch.tensor([[0.0, 1.0]] * 2).log()
    swap = torch.eye(2).flip(0).log()
    emission = torch.zeros(4, 2)
    emission[0, 1] = emission[1, 0] = -math.inf  # a change inside a block of two steps
    with pytest.raises(ValueError, match=r"-inf at step 1 .* batch element \[\]"):
        hsmm_posterior(K2["log_initial"], swap, emission, fixed_blocks)


@pytest.mark.parametrize("durations", [True, False])
def test_paths_are_drawn_as_often_as_their_joint_posterior_has_them(
    durations: bool, generator: torch.Generator
) -> None:
    K, T, n = 3, 5, 20_000
    initial, transition, emission = random_chain(generator, K, T)
    if durations:
        duration = random_durations(generator, K, 4)
        found = hsmm_posterior(initial, transition, emission, duration)
        z, log_prior = hsmm_paths(initial, transition, duration, T)
    else:
        found = hmm_posterior(initial, transition, emission)
        z, log_prior = hmm_paths(initial, transition, T)
    log_joint = log_prior + emission.gather(-1, z.mT).sum(0)
    powers = K ** torch.arange(T)  # one number for each sequence of tasks
    exact = torch.zeros(K**T, dtype=torch.float64).index_add(
        0, (z * powers).sum(-1), log_joint.softmax(0)
    )
    drawn = found.paths.sample(n, generator)
    counts = torch.bincount((drawn * powers).sum(-1), minlength=K**T)
    likely = exact * n >= 5
    gaps = (counts - n * exact)[likely] ** 2 / (n * exact)[likely]
    dof = int(likely.sum())
    assert gaps.sum() < dof + 5 * math.sqrt(2 * dof)  # chi-square, five standard deviations
    assert counts[exact == 0].sum() == 0


def test_drawn_paths_have_a_batch_and_the_generators_randomness(
    generator: torch.Generator,
) -> None:
    found = hsmm_posterior(*arguments(generator))
    one = found.paths.sample(7, torch.Generator().manual_seed(3))
    assert one.shape == (7, 3, 2, 9)
    assert torch.equal(one, found.paths.sample(7, torch.Generator().manual_seed(3)))
    share = torch.nn.functional.one_hot(found.paths.sample(4000, generator), 3).double().mean(0)
    assert (share - found.log_smoothed.exp()).abs().max() < 5 * math.sqrt(0.25 / 4000)


def test_paths_of_a_sticky_chain_switch_as_seldom_as_it_does(generator: torch.Generator) -> None:
    """The smoother's steps drawn one by one would switch more often (S13)."""
    T, K = 200, 2
    initial, transition = torch.full((K,), 0.5).log(), torch.tensor([[0.95, 0.05], [0.05, 0.95]])
    emission = 0.7 * torch.randn(T, K, generator=generator)
    found = hmm_posterior(initial, transition.log(), emission)
    pairs = log_pairwise(found, transition.log()).exp()
    expected = (1 - pairs.diagonal(dim1=-2, dim2=-1).sum(-1)).sum()
    drawn = found.paths.sample(2000, generator)
    switches = (drawn.diff(dim=-1) != 0).sum(-1).double()
    assert (switches.mean() - expected).abs() < 5 * switches.std() / math.sqrt(2000)
    alone = (2 * found.log_smoothed.exp()[:-1, 0] * found.log_smoothed.exp()[1:, 1]).sum()
    assert alone > 1.2 * expected
