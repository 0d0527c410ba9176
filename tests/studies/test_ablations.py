"""The ablations on tiny data: what is computed is checked against what must hold."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from study_runs import check_posterior_file, without_figures

from gbi_pyro.data.switching import FixedBlocks, SwitchingStream
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.conditioning import CONDITIONERS, parameter_count
from gbi_pyro.models.sequence import SequenceLSTM
from studies.ablations import forgetting, generalisation, inputs, regularizers, study
from studies.ablations.config import (
    FOUR_MEANS,
    MOVED_SEEDS,
    PRETRAINING_MEANS,
    UPDATE_SEEDS,
    AblationsConfig,
    generator,
)
from studies.ablations.gains import first_below, gain_row
from studies.ablations.heads import (
    HEADS,
    PRETRAINED,
    PRETRAINED_SGD,
    RANDOM,
    RANDOM_SGD,
    TRAINED,
    measure_heads,
    pretrained_trunk,
)
from studies.ablations.stack import LearningStack
from studies.ablations.study import AblationsStudy
from studies.ablations.task_inputs import (
    CONTROLS,
    NONE,
    SAME_START,
    SLOTS,
    TASK_INPUTS,
    TRUE,
    TaskInput,
)
from studies.ablations.training import equal_size, new_network, train
from studies.core.blocks import LEFT_OUT, WINDOW, reference_errors
from studies.core.runner import num_stages, run
from studies.core.unseen_means import BETWEEN, UNSEEN, Rate

TOY = replace(AblationsConfig(seeds=2).fast(), updates=10)
RARE = 1e-9  # probability that a statistical test fails by chance
MEASURES = ("input", "conditioner", "regularizers", "forgetting", "heads")


def ignore(_what):
    """Report nothing."""


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ablations")


@pytest.fixture(scope="module")
def stages():
    return []


@pytest.fixture(scope="module")
def finished(folder, stages):
    """One run through everything, too short to show anything."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:  # the choice of 14 rates takes longer than the rest
        patch.setattr(study, "choose_moved", lambda config, kind: Rate(0.01, 1))
        return run(AblationsStudy(TOY), folder, progress=stages.append)


def test_every_file_is_written_and_every_number_has_a_row(finished, folder):
    names = {path.name for path in folder.iterdir() if path.is_file()}
    files = {"config.json", "metrics.json", "table.md", "posterior.nc"}
    assert names == files | {"weights.safetensors", "weights.json", "run.json"}
    assert [p.name for p in finished.figures] == [
        "inputs.png",
        "forgetting.png",
        "conditioners.png",
    ]
    assert len({(row.claim, row.what) for row in finished.rows}) == len(finished.rows)
    assert {row.claim for row in finished.rows} == {"C1", "C2", "C5", "M6", "T4", "T6", "T7", "T9"}


def test_no_schedule_and_no_kind_is_left_out(finished):
    what = {row.what for row in finished.rows if row.claim == "T7"}
    for schedule in forgetting.schedules(TOY):
        for kind in (TRUE, *CONTROLS):
            assert f"{schedule.name}: forgetting, plain LSTM / {kind} Z" in what
        for kind in HEADS:
            assert f"{schedule.name}: backward transfer, fall of the error, {kind}" in what
    targets = {row.what: row.target for row in finished.targets}
    assert all(target.statistic == "lower end" for target in targets.values())
    for kind in (TRUE, *CONTROLS):
        target = targets[f"{kind} Z: updates saved on the plain LSTM"]
        assert target.at_least == (kind == TRUE)


def test_the_weights_and_the_posterior_are_those_of_the_first_true_network(finished):
    network = AblationsStudy(TOY).networks(finished.found)["true"]
    trained = train(TOY, 0, TRUE).network
    for name, tensor in trained.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)
    data = AblationsStudy(TOY).posterior(finished.found)
    probs, exact = data["task_probs"]["z"], data["exact_task_probs"]["z"]
    assert probs.dims == exact.dims == ("sequence", "time", "z_task")
    np.testing.assert_allclose(probs.sum("z_task"), 1, atol=1e-5)


