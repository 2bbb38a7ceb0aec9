"""The state of a training in a run folder: only the latest is kept."""

from __future__ import annotations

from typing import Any, Final

from secateur._files import TEMPORARY_SUFFIX
from secateur.store import RunFolder
from secateur.store.snapshots import Snapshots
from secateur.train import EpochRecord, TrainState

_FOLDER: Final = "states"


class States:
    """The state after the last epoch: stored before the journal names it; the one before goes only then."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._path = folder.path / _FOLDER
        self._snapshots = Snapshots(self._path)

    def latest(self) -> TrainState | None:
        """Where the journal says that the training stands; whatever a crash left beside it is removed."""
        names = [entry["state"] for entry in self._folder.entries() if "state" in entry]
        for unfinished in self._path.glob(f".*{TEMPORARY_SUFFIX}"):
            unfinished.unlink()
        self._snapshots.keep_only(names[-1:])
        return TrainState(*self._snapshots.get(names[-1])) if names else None

    def store(self, state: TrainState, *, record: EpochRecord | None = None, **said: Any) -> None:
        """Keep a state, and say so in the journal.

        Args:
            state: After an epoch.
            record: That epoch, where the state counts epochs from a later start than the run does.
            said: What else the journal's line says.
        """
        last = state.history[-1] if record is None else record
        name = f"epoch-{last.epoch:05d}"
        self._snapshots.put(name, state.tensors, state.document)
        self._folder.append({"state": name, "epoch": last.as_dict(), **said})
        self._snapshots.keep_only([name])
