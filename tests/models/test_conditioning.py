import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from gbi_pyro import (
    Enumeration,
    OneStepGradient,
    clamped_loss,
    relaxed_log_joint,
    stepwise,
)
from gbi_pyro.models import (
    CONDITIONERS,
    ConditionedAutoencoder,
    Conditioner,
    Conditioning,
    Hypernetwork,
    SequenceLSTM,
    SequenceLSTMStack,
    make_conditioner,
    parameter_count,
    width_for,
)

F64 = torch.float64
F, K, OUT = 4, 3, 6
KINDS = get_args(Conditioning)
every_kind = pytest.mark.parametrize("kind", KINDS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conditioner(kind: Conditioning, seed: int = 0) -> Conditioner:
    return make_conditioner(kind, F, K, OUT, seeded(seed)).double()


def features(*batch: int, seed: int = 1) -> Tensor:
    return torch.randn((*batch, F), generator=seeded(seed), dtype=F64)


def simplex(*batch: int, seed: int = 2, k: int = K) -> Tensor:
    return torch.randn((*batch, k), generator=seeded(seed), dtype=F64).softmax(-1)


def weights_by_task(layer: Conditioner) -> list[Tensor]:
    """What a layer holds for each task: views of its weights, (K, ...)."""
    if layer.in_features > layer.features:  # concatenation
        return [layer.weight.detach()[:, layer.features :].T]
    if layer.out_features == K * OUT:  # a head for each task
        return [layer.weight.detach().view(K, OUT, F), layer.bias.detach().view(K, OUT)]
    return [child.weight.detach().T for child in layer.children() if isinstance(child, nn.Linear)]


# What each kind does, by its equation


def by_equation(layer: Conditioner, h: Tensor, z: Tensor) -> Tensor:
    """One feature vector and one task, written out with loops."""
    p = dict(layer.named_parameters())
    w, y = p["weight"], []
    kind = next(name for name, made in CONDITIONERS.items() if type(layer) is made)
    for o in range(OUT):
        plain = sum(w[o, i] * h[i] for i in range(F)) + (p["bias"][o] if "bias" in p else 0)
        if kind == "concat":
            y.append(plain + sum(w[o, F + k] * z[k] for k in range(K)))
        elif kind == "additive":
            y.append(plain + p["shift.weight"][o] @ z)
        elif kind == "gain":
            y.append((1 + p["gain.weight"][o] @ z) * plain)
        elif kind == "mask":
            y.append(sum(z[k] for k in range(K) if p["signs.weight"][o, k] > 0) * plain)
        elif kind == "film":
            g = p["modulation.weight"]
            y.append((1 + g[o] @ z) * plain + g[OUT + o] @ z)
        else:
            mix = z if kind == "affine" else (p["units.weight"] @ z + p["units.bias"]).tanh()
            rows = [o + j * OUT for j in range(len(mix))]
            y.append(sum(m * (w[r] @ h + p["bias"][r]) for m, r in zip(mix, rows, strict=True)))
    return torch.stack([torch.as_tensor(v, dtype=F64) for v in y])


@every_kind
def test_a_layer_is_its_equation(kind: Conditioning) -> None:
    layer, h, z = conditioner(kind), features(5), simplex(5)
    expected = torch.stack([by_equation(layer, h[n], z[n]) for n in range(5)])
    torch.testing.assert_close(layer(h, z), expected, rtol=0, atol=1e-12)


@every_kind
def test_the_task_moves_the_output(kind: Conditioning) -> None:
    layer, h = conditioner(kind), features(5)
    y = layer(h, torch.eye(K, dtype=F64).unsqueeze(1))
    assert y.shape == (K, 5, OUT)
    for a in range(K):
        for b in range(a):
            assert not torch.allclose(y[a], y[b], atol=1e-3)


@every_kind
def test_a_task_selects_its_own_weights(kind: Conditioning) -> None:
    """At a corner, what the layer holds for other tasks does not matter; its own does."""
    layer, h, corners = conditioner(kind), features(5), torch.eye(K, dtype=F64)
    before = layer(h, corners.unsqueeze(1))
    for views in weights_by_task(layer):
        views[1] *= -3.0  # turns a mask too
    after = layer(h, corners.unsqueeze(1))
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[2], before[2])
    assert not torch.allclose(after[1], before[1], atol=1e-3)