def test_the_posterior_comes_back_as_it_was_written(finished):
    check_posterior_file(AblationsStudy(TOY), finished)


def test_every_stage_is_reported(finished, stages):
    assert len(stages) == len(set(stages)) == num_stages(AblationsStudy(TOY))


def test_more_seeds_measure_the_new_ones_alone(finished, folder, monkeypatch):
    measured = []
    for name in MEASURES:
        one = getattr(study, f"measure_{name}")

        def spy(*args, one=one):
            measured.extend(a for a in args if type(a) in (int, tuple))
            return one(*args)

        monkeypatch.setattr(study, f"measure_{name}", spy)
    again = run(without_figures(AblationsStudy(TOY)), folder)
    assert not measured
    assert [row.as_dict() for row in again.rows] == [row.as_dict() for row in finished.rows]
    more = run(without_figures(AblationsStudy(replace(TOY, seeds=3))), folder)
    assert set(measured) == {2, (2,)}
    assert len(measured) == len(AblationsStudy(TOY).parts())
    for one, other in zip(finished.rows, more.rows, strict=True):
        assert one.values == other.values[: len(one.values)]


def test_choices_are_made_on_seeds_and_means_that_no_result_uses(monkeypatch):
    assert min(*MOVED_SEEDS, *UPDATE_SEEDS) >= 1000
    assert (UNSEEN[:, None] - BETWEEN).abs().min().item() > 0.04
    used = []
    for module in (generalisation, regularizers):
        for name in ("generator", "frozen_generator"):
            if hasattr(module, name):
                one = getattr(module, name)
                monkeypatch.setattr(
                    module, name, lambda seed, role, one=one: used.append(seed) or one(seed, role)
                )
        trained = module.train
        monkeypatch.setattr(
            module, "train", lambda c, s, k, one=trained: used.append(s) or one(c, s, k)
        )
    generalisation.choose_moved(TOY, NONE)
    assert set(used) == set(MOVED_SEEDS)
    used.clear()
    found = regularizers.choose_update(TOY, regularizers.L2_CHOSEN)
    assert set(used) == set(UPDATE_SEEDS)
    assert (found.rate in regularizers.RATES, found.weight in regularizers.WEIGHTS) == (True, True)


def test_shuffled_labels_are_the_labels_and_say_nothing():
    stream = SwitchingStream(blocks=FixedBlocks(20))
    z = stream.sample(8, 100, draw()).z
    shuffled = TaskInput("shuffled", 2, 0)(z, draw(1))
    true = torch.nn.functional.one_hot(z, 2)
    assert torch.equal(shuffled.sum((0, 1)), true.sum((0, 1)).float())
    counts = torch.einsum("bti,btj->ij", true.double(), shuffled.double())
    expected = counts.sum(1, keepdim=True) * counts.sum(0) / counts.sum()
    information = (counts * (counts / expected).log()).sum() / counts.sum()
    # Of labels in random order 2 N I has a chi-squared distribution with (K - 1)^2 = 1 degree.
    assert 0 <= information.item() <= chi2.isf(RARE, 1) / (2 * z.numel())
    assert not torch.equal(shuffled, true.float())


@pytest.mark.parametrize("kind", [TRUE, *CONTROLS])
def test_every_input_is_a_point_of_the_simplex_for_each_step(kind):
    z = torch.arange(12).reshape(3, 4) % 3
    found = TaskInput(kind, 3, seed=0)(z, draw())
    assert found.shape == (3, 4, 3)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 4))
    assert bool((found >= 0).all())


@pytest.mark.parametrize("kind", ["random", "constant", "frozen random"])
def test_an_input_that_does_not_look_at_the_task_does_not_depend_on_it(kind):
    z = torch.arange(12).reshape(3, 4) % 2
    task = TaskInput(kind, 2, seed=0)
    assert torch.equal(task(z, draw()), task(1 - z, draw()))


