"""A search for better values of a recipe: trials, each a training, of which those that fall behind are ended early.

Values are drawn by TPE (Bergstra et al. 2011), and trials pruned by the median of those before (`TPESampler` and
`MedianPruner` of Optuna). The first trial has the recipe's own values: what comes after is compared with it.

| in the directory | what |
|---|---|
| `journal.log` | the search, one JSON object a line: what it goes on from after a kill |
| `tune.json`, `tune.html` | its trials and what they say, written anew after each |
| `recipe.json` | the best values, to train with: `shardbox train --recipe DIR/recipe.json` |
| `trials/NUMBER/` | the runs; the best one is finished, of the others the model is left out |

What is drawn depends on the seed and on the trials that came to an end. A trial that was killed counts for nothing, so
that it is drawn again, and the search ends as if nothing had happened.
"""

import fcntl
import hashlib
import json
import logging
import math
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState
from transformers import TrainerCallback, TrainerControl, TrainerState

from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from trainers.recipes.watch import Figure
from trainers.training.divergence import DivergedError
from trainers.training.runs import CHECKPOINTS
from trainers.training.training import train
from trainers.tuning.report import write_search
from trainers.tuning.search import ENDED, Search, Searched
from trainers.tuning.search_space import Choice, Space, check_space, own_values, shown

JOURNAL, TRIALS = "journal.log", "trials"
_LOCK = "tune.lock"
_RANDOM_TRIALS = 6
"""Trials drawn without regard to others before TPE has enough to go by."""
_UNPRUNED_TRIALS = 3
"""Trials that must be complete before one is compared with them."""


def tune(dataset: PreparedDataset, search: Search, out: Path, *, trials: int, timeout: float | None = None) -> Searched:
    """Search until `trials` trials came to an end, or until `timeout` seconds have passed and the running one is over.

    Called again, after a kill or with more trials, it goes on with what is in `out`.

    Raises:
        UsageError: a number out of range, a split that is not there or the same for both, a space that the recipe does
            not have; `out` holds another search, or another process is at it; a trial's values make no training.
    """
    _check(dataset, search, trials)
    out = Path(out)
    if out.exists() and any(out.iterdir()) and not (out / JOURNAL).is_file():
        raise UsageError(f"{out} exists and holds no search", "give another directory")
    (out / TRIALS).mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with _alone(out):
        study = _opened(out, search, search.settings(dataset))
        _forget_killed(study, out)
        while True:
            found = _searched(study, search, dataset, trials)
            write_search(found, out)
            ended = len(found.of(*ENDED))
            if ended >= trials or (timeout is not None and ended and time.monotonic() - start >= timeout):
                return found
            _one_trial(study, found, dataset, out)


def _check(dataset: PreparedDataset, search: Search, trials: int) -> None:
    for split in (search.split, search.evaluate_split):
        dataset.check_split(split)
    if search.split == search.evaluate_split:
        raise UsageError(
            f"values that are best on the images of {search.split!r}, which are trained on", "evaluate another split"
        )
    if trials < 1 or search.evaluations < 1:
        raise UsageError(f"{trials} trials of {search.evaluations} evaluations", "give positive numbers")
    if not search.space:
        raise UsageError("nothing to vary", "give --vary NAME=VALUES, or leave it out for what is usual")
    check_space(search.space, search.recipe)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other processes from the same search: the system lets go of the lock when the process ends, however."""
    with (out / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another process is tuning in {out}", "wait for it, or give another --out") from error
        yield


def _opened(out: Path, search: Search, settings: Mapping[str, Any]) -> optuna.Study:
    """The search in `out`, or a new one. What a kill left behind of the journal's last line is cut off."""
    optuna.logging.set_verbosity(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    journal = out / JOURNAL
    for stale in out.glob(f"{JOURNAL}.lock*"):  # We hold the lock that counts.
        stale.unlink()
    if journal.is_file() and not (content := journal.read_bytes()).endswith(b"\n"):
        journal.write_bytes(content[: content.rfind(b"\n") + 1])
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name="tune",
        direction="minimize" if search.metric == "loss" else "maximize",
        pruner=MedianPruner(n_startup_trials=_UNPRUNED_TRIALS),
        load_if_exists=True,
    )
    settings = json.loads(json.dumps(settings))  # As they come back.
    before = study.user_attrs.get("settings", settings)
    changed = [name for name in settings if before.get(name) != settings[name]]
    if changed:
        raise UsageError(
            f"{out} holds a search with other settings: {', '.join(changed)}", "ask for the same, or another --out"
        )
    study.set_user_attr("settings", settings)
    return study