@every_kind
def test_tasks_renamed_with_their_weights_change_nothing(kind: Conditioning) -> None:
    layer, h, z = conditioner(kind), features(5), simplex(5)
    order = torch.tensor([2, 0, 1])
    before = layer(h, z)
    assert not torch.allclose(layer(h, z[:, order]), before, atol=1e-3)
    for views in weights_by_task(layer):
        views.copy_(views[order].clone())
    torch.testing.assert_close(layer(h, z[:, order]), before, rtol=0, atol=1e-12)


@every_kind
def test_affine_in_the_task_or_not_as_the_kind_says(kind: Conditioning) -> None:
    """Second differences along a line through the simplex and out of it."""
    layer, h = conditioner(kind), features(5)
    a, b = simplex(5, seed=3), simplex(5, seed=4)
    steps = [layer(h, a + t * (b - a)) for t in (-1.0, 0.5, 2.0)]
    second = steps[0] - 2 * steps[1] + steps[2]
    if layer.affine:
        torch.testing.assert_close(second, torch.zeros_like(second), rtol=0, atol=1e-12)
    else:
        assert second.abs().max() > 1e-3


def test_one_kind_is_not_affine() -> None:
    assert [kind for kind in KINDS if not CONDITIONERS[kind].affine] == ["hypernetwork"]


@every_kind
def test_the_gradient_at_maximum_entropy_is_the_slope(kind: Conditioning) -> None:
    layer, h = conditioner(kind), features(5)
    z = torch.full((5, K), 1 / K, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(h, z).square().sum(), z)
    assert bool(slope.isfinite().all())
    assert bool((slope.abs().amax(0) > 1e-6).all())  # every task has a say
    assert torch.autograd.gradcheck(layer, (h.requires_grad_(), z))


def test_concatenation_and_addition_are_the_same_functions() -> None:
    """Dumoulin et al. 2018: in front of a linear layer, to concatenate is to add a bias."""
    concat, additive = conditioner("concat"), conditioner("additive")
    additive.weight.data = concat.weight.data[:, :F]
    additive.bias.data = concat.bias.data
    additive.get_submodule("shift").weight.data = concat.weight.data[:, F:]
    h, z = features(5), simplex(5)
    torch.testing.assert_close(additive(h, z), concat(h, z), rtol=0, atol=1e-12)
    assert parameter_count(additive) == parameter_count(concat)


def test_film_without_shift_is_gain_and_without_gain_is_addition() -> None:
    film, h, z = conditioner("film"), features(5), simplex(5)
    both = film.get_submodule("modulation").weight.data
    gain, additive = conditioner("gain"), conditioner("additive")
    for layer, name, part in ((gain, "gain", both[:OUT]), (additive, "shift", both[OUT:])):
        layer.weight.data, layer.bias.data = film.weight.data, torch.zeros(OUT, dtype=F64)
        layer.get_submodule(name).weight.data = part.clone()
    rest = gain(h, z) + additive(h, z) - h @ film.weight.T
    torch.testing.assert_close(film(h, z), rest, rtol=0, atol=1e-12)


def test_masks_are_fair_coins_that_are_never_learned() -> None:
    mask = make_conditioner("mask", F, K, 20000, seeded())
    y = mask(features(1).float(), torch.eye(K).unsqueeze(1))[:, 0]
    kept = (y != 0).float()
    assert abs(kept.mean().item() - 0.5) < 5 * 0.5 / math.sqrt(kept.numel())
    pairs = kept[0] * kept[1]  # tasks are independent
    assert abs(pairs.mean().item() - 0.25) < 5 * math.sqrt(3 / 16 / 20000)
    optimiser = torch.optim.AdamW(mask.parameters(), lr=0.1, weight_decay=0.5)
    mask(features(2).float(), torch.eye(K)[:2]).sum().backward()
    before = mask.get_submodule("signs").weight.clone()
    optimiser.step()
    assert torch.equal(mask.get_submodule("signs").weight, before)
    assert parameter_count(mask) == (F + 1) * 20000