def test_what_is_drawn_anew_and_what_is_kept():
    z, state = torch.zeros(3, 4).long(), draw()
    constant = TaskInput("constant", 2, 0)(z, state)
    assert constant.unique().tolist() == [0.5]
    frozen = TaskInput("frozen random", 2, 0)
    points = frozen(z, state)
    assert torch.equal(points, frozen(z, state))
    assert torch.equal(points[:2], frozen(z[:2], state))
    assert len(points[..., 0].unique()) == 3  # one for each sequence
    assert not torch.equal(points, TaskInput("frozen random", 2, seed=1)(z, state))
    random = TaskInput("random", 2, 0)
    assert not torch.equal(random(z, state), random(z, state))
    assert TaskInput(NONE, 2, 0)(z, state) is None


def test_random_points_are_uniform_on_the_simplex():
    points = TaskInput("random", 2, 0)(torch.zeros(100, 100).long(), draw())[..., 0]
    for power in (1, 2):  # E u^n = 1 / (n + 1)
        error = (1 / (2 * power + 1) - 1 / (power + 1) ** 2) ** 0.5 / math.sqrt(points.numel())
        assert points.pow(power).mean().item() == pytest.approx(1 / (power + 1), abs=6 * error)


def test_shuffled_labels_of_one_task_are_not_the_right_ones():
    z = torch.zeros(4, 50).long()
    found = TaskInput("shuffled", 2, 0).on_one_task(z, draw())
    assert found.sum((0, 1)).tolist() == [100, 100]
    assert TaskInput(TRUE, 2, 0).on_one_task(z, draw()).argmax(-1).equal(z)


def test_invalid_inputs_are_refused():
    with pytest.raises(ValueError, match="kind must be one of"):
        TaskInput("shufled", 2, 0)
    with pytest.raises(ValueError, match=f"more than the {SLOTS} frozen points"):
        TaskInput("frozen random", 2, 0)(torch.zeros(SLOTS + 1, 2).long(), draw())


@pytest.mark.parametrize("way", CONDITIONERS)
def test_networks_are_of_equal_size(way):
    config = AblationsConfig()
    budget = parameter_count(SequenceLSTM(2, config.hidden_size))
    size = equal_size(config, way)
    count = parameter_count(SequenceLSTM(2, size, conditioning=way))
    assert count == pytest.approx(budget, rel=0.02)
    assert parameter_count(SequenceLSTM(None, config.hidden_size)) == pytest.approx(
        budget, rel=0.02
    )


def test_the_plain_network_of_the_same_start_is_a_conditioned_one_whose_task_is_zero():
    conditioned, plain = (new_network(TOY, TaskInput(kind, 2, 3)) for kind in (TRUE, SAME_START))
    x = torch.rand(2, 9, generator=draw())
    with torch.no_grad():
        torch.testing.assert_close(plain.mean(x, None), conditioned.mean(x, torch.zeros(2, 9, 2)))
    assert plain.num_tasks is None
    # torch's bound is 1 / sqrt(inputs of the layer): 1 for the plain one, less for the others.
    usual = new_network(TOY, TaskInput(NONE, 2, 3))
    assert plain.embed.weight.abs().max() <= 3**-0.5
    assert usual.embed.weight.abs().max() > 3**-0.5


def test_every_kind_of_a_seed_sees_the_same_data(monkeypatch):
    seen = {}
    for kind in TASK_INPUTS:
        xs = seen.setdefault(kind, [])
        sample = SwitchingStream.sample

        def spy(self, *args, xs=xs, sample=sample):
            batch = sample(self, *args)
            xs.append(batch.x)
            return batch

        with monkeypatch.context() as patch:
            patch.setattr(SwitchingStream, "sample", spy)
            train.__wrapped__(replace(TOY, updates=5), 0, kind)
    for kind in TASK_INPUTS:
        assert len(seen[kind]) == 6  # the validation set and five batches
        assert all(a.equal(b) for a, b in zip(seen[kind], seen[NONE], strict=True))


def networks(*widths):
    return [SequenceLSTM(k, 5, generator=draw(i)).double() for i, k in enumerate(widths)]


