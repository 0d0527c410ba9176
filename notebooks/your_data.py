# %% [markdown]
# # Your data: from a CSV file to task probabilities, and back into the file
#
# After this lesson you can read your own trials from a CSV file, infer which task each trial
# belonged to, and write the probabilities back into the file, row by row.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch

import gbi_pyro as gbi

# %matplotlib inline
FAST = os.environ.get("GBI_PYRO_FAST") == "1"  # less of all, to test the lesson
torch.set_num_threads(1)

# %% [markdown]
# ## The file
# This cell stands in for an experiment: skip it with data of your own. A person sees coloured dots
# that move, and presses left or right. One rule is to answer by the motion, the other by the
# colour; it changes every 20 trials or so. In the first session a cue named the rule, in the second
# there was none. Some trials were missed.


# %%
def experiment(session: str, length: int, draw: np.random.Generator) -> pd.DataFrame:
    by_colour = np.cumsum(draw.random(length) < 1 / 20) % 2 == 1
    motion, colour = draw.uniform(-1, 1, (2, length)).round(3)
    seen = np.where(by_colour, colour, motion)
    right = draw.random(length) < 1 / (1 + np.exp(-5 * seen))
    log_seconds = (
        -0.5 - 0.5 * np.abs(seen) + 0.15 * by_colour + 0.2 * draw.normal(size=length)
    )
    trials = pd.DataFrame({"session": session, "trial": np.arange(length) + 1})
    trials = trials.assign(
        motion=motion, colour=colour, choice=np.where(right, "right", "left")
    )
    trials = trials.assign(seconds=np.exp(log_seconds).round(3))
    trials["rule"] = np.where(by_colour, "colour", "motion")
    trials.loc[draw.random(length) < 0.05, ["choice", "seconds"]] = None
    return trials


draw = np.random.default_rng(0)
truth = pd.concat([experiment("monday", 240, draw), experiment("tuesday", 200, draw)])
folder = tempfile.TemporaryDirectory()
file = Path(folder.name) / "trials.csv"
truth.assign(rule=truth.rule.where(truth.session == "monday")).sample(
    frac=1, random_state=0
).to_csv(file, index=False)

# %%
trials = pd.read_csv(file)
print(trials.head(6).to_string(index=False))
print(trials.groupby("session").count().to_string())

# %% [markdown]
# ## From rows to tensors
# Tasks follow each other in time, so a tensor has a row for each session and a column for each
# trial. `at` says where each row of the file has its place, whatever the order of the rows. What
# was missed, and the places after the end of a shorter session, are masked. pandas numbers a
# missing category as -1, and an unknown task has that number in the library as well.

# %%
RULES = ["motion", "colour"]
place = trials.groupby("session").trial.rank().astype(int) - 1
at = (
    torch.tensor(trials.session.factorize(sort=True)[0]),
    torch.tensor(place.to_numpy()),
)
sessions, length = (int(index.max()) + 1 for index in at)


def tensor(column, missing):
    values = torch.full((sessions, length), missing)
    values[at] = torch.tensor(np.array(column)).to(values.dtype)
    return values


stimulus = torch.stack([tensor(trials.motion, 0.0), tensor(trials.colour, 0.0)], -1)
right = tensor(trials.choice == "right", 0.0)
log_seconds = tensor(np.log(trials.seconds.fillna(1.0)), 0.0)
answered = tensor(trials.choice.notna(), False)
labels = tensor(pd.Categorical(trials.rule, RULES).codes, -1)
data = stimulus, right, log_seconds, answered
print(
    f"{int(answered.sum())} trials answered, {int((labels >= 0).sum())} of known rule"
)

# %% [markdown]
# ## The model
# A small network takes stimulus and task, and gives the log odds of *right* and the expected log
# time. The task is the marked site, one for each trial. It enters by concatenation.


# %%
class Answers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)
        self.network = torch.nn.Sequential(*layers)
        self.log_spread = torch.nn.Parameter(torch.tensor(-1.0))

    def forward(self, stimulus, right, log_seconds, answered):
        with (
            pyro.plate("session", len(right), dim=-2),
            pyro.plate("trial", right.shape[1], dim=-1),
        ):
            z = pyro.sample(
                "z", dist.OneHotCategorical(torch.ones(2)), infer={"task": True}
            )
            log_odds, expected = self.network(torch.cat([stimulus, z], -1)).unbind(-1)
            with pyro.poutine.mask(mask=answered):
                pyro.sample("right", dist.Bernoulli(logits=log_odds), obs=right)
                spread = self.log_spread.exp()
                pyro.sample(
                    "log_seconds", dist.Normal(expected, spread), obs=log_seconds
                )