# Dimensions


@every_kind
def test_enumeration_is_a_loop_over_tasks(kind: Conditioning) -> None:
    layer, h, corners = conditioner(kind), features(2, 5), torch.eye(K, dtype=F64)
    together = layer(h, corners.reshape(K, 1, 1, K))
    for k in range(K):
        alone = layer(h, corners[k].expand(2, 5, K))
        torch.testing.assert_close(together[k], alone, rtol=0, atol=1e-12)


@every_kind
def test_dimensions_broadcast_both_ways(kind: Conditioning) -> None:
    layer, h, z = conditioner(kind), features(2, 5), simplex(7, 2, 1)
    y = layer(h, z)  # a stack of points, one task for each row
    assert y.shape == (7, 2, 5, OUT)
    torch.testing.assert_close(y[3, 1, 4], layer(h[1, 4], z[3, 1, 0]), rtol=0, atol=1e-12)
    assert layer(h[0, 0], z[0, 0, 0]).shape == (OUT,)
    assert layer(h[:, :0], z).shape == (7, 2, 0, OUT)


# Weights and their number


@every_kind
def test_weights_come_from_the_generator_alone(kind: Conditioning) -> None:
    before = torch.get_rng_state()
    first, same, other = (conditioner(kind, seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, same.get_parameter(name))
        assert not torch.equal(parameter, other.get_parameter(name))


@every_kind
def test_weights_lie_within_the_bounds_of_torch(kind: Conditioning) -> None:
    layer = make_conditioner(kind, F, K, 400, seeded())
    for part in (layer, *(c for c in layer.children() if isinstance(c, nn.Linear))):
        bound = part.in_features**-0.5
        n = part.weight.numel()
        assert part.weight.abs().max() <= bound
        # The mean square of a uniform has standard error bound^2 sqrt(4 / 45 n).
        spread = part.weight.detach().square().mean().item()
        assert abs(spread - bound**2 / 3) <= 5 * bound**2 * math.sqrt(4 / 45 / n)


COUNTS = {
    "concat": (F + K + 1) * OUT,
    "additive": (F + K + 1) * OUT,
    "gain": (F + K + 1) * OUT,
    "mask": (F + 1) * OUT,
    "film": (F + 2 * K) * OUT,
    "hypernetwork": (K + 1) * 4 + 4 * (F + 1) * OUT,
    "affine": K * (F + 1) * OUT,
}


@every_kind
def test_parameters_are_counted(kind: Conditioning) -> None:
    assert parameter_count(conditioner(kind)) == COUNTS[kind]


NETWORKS: dict[str, Callable[[Conditioning, int], nn.Module]] = {
    "layer": lambda kind, width: make_conditioner(kind, F, K, width),
    "sequence": lambda kind, width: SequenceLSTM(K, width, conditioning=kind),
    "image": lambda kind, width: ConditionedAutoencoder(
        (4, 4), K, hidden_size=width, conditioning=kind
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
@every_kind
def test_networks_are_matched_in_size(kind: Conditioning, network: str) -> None:
    """The closest width misses the budget by half of what one more unit costs, at most."""
    make = NETWORKS[network]
    budget = parameter_count(make("concat", 64))
    before = torch.get_rng_state()
    width = width_for(lambda w: make(kind, w), budget)
    assert torch.equal(before, torch.get_rng_state())
    fewer, matched, more = (parameter_count(make(kind, width + d)) for d in (-1, 0, 1))
    assert abs(matched - budget) <= min(abs(fewer - budget), abs(more - budget))
    assert abs(matched - budget) <= (more - fewer) / 4 + 1
    assert abs(matched - budget) <= 0.04 * budget
    if kind == "concat":
        assert width == 64


def test_a_budget_out_of_reach_is_refused() -> None:
    def layer(width: int) -> nn.Module:
        return nn.Linear(F, width)

    assert width_for(layer, F + 1) == 1
    for budget in (F, 10**9):
        with pytest.raises(ValueError, match=f"budget is {budget} parameters, but widths 1 to"):
            width_for(layer, budget)


# Errors


def test_the_registry_is_the_list_of_kinds() -> None:
    assert tuple(CONDITIONERS) == KINDS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_conditioner("scale", F, K, OUT), "kind must be one of .*'film'.* 'scale'"),
        (lambda: make_conditioner("gain", 0, K, OUT), "got features=0"),
        (lambda: make_conditioner("gain", F, 1, OUT), "num_tasks at least 2, .*num_tasks=1"),
        (lambda: make_conditioner("gain", F, K, 0), "out=0"),
        (lambda: Hypernetwork(F, K, OUT, units=0), "units must be at least 1, got 0"),
        (lambda: SequenceLSTM(2, conditioning="scale"), "conditioning must be one of"),
        (lambda: SequenceLSTM(None, conditioning="film"), "'film', but num_tasks=None has no"),
        (lambda: SequenceLSTMStack([SequenceLSTM(2, conditioning="film")]), r"got \['film'\]"),
        (
            lambda: ConditionedAutoencoder((4, 4), K, conditioning="scale"),
            "conditioning must be one of",
        ),
        (
            lambda: ConditionedAutoencoder((1, 8, 8), K, conditioning="affine", network="conv"),
            "network is 'conv': take network='mlp', or AffineHeadAutoencoder",
        ),
    ],
)
def test_invalid_options_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@every_kind
def test_features_and_tasks_of_another_size_are_refused(kind: Conditioning) -> None:
    layer = conditioner(kind)
    with pytest.raises(ValueError, match=r"argument h has shape \(5, 3\), expected \(\.\.\., 4\)"):
        layer(simplex(5), features(5))
    with pytest.raises(ValueError, match=r"argument z has shape \(5, 2\), expected \(\.\.\., 3\)"):
        layer(features(5), simplex(5, k=2))
    with pytest.raises(ValueError, match=r"argument z has shape \(\)"):
        layer(features(5), torch.tensor(1.0))