def test_a_stack_learns_as_each_network_alone():
    alone = networks(2, None, 2)
    stack = LearningStack(alone)
    x = torch.rand(3, 1, 8, generator=draw(), dtype=torch.float64)
    z = TaskInput("random", 2, 0)(torch.zeros(3, 8).long(), draw()).double().unsqueeze(1)
    z[1] = 0
    optimiser = torch.optim.Adam(stack.parameters(), lr=0.01, fused=True)
    for _ in range(4):
        optimiser.zero_grad()
        stack.loss(x, z).backward()
        optimiser.step()
    for i, network in enumerate(alone):
        own = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(4):
            own.zero_grad()
            args = (x[i],) if network.num_tasks is None else (x[i], z[i])
            clamped_loss(network, *args).backward()
            own.step()
        with torch.no_grad():
            mean = network.mean(x[i], None if network.num_tasks is None else z[i])
            torch.testing.assert_close(stack.mean(x, z)[i], mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(stack.sigma[i], network.sigma, rtol=1e-9, atol=1e-9)
    assert bool((stack.embed_weight[1, :, 1:] == 0).all())


@pytest.mark.parametrize("frozen", [False, True])
def test_a_stack_with_heads_learns_as_each_network_alone(frozen):
    alone = [
        SequenceLSTM(2, 5, conditioning="affine", generator=draw(i)).double() for i in range(2)
    ]
    stack = LearningStack(alone)
    if frozen:
        stack.freeze_trunk()
        for network in alone:
            network.embed.requires_grad_(False)
            network.lstm.requires_grad_(False)
    x = torch.rand(2, 1, 8, generator=draw(), dtype=torch.float64)
    z = TaskInput("random", 2, 0)(torch.zeros(2, 8).long(), draw()).double().unsqueeze(1)
    optimiser = torch.optim.SGD([p for p in stack.parameters() if p.requires_grad], 0.05)
    before = stack.hidden_weight.detach().clone()
    for _ in range(4):
        optimiser.zero_grad()
        stack.loss(x, z).backward()
        optimiser.step()
    assert torch.equal(stack.hidden_weight, before) == frozen
    for i, network in enumerate(alone):
        own = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.05)
        for _ in range(4):
            own.zero_grad()
            clamped_loss(network, x[i], z[i]).backward()
            own.step()
        with torch.no_grad():
            torch.testing.assert_close(stack.mean(x, z)[i], network.mean(x[i], z[i]))
            torch.testing.assert_close(stack.sigma[i], network.sigma)


def test_a_frozen_trunk_with_a_head_for_each_task_forgets_nothing():
    """Its last prediction of a task depends on numbers that no other task's gradient reaches."""
    schedule = forgetting.Schedule(15, 4, 0.01)
    rises = {
        kind: np.array(
            [
                record.errors[kind][1, 0] - record.errors[kind][0, 0]
                for record in measure_heads(TOY, schedule, range(2), ignore)
            ]
        )
        for kind in HEADS
    }
    for kind in (RANDOM_SGD, PRETRAINED_SGD):
        assert (rises[kind] == 0).all()
    for kind in (RANDOM, PRETRAINED, TRAINED):
        assert (rises[kind] != 0).all()


def test_a_pretrained_trunk_comes_from_means_that_are_no_task():
    assert not set(PRETRAINING_MEANS) & {*AblationsConfig().means, *FOUR_MEANS}
    trunk = pretrained_trunk(TOY, 0)
    random = new_network(TOY, TaskInput(TRUE, 2, 0), "affine").state_dict()
    assert set(random) - set(trunk) == {"head.weight", "head.bias", "log_sigma", "log_prior"}
    for name, weight in trunk.items():
        assert weight.shape == random[name].shape
        assert not torch.equal(weight, pretrained_trunk(TOY, 1)[name])
    again = pretrained_trunk.__wrapped__(TOY, 0)
    assert all(torch.equal(weight, again[name]) for name, weight in trunk.items())