def _forget_killed(study: optuna.Study, out: Path) -> None:
    """Mark what was running when the process was killed as failed, and take its run away."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        shutil.rmtree(_run_of(out, trial.number), ignore_errors=True)
        sys.stderr.write(f"trial {trial.number} was stopped before its end, and is taken up anew\n")


def _run_of(out: Path, number: int) -> Path:
    return out / TRIALS / f"{number:04d}"


def _searched(study: optuna.Study, search: Search, dataset: PreparedDataset, wanted: int) -> Searched:
    states = (*ENDED, TrialState.FAIL)
    return Searched(search, search.settings(dataset), tuple(study.get_trials(states=states)), wanted, study)


def _one_trial(study: optuna.Study, found: Searched, dataset: PreparedDataset, out: Path) -> None:
    """Draw values, train with them, and tell how it ended.

    Raises:
        UsageError: what was drawn makes no training.
    """
    search, ended = found.search, len(found.of(*ENDED))
    own = own_values(search.space, search.recipe) if not ended else None
    study.sampler = TPESampler(n_startup_trials=_RANDOM_TRIALS, seed=_seed(search.seed, ended))
    if own is not None and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial(own)
    trial = study.ask()
    values = {name: _drawn(trial, name, search.space) for name in search.space}
    trial.set_user_attr("own", own is not None)
    if found.trials and found.trials[-1].state == TrialState.FAIL:
        trial.set_user_attr("again", found.trials[-1].number)
    told = ", ".join(f"{name} {shown(value)}" for name, value in values.items())
    sys.stderr.write(f"trial {ended + 1} of {found.wanted}: {told}\n")
    reporter = _Reporter(trial, search.metric)
    run, start, outcome = _run_of(out, trial.number), time.monotonic(), "complete"
    try:
        _train(dataset, search, values, run, reporter)
    except optuna.TrialPruned:
        outcome = "fell behind"
    except DivergedError as error:
        outcome = error.message
    except torch.OutOfMemoryError:
        outcome = "out of memory"
    except UsageError as error:
        study.tell(trial, state=TrialState.FAIL)
        raise UsageError(f"trial {trial.number} ({told}): {error.message}", error.remedy) from error
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise
    trial.set_user_attr("outcome", outcome)
    trial.set_user_attr("seconds", round(time.monotonic() - start, 2))
    trial.set_user_attr("curve", reporter.curve)
    if outcome == "complete":
        study.tell(trial, reporter.best)
    else:
        study.tell(trial, state=TrialState.PRUNED)
    _tidy(_searched(study, search, dataset, found.wanted), out)


def _train(dataset: PreparedDataset, search: Search, values: Mapping[str, Any], run: Path, reporter: Any) -> None:
    train(
        dataset,
        search.applied(dataset, values),
        run,
        split=search.split,
        seed=search.seed,
        weights=search.weights,
        callbacks=[reporter],
        augment=values.get("augment"),
    )


def _seed(seed: int, ended: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {ended}".encode()).digest()[:4], "big")


def _drawn(trial: Trial, name: str, space: Space) -> Any:
    values = space[name]
    if isinstance(values, Choice):
        return trial.suggest_categorical(name, values.values)
    if values.whole:
        return trial.suggest_int(name, int(values.low), int(values.high))
    return trial.suggest_float(name, values.low, values.high, log=values.logarithmic)


class _Reporter(TrainerCallback):
    """Tells the search of every evaluation, and ends a training that falls behind."""

    def __init__(self, trial: Trial, metric: Figure) -> None:
        self._trial, self._metric = trial, metric
        self._before = self._step = 0
        self.curve: list[tuple[int, float]] = []
        """(step of the run, value) of the evaluations."""

    @property
    def best(self) -> float:
        """The value of the run's model, which is its best one."""
        values = [value for _, value in self.curve if not math.isnan(value)]
        worst = math.inf if self._metric == "loss" else 0.0
        return (min if self._metric == "loss" else max)(values, default=worst)

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Report a value. Steps are counted by stage, evaluations by trial: batch sizes differ, and steps with them."""
        if state.global_step < self._step:
            self._before += self._step
        self._step = state.global_step
        value = float(metrics[f"eval_{self._metric}"])
        self.curve.append((self._before + self._step, value))
        self._trial.report(value, len(self.curve))
        if state.global_step < state.max_steps and self._trial.should_prune():
            raise optuna.TrialPruned


def _tidy(found: Searched, out: Path) -> None:
    """Keep the model of the best trial alone, and no checkpoints."""
    best = found.best
    for trial in found.of(*ENDED):
        run = _run_of(out, trial.number)
        shutil.rmtree(run / CHECKPOINTS, ignore_errors=True)
        if best is None or trial.number != best.number:
            (run / "model.safetensors").unlink(missing_ok=True)
