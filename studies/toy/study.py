"""The toy study: networks trained on a switching stream, and what is inferred with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor, nn

from gbi_pyro.export.inference_data import to_inference_data
from gbi_pyro.models.sequence import SequenceLSTM
from studies.core.cache import Cache, as_json
from studies.core.protocol import Found, Report, Study
from studies.core.streams import calibrate_network, filtered_estimates
from studies.core.table import Row
from studies.toy import figures
from studies.toy.adaptation import (
    ON_SIMPLEX,
    VALIDATION_SEEDS,
    Rates,
    choose_rates,
    on_unseen_means,
    prediction_errors,
    run_online,
)
from studies.toy.blocks import learn_blocks
from studies.toy.config import FOUR_MEANS, NOISY, ToyConfig, generator
from studies.toy.identities import measure_identities
from studies.toy.record import CONDITIONED, PLAIN, Estimate, ToySeed
from studies.toy.responses import filters, respond, semi_markov_divergences
from studies.toy.table import toy_table
from studies.toy.training import Trained, test_stream, train_network


class ToyStudy(Study[ToyConfig]):
    """A task that switches between two means, inferred by one gradient step and exactly."""

    name = "toy"
    title = "The paper's toy study (Figures 1-3, Table 1), compared with the exact posterior"
    config_type = ToyConfig
    uses_device = True
    rates: Rates

    def prepare(self, cache: Cache, report: Report) -> None:
        """Choose the rates of online Z on validation seeds."""
        settings = {**as_json(self.config), "seeds": [*VALIDATION_SEEDS], "first_seed": None}
        self.rates = cache.get(
            "rates of online Z", settings, Rates, lambda: choose_rates(self.config)
        )

    def inputs(self) -> dict[str, Any]:
        """Return the rates that were chosen."""
        return {"rates": as_json(self.rates)}

    def measure(self, seed: int, report: Report) -> ToySeed:
        """Train every kind of network and measure everything of one seed."""
        config = self.config
        report(f"training the {PLAIN}")
        plain = train_network(config, seed, config.stream(), conditioned=False)
        usual, noisy = f"K = 2, sigma {config.sigma:g}", f"K = 2, sigma {NOISY:g}"
        four = f"K = 4, sigma {config.sigma:g}"
        kinds = {
            usual: (config.stream(), False),
            noisy: (config.stream(sigma=NOISY), False),
            four: (config.stream(means=FOUR_MEANS), False),
            f"{four}, mixtures": (config.stream(means=FOUR_MEANS), True),
        }
        networks: dict[str, Trained] = {}
        for kind, (stream, mixtures) in kinds.items():
            report(f"training the {CONDITIONED}, {kind}")
            networks[kind] = train_network(config, seed, stream, mixtures=mixtures)
        trained = networks[usual]
        report("one stream block after block")
        blocks = {
            name: learn_blocks(config, seed, conditioned=name == CONDITIONED)
            for name in (CONDITIONED, PLAIN)
        }
        report("Z optimised online")
        x = test_stream(config, seed, trained.stream).x.unsqueeze(0)
        online = run_online(config, self.rates.switches, trained, plain, x)
        both = {CONDITIONED: trained, PLAIN: plain}
        return ToySeed(
            identities=measure_identities(config, seed, trained),
            curves={name: t.curve for name, t in both.items()},
            weights={name: t.network.state_dict() for name, t in both.items()},
            blocks=blocks,
            responses=respond(config, seed, trained),
            noisy=respond(config, seed, networks[noisy]),
            predicted=online[ON_SIMPLEX].mean[0].numpy(),
            values=online[ON_SIMPLEX].values[0].numpy(),
            unseen=on_unseen_means(config, seed, self.rates.unseen, trained, plain),
            estimates={k: self._estimates(seed, t) for k, t in networks.items()},
            semi_markov=semi_markov_divergences(config, seed, networks[noisy]),
            errors=prediction_errors(config, seed, online, trained, plain),
        )

    def _estimates(self, seed: int, trained: Trained) -> dict[str, Estimate]:
        config, stream = self.config, trained.stream
        shape = config.test_sequences, config.test_length
        other = stream.sample(*shape, generator(seed, "calibrate")).x
        calibration = calibrate_network(stream, trained.network, other)
        x = test_stream(config, seed, stream).x
        found = filtered_estimates(stream, trained.network, x, calibration)
        return {n: Estimate(d, p.forward, p.backward) for n, (d, p) in found.items()}

    def table(self, found: Found) -> list[Row]:
        """Return every claim with its values and target."""
        return toy_table(self.config, self.rates.unseen, found[self.name])

    def figures(self, found: Found) -> Iterator[tuple[str, Figure]]:
        """Draw Figures 1-3 of the paper, and the gradient as evidence on a noisy stream."""
        records = found[self.name]
        yield "gradient", figures.figure_gradient(self.config, records[0].noisy)
        yield "figure-1", figures.figure_1(self.config, records[0].responses)
        yield "figure-2", figures.figure_2(self.config, records)
        yield "figure-3", figures.figure_3(self.config, records)

    def posterior(self, found: Found) -> Any:
        """Return one step in the Bayes filter on the first seed's test stream."""
        seed, stream = self.config.first_seed, self.config.stream()
        record: ToySeed = found[self.name][0]
        network = self._network(record.weights[CONDITIONED], CONDITIONED)
        trained = Trained(network, stream, record.curves[CONDITIONED])
        one_step, exact = filters(self.config, seed, trained)
        data = test_stream(self.config, seed, stream)
        return to_inference_data(
            one_step,
            observed={"x": data.x},
            labels={"z": data.z},
            exact=exact,
            attributes={"study": self.name, "seed": seed},
        )

    def networks(self, found: Found) -> Mapping[str, nn.Module]:
        """Return the networks of every seed."""
        names = {CONDITIONED: "conditioned", PLAIN: "plain"}
        return {
            f"{short}_{seed}": self._network(record.weights[name], name)
            for name, short in names.items()
            for seed, record in zip(self.config.all_seeds, found[self.name], strict=True)
        }

    def _network(self, weights: Mapping[str, Tensor], name: str) -> SequenceLSTM:
        network = SequenceLSTM(len(self.config.means) if name == CONDITIONED else None)
        network.load_state_dict(weights)
        network.requires_grad_(False).eval()
        return network