# In a recurrent network


def sequence(kind: Conditioning, k: int = K, seed: int = 0) -> SequenceLSTM:
    network = SequenceLSTM(k, 8, conditioning=kind, generator=seeded(seed)).double()
    with torch.no_grad():  # initial weights hardly tell the tasks apart
        for parameter in network.parameters():
            parameter *= 1.5
    return network


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 7, generator=seeded(5), dtype=F64)


@every_kind
def test_a_sequence_is_its_steps_chained(kind: Conditioning, x: Tensor) -> None:
    network, z = sequence(kind), simplex(2, 7)
    carried = network.carried_states(x, z)
    state, previous, means = network.initial_state(2), torch.zeros(2, dtype=F64), []
    for t in range(7):
        torch.testing.assert_close((carried.h[:, t], carried.c[:, t]), tuple(state))
        predicted, state = network.step(previous, z[:, t], state)
        means.append(predicted.mean)
        previous = x[:, t]
    torch.testing.assert_close(network.mean(x, z), torch.stack(means, 1), rtol=0, atol=1e-12)


@every_kind
def test_enumerated_tasks_pass_through_a_sequence(kind: Conditioning, x: Tensor) -> None:
    network, corners = sequence(kind), torch.eye(K, dtype=F64)
    together = network.mean(x, corners.reshape(K, 1, 1, K))
    assert together.shape == (K, 2, 7)
    assert not torch.allclose(together[0], together[1], atol=1e-4)
    for k in range(K):
        alone = network.mean(x, corners[k].expand(2, 7, K))
        torch.testing.assert_close(together[k], alone, rtol=0, atol=1e-12)


