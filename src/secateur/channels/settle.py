"""Try cuts until one runs: mend what can be mended, leave whole what cannot."""

from __future__ import annotations

from secateur._model import kept_randomness
from secateur.channels.blame import guilty
from secateur.channels.mend import keep_in_step, repair
from secateur.channels.trial import Trial


def settle(trial: Trial) -> None:
    """Try, mend, leave whole, until a trial succeeds. The random state is left as found."""
    with kept_randomness():
        failure = trial.attempt(trial.repairs)
        while failure is not None:
            mended = repair(trial, failure) or keep_in_step(trial, failure)
            if mended is not None:
                failure = mended[0]
                continue
            trial.leave(guilty(trial, failure), failure)
            failure = trial.attempt(trial.repairs)