def test_no_trunk_is_needed_where_the_best_prediction_of_a_task_is_a_constant():
    """With weights of zero in its trunk a network learns each task by the bias of its head."""
    config = replace(TOY, probe_sequences=40, probe_length=120)
    network = SequenceLSTM(2, 8, conditioning="affine", generator=draw())
    for weight in (*network.embed.parameters(), *network.lstm.parameters()):
        torch.nn.init.zeros_(weight)
    stack, task = LearningStack([network]), [TaskInput(TRUE, 2, 0)]
    stack.freeze_trunk()
    adam = torch.optim.Adam([p for p in stack.parameters() if p.requires_grad], lr=0.01)
    schedule = forgetting.Schedule(200, 2, 0.01)
    errors = forgetting.errors_while_learning(config, schedule, stack, task, adam)
    floor = reference_errors(config.means, config.sigma)["knows the task"]
    assert errors[0, 0].max() > 3 * floor
    # A bias as far off as two standard errors of the mean of a window, and six of the test itself.
    allowed = 1 + 4 / WINDOW + 6 * math.sqrt(2 / (40 * (120 - LEFT_OUT)))
    assert errors[0, 2].max() < allowed * floor


def test_without_momentum_adam_moves_no_head_that_has_no_gradient():
    inputs = [TaskInput(TRUE, 2, seed) for seed in range(2)]
    stack = LearningStack([new_network(TOY, i, "affine") for i in inputs])
    stack.freeze_trunk()
    adam = torch.optim.Adam(
        [p for p in stack.parameters() if p.requires_grad], lr=0.01, betas=(0.0, 0.999)
    )
    schedule = forgetting.Schedule(15, 4, 0.01)
    errors = forgetting.errors_while_learning(TOY, schedule, stack, inputs, adam, within_block=True)
    assert torch.equal(errors[:, 2, 0], errors[:, 1, 0])
    assert bool((errors[:, 2, 1] != errors[:, 1, 1]).all())  # the last block's own task is learned


@pytest.mark.parametrize("others", [[], [SequenceLSTM(3, 5)], [SequenceLSTM(2, 6)]])
def test_networks_that_do_not_fit_in_a_stack(others):
    with pytest.raises(ValueError, match="a stack takes one network or more"):
        LearningStack([SequenceLSTM(2, 5), *others] if others else [])
    with pytest.raises(ValueError, match="conditioned by concatenation"):
        LearningStack([SequenceLSTM(2, 5, conditioning="film")])


def constant_predictor(value):
    network = SequenceLSTM(2, TOY.hidden_size)
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.constant_(network.head.bias, value)
    return network


def test_the_reference_errors_are_those_of_such_predictors():
    """Of n independent squares the mean has standard error sqrt(2) sigma^2 / sqrt(n) and more."""
    config = replace(TOY, probe_sequences=40, probe_length=120)
    n = 40 * 100
    reference = reference_errors(config.means, config.sigma)
    assert [round(v, 2) for v in reference.values()] == [0.01, 0.1, 0.37]
    for value, errors in (
        (0.2, ("knows the task", "always the wrong mean")),
        (0.5, ("always the middle", "always the middle")),
    ):
        stack = LearningStack([constant_predictor(value)])
        found = forgetting.task_errors(
            config, stack, [TaskInput("constant", 2, 0)], torch.tensor([[0, 1]])
        )
        for got, name in zip(found[0].tolist(), errors, strict=True):
            off = reference[name] - config.sigma**2  # squared distance of the prediction
            error = math.sqrt((2 * config.sigma**4 + 4 * config.sigma**2 * off) / n)
            assert got == pytest.approx(reference[name], abs=6 * error)


def test_the_two_tasks_of_a_schedule_are_those_of_the_last_two_blocks():
    schedule = forgetting.Schedule(30, 4, 0.05)
    config = replace(TOY, hidden_size=16, probe_sequences=8)
    found = forgetting.measure_forgetting(config, schedule, range(3), ignore)
    # Right after its own block a task is known better than the one that is to come.
    for kind in TASK_INPUTS:
        errors = np.stack([record.errors[kind] for record in found])
        assert errors.shape == (3, 2, 2)
        after_a, after_b = errors.mean(0)
        assert after_b[1] < after_a[1] or kind == TRUE
        assert after_a[0] < np.mean([record.untrained[kind] for record in found], 0)[0]