@every_kind
def test_steps_cut_apart_are_enumerated_by_bayes_rule(kind: Conditioning, x: Tensor) -> None:
    network = sequence(kind)
    states = network.carried_states(x)
    previous = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    terms = []
    for corner in torch.eye(K, dtype=F64):
        predicted, _ = network.step(previous, corner.expand(2, 7, K), states)
        terms.append(predicted.log_prob(x))
    log_joint = torch.stack(terms, -1) - math.log(K)
    exact = Enumeration(chunk_size=K)(stepwise(network, x))
    torch.testing.assert_close(exact.logits(), log_joint.log_softmax(-1))
    torch.testing.assert_close(exact.log_evidence, log_joint.logsumexp(-1))


@every_kind
def test_every_learned_weight_of_a_sequence_learns(kind: Conditioning, x: Tensor) -> None:
    network = sequence(kind)
    clamped_loss(network, x, simplex(2, 7)).backward()
    for parameter in network.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
        assert parameter.grad is None or bool(parameter.grad.any())


@pytest.mark.parametrize("kind", ["concat", "affine"])
def test_one_step_is_exact_where_the_task_enters_after_all_else(
    kind: Conditioning, x: Tensor
) -> None:
    """Exact for K = 2, or with the curvature for any K, where the mean is affine in z."""
    for k, order in ((2, 1), (K, 2)):
        network = sequence(kind, k)
        model = stepwise(network, x)
        step = OneStepGradient(order=order)(model)
        same = torch.allclose(step.logits(), Enumeration()(model).logits(), rtol=0, atol=1e-10)
        assert same == (kind == "affine")


def test_an_affine_head_carries_no_task(x: Tensor) -> None:
    network = sequence("affine")
    slopes = torch.autograd.functional.jacobian(lambda q: network.mean(x, q), simplex(2, 7))
    for b in range(2):
        assert torch.equal((slopes[b, :, b] != 0).any(-1), torch.eye(7).bool())


# In an image network


IMAGES = [(kind, network) for kind in KINDS for network in ("mlp", "conv")]
IMAGES.remove(("affine", "conv"))  # refused, see above


@pytest.mark.parametrize(("kind", "network"), IMAGES)
def test_images_under_every_task(kind: Conditioning, network: str) -> None:
    shape = (1, 8, 8) if network == "conv" else (4, 4)
    options = {"latent_size": 3, "hidden_size": 32, "network": network, "conditioning": kind}
    model = ConditionedAutoencoder(shape, K, **options, generator=seeded()).double()
    if kind != "concat":
        with torch.no_grad():  # initial weights hardly tell the tasks apart
            for weight in model.conditioner.parameters():
                weight *= 3
    x = torch.rand((5, *shape), generator=seeded(6), dtype=F64)
    corners = torch.eye(K, dtype=F64).unsqueeze(1).expand(K, 5, K)
    with torch.no_grad():
        together = model.generate(corners, x)
        for k in range(K):
            torch.testing.assert_close(together[k], model.generate(corners[k], x))
        squares = (x - together).flatten(2).square().sum(-1)
    expected = (-0.5 * squares / model.sigma**2).detach().T.log_softmax(-1)
    torch.testing.assert_close(Enumeration(chunk_size=K)(model, x).logits(), expected)
    # Affine after all else, the curvature makes one step exact; and gains that are not negative
    # pass through a ReLU.
    second_order = OneStepGradient(order=2)(model, x).logits()
    affine = kind == "affine" or (kind, network) == ("mask", "mlp")
    assert torch.allclose(second_order, expected, rtol=0, atol=1e-10) == affine


@every_kind
def test_every_learned_weight_of_an_image_network_learns(kind: Conditioning) -> None:
    model = ConditionedAutoencoder((4, 4), K, hidden_size=8, conditioning=kind).double()
    x = torch.rand((5, 4, 4), generator=seeded(6), dtype=F64)
    relaxed = relaxed_log_joint(model, {"z": simplex(5)}, x).total
    loss = clamped_loss(model, x, simplex(5))
    torch.testing.assert_close(loss, -relaxed / 5)
    loss.backward()
    for parameter in model.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
        assert parameter.grad is None or bool(parameter.grad.any())
