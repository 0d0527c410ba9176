# %% [markdown]
# # Can I trust it? Four checks of a task posterior, each with a case that fails
#
# After this lesson you can check a posterior over tasks in four steps, and say what each verdict
# does and does not mean.
#
# | check | question | needs |
# |---|---|---|
# | `check_model` | can tasks be inferred from this model and these data? | the data |
# | simulation-based calibration | is the inference right, if the model is? | the model |
# | importance correction | is it right for *these* data? | the data |
# | reliability | is the model right? | some labels |

# %%
import os
import textwrap

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure

import gbi_pyro as gbi

# %matplotlib inline
FAST = os.environ.get("GBI_PYRO_FAST") == "1"  # less of all, to test the lesson
torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)


def say(words):
    print(textwrap.fill(str(words), 88, subsequent_indent="      "))


# %% [markdown]
# ## The model
# Eight sensors with saturation respond to one of three tasks. The third task's pattern lies between
# the other two, so that one gradient step from the middle of all is biased against it.

# %%
PATTERNS = torch.randn(2, 8, generator=draw)
PATTERNS = torch.cat([PATTERNS, PATTERNS.mean(0, keepdim=True)])


def model(x):
    with pyro.plate("trial", len(x)):
        z = pyro.sample(
            "z", dist.OneHotCategorical(torch.ones(3)), infer={"task": True}
        )
        pyro.sample("x", dist.Normal((z @ PATTERNS).tanh(), 0.8).to_event(1), obs=x)


def trials(n, sigma=0.8):
    z = torch.randint(3, (n,), generator=draw)
    return PATTERNS[z].tanh() + sigma * torch.randn(n, 8, generator=draw), z


x, z = trials(500 if FAST else 2000)

# %% [markdown]
# ## 1. Does the model allow tasks to be inferred?
# `check_model` runs it a few times and looks for what would go wrong. Here is the model with a
# sensor that failed, and one whose likelihood forgets its task:


# %%
def forgets(x):
    with pyro.plate("trial", len(x)):
        pyro.sample("z", dist.OneHotCategorical(torch.ones(3)), infer={"task": True})
        pyro.sample("x", dist.Normal(0.0, 0.8).expand([8]).to_event(1), obs=x)


failed = x.clone()
failed[3, 5] = torch.nan
report = gbi.check_model(model, x)
for finding in report.findings:
    say(finding)
assert report.ok
for broken in (gbi.check_model(model, failed), gbi.check_model(forgets, x)):
    assert not broken.ok
    say(broken.findings[-1])

# %% [markdown]
# Read aloud: the model passes; two notes say what one step costs, and that it is biased for three
# tasks. The faults name the site, what is wrong, and what to do.
#
# ## 2. Is the inference right?
# Draw a task and data from the model, infer, and compare. If the inference is exact, the true task
# is a draw from the inferred posterior, and probabilities come true as often as they say. No label
# of real data is needed, since the model made the data.

# %%
other, _ = trials(500 if FAST else 2000)
calibration = gbi.calibrate(
    gbi.OneStepGradient()(model, other), gbi.Enumeration()(model, other)
)
ways = {
    "one step": gbi.OneStepGradient(),
    "one step, calibrated": gbi.OneStepGradient(calibration=calibration),
    "enumeration": gbi.Enumeration(),
}
simulations, verdicts = {}, {}
for name, infer in ways.items():
    simulations[name] = gbi.metrics.run_sbc(
        model, infer, (x[:1],), num_simulations=500, parallel=True, generator=draw
    )
    verdicts[name] = gbi.metrics.check_sbc(simulations[name])
    say(verdicts[name].verdict)
assert not verdicts["one step"].passed
assert verdicts["one step, calibrated"].passed

# %% [markdown]
# Read aloud: one step gives task 2, the one in the middle, little more than half of the probability
# that it should have, and is too sure. Calibrated, nothing speaks against it. That is no proof: 500
# simulations do not see errors that take 5000 to see, and the prior itself would pass.
#
# ## 3. Is it right for these data?
# SBC speaks of the average over data that the model would make. Of the twenty trials at hand one
# can ask directly: draw all their tasks from the posterior, weight the draws by p(x, z) / q(z | x).
# If few draws carry all the weight, the posterior is far from the exact one. The weights also
# correct it.

# %%
here = x[:20]
corrected = {
    name: gbi.metrics.importance_correction(
        gbi.AutoTaskGuide(model, ways[name]), (here,), num_draws=500, generator=draw
    )
    for name in ("one step", "one step, calibrated")
}
exact = gbi.Enumeration()(model, here).probs()
for name, found in corrected.items():
    before = (ways[name](model, here).probs() - exact).abs().max().item()
    after = (found.probs("z") - exact).abs().max().item()
    say(found.verdict)
    print(f"   largest error of a probability: {before:.3f}, corrected {after:.3f}")
assert not corrected["one step"].trusted.all()
assert corrected["one step, calibrated"].trusted.all()

# %% [markdown]
# Read aloud: 500 draws of one step are worth fewer than fifty exact ones, too few to correct it
# by; the calibrated posterior is close enough. Enumeration stands beside it to show that this is
# so; the check itself did not need it, and works where K is too large to enumerate.
#
# ## 4. Is the model right?
# The three checks above take the model for granted. Here come trials from another laboratory, whose
# sensors are noisier than the model says. Even exact inference is now wrong, and only labels can
# show it.

# %%
noisy_x, noisy_z = trials(len(x), sigma=1.2)
half = len(noisy_x) // 2
exact = gbi.Enumeration()(model, noisy_x).logits()
T = gbi.metrics.fit_temperature(exact[:half], noisy_z[:half])
tables = {
    "as it is": gbi.metrics.reliability_table(exact[half:], noisy_z[half:], 8, "mass"),
    f"temperature {T:.1f}": gbi.metrics.reliability_table(
        gbi.metrics.temper(exact, T)[half:], noisy_z[half:], 8, "mass"
    ),
}
for name, table in tables.items():
    print(f"{name}: calibration error {table.calibration_error:.3f}")
    outside = (table.confidence < table.accuracy_low) | (
        table.confidence > table.accuracy_high
    )
    print(
        f"   confidence outside the interval of the accuracy in "
        f"{int(outside.sum())} of 8 bins"
    )

# %% [markdown]
# Read aloud: where the model says 90 %, it is right less often. One temperature, fitted to the
# labels of one half, corrects the other half. Better still is a better model (here, a noise that is
# learned): a temperature corrects sureness, not answers.
#
# On the left the reliability of the simulations of step 2, on the right that of the other
# laboratory's trials: accuracy against confidence, with 95 % intervals.

# %%
figure = Figure(figsize=(9, 4), layout="constrained")
left, right = figure.subplots(1, 2)
simulated = {
    n: gbi.metrics.reliability_table(*s.cases("z"), 6, "mass")
    for n, s in simulations.items()
}
gbi.plots.reliability(simulated, left, title="simulated by the model")
gbi.plots.reliability(tables, right, title="noisier laboratory, exact inference")
figure

# %% [markdown]
# ## The workflow
#
# 1. `check_model`, each time the model or the data change.
# 2. `run_sbc` and `check_sbc`, for each model and inference, before any real data.
# 3. `importance_correction` on the data that a result rests on.
# 4. `reliability_table` as soon as there are labels, if only for a few trials.
#
# If 2 or 3 fails: calibrate, take `order=2`, or enumerate. If 4 fails: change the model.
#
# **Next:** [Without labels](without_labels.ipynb), where the model itself is learned without
# knowing any task.