def test_a_stack_of_all_kinds_learns_as_one_of_fewer_seeds():
    schedule = forgetting.Schedule(5, 3, 0.01)
    _, both = forgetting.measure_forgetting(TOY, schedule, (0, 1), ignore)
    (one,) = forgetting.measure_forgetting(TOY, schedule, (1,), ignore)
    for kind in TASK_INPUTS:
        np.testing.assert_allclose(both.errors[kind], one.errors[kind], rtol=1e-3)


def test_the_cosine_is_that_of_the_gradients():
    y = torch.randn(50, 4, generator=draw(), dtype=torch.float64).requires_grad_()
    entropy = torch.special.entr(y.softmax(-1)).sum()
    (slope,) = torch.autograd.grad(entropy, y)
    penalty = -(y - y.mean(-1, keepdim=True)).square().sum() / 8
    (pull,) = torch.autograd.grad(penalty, y)
    expected = torch.cosine_similarity(slope, pull, dim=-1)
    found = regularizers.penalty_cosine(y.detach().log_softmax(-1))
    torch.testing.assert_close(found, expected)
    near = regularizers.penalty_cosine((1e-4 * y.detach()).log_softmax(-1))
    torch.testing.assert_close(near, torch.ones(50, dtype=torch.float64), atol=1e-6, rtol=0)
    two = regularizers.penalty_cosine(y.detach()[:, :2].log_softmax(-1))
    torch.testing.assert_close(two, torch.ones(50, dtype=torch.float64))


def test_units_that_only_follow_the_task_vary_between_tasks_alone():
    network = SequenceLSTM(2, 6, generator=draw())
    with torch.no_grad():
        network.embed.weight[:, 0] = 0  # x does not enter
        network.lstm.weight_hh_l0.zero_()  # and nothing is remembered
        network.lstm.bias_hh_l0[6:12] = -1e4
    found = inputs.measure_units(TOY, TRUE, 0, network)
    z = TOY.stream.sample(TOY.test_sequences, TOY.test_length, generator(0, "test")).z
    p = z.double().mean().item()
    # The means of two tasks, d apart, have variance d^2 / 4; steps p (1 - p) d^2.
    assert found.task_share == pytest.approx(1 / (4 * p * (1 - p)), rel=1e-5)


def test_a_gain_and_its_interval():
    same = gain_row("C1", "gain", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], helps=False)
    assert same.mean == 0
    assert (same.verdict, same.note) == ("reached", "no difference shown")
    half = gain_row("C1", "gain", [2.0, 4.0, 8.0], [1.0, 2.0, 4.0], ratio=True, helps=True)
    assert half.values == (2, 2, 2)
    assert half.interval.low == pytest.approx(2)
    assert (half.verdict, half.note) == ("reached", "geometric mean 2.00, a benefit")
    loss = gain_row("C1", "gain", [1.0, 1.1, 1.2], [2.0, 2.2, 2.1], helps=True)
    assert (loss.verdict, loss.note) == ("not reached", "a loss")
    assert gain_row("C1", "gain", [1.0], [2.0]).verdict == ""


def test_a_curve_that_never_comes_to_the_level_counts_as_late():
    found, note = first_below([[4.0, 2.0, 1.0], [4.0, 3.0, 2.0]], [2.0, 1.0], every=5)
    assert found.tolist() == [10, 20]
    assert note == "1 of 2 never"


def test_the_fast_study_keeps_what_was_asked_for():
    assert AblationsConfig(seeds=1, first_seed=7).fast().all_seeds == range(7, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"probe_length": 20}, "probe_length must be more than the 20 steps"),
        ({"schedules": ((50, 1),)}, "schedules must hold pairs"),
        ({"schedules": ()}, "schedules must hold pairs"),
        ({"online_rates": (0.0,)}, "online_rates must be positive"),
    ],
)
def test_a_config_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(AblationsConfig(), **change)