with torch.random.fork_rng():  # the same first weights at every reading
    torch.manual_seed(0)
    model = Answers()

# %% [markdown]
# ## Fit
# The rules of the second session are not known, so the model learns by expectation maximisation:
# infer the unknown rules, update the weights, and again. Known rules stay as they are. A chain says
# that a rule lasts; how long is learned as well.

# %%
em = gbi.GradientEM(
    model,
    gbi.Enumeration(),
    torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1),
    prior=gbi.TaskChain.sticky(2, hazard=0.1, learn_transition="hazard", time="trial"),
)
for _ in range(60 if FAST else 300):
    objective = em.step(*data, labels=labels)
print(
    f"{objective:.3f} nats per observed value; "
    f"a rule lasts {1 / em.prior.hazard:.0f} trials"
)
print(em.collapse(*data))

# %% [markdown]
# ## Infer, and write it into the file
# `em.infer` gives the exact posterior over the rule of each trial, in the light of its whole
# session. The same `at` that put the rows into tensors takes the probabilities out, in the order of
# the rows. Missed trials have a probability too: their neighbours say what the rule was.

# %%
exact = em.infer(*data, labels=labels)
for k, name in enumerate(RULES):
    trials[f"p_{name}"] = exact.probs()[at][:, k].numpy().round(4)
trials["entropy"] = exact.entropy()[at].numpy().round(4)
trials["inferred"] = np.array(RULES)[exact.mode()[at]]
result = Path(folder.name) / "trials_with_rules.csv"
trials.to_csv(result, index=False)
shown = trials[trials.session == "tuesday"].sort_values("trial").iloc[60:70]
print(shown.drop(columns=["session"]).to_string(index=False, na_rep=""))

# %% [markdown]
# Is each number in its own row? The stimuli come back as they were, trials with a cue have their
# rule with certainty, and the columns of the file are untouched:

# %%
written, original = pd.read_csv(result), pd.read_csv(file)
cued = written.rule.notna()
assert np.allclose(stimulus[at].numpy(), written[["motion", "colour"]])
assert (written.inferred == written.rule)[cued].all()
pd.testing.assert_frame_equal(written[list(original.columns)], original)
folder.cleanup()

# %% [markdown]
# ## Is it right?
# Since we made the data up, the rules of the second session can be looked up. The entropy says
# which trials to leave out of an analysis that needs to know its rule.

# %%
compared = written[~cued].merge(truth, on=["session", "trial"], suffixes=("", "_true"))
right = compared.inferred == compared.rule_true
sure = compared.entropy < 0.2
print(
    f"accuracy {right.mean():.3f}, and {right[sure].mean():.3f} "
    f"of the {sure.mean():.0%} of trials "
    "whose entropy is below 0.2 nats"
)

# %% [markdown]
# One gradient step, in the same chain, costs one forward and one backward pass whatever the number
# of tasks is. It comes close to the exact posterior:

# %%
one_step = gbi.BayesFilter(gbi.OneStepGradient(), em.prior, output="smoothed")(
    model, *data
)
second = truth[truth.session == "tuesday"]
probs, best = (q.probs()[1, : len(second)] for q in (one_step, exact))
found = gbi.metrics.agreement(best.log(), probs.log())
print(f"KL(exact || one step) = {found.kl:.3f} nats per trial of the second session")

# %% [markdown]
# The second session: exact posterior (grey), one gradient step (black), and the trials on which the
# rule truly was *colour* (shaded).

# %%
ax = gbi.plots.task_probs(probs, best, pd.Categorical(second.rule, RULES).codes, task=1)
ax.set(xlabel="trial", ylabel="probability of the rule colour")
ax.figure

# %% [markdown]
# **Next:** [Can I trust it?](can_i_trust_it.ipynb) checks a posterior when nobody knows the truth.
# [Without labels](without_labels.ipynb) does without the cues of the first session, and finds out
# how many rules there are.
