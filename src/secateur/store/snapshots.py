"""Snapshots of a run: each stores only the tensors that changed against its parent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError
from torch import Tensor

from secateur._files import sync_folder
from secateur.errors import FileFormatError, RunError, SettingsError
from secateur.store.records import Strict, first_problem
from secateur.store.tensor_file import TensorFile, fingerprints, read_header, write_tensors

FORMAT = 1

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class _Manifest(Strict):
    """What a snapshot consists of.

    Attributes:
        format: The version of the format.
        kind: Tells a snapshot from a model file.
        parent: The snapshot whose tensors it builds on.
        tensors: Name, the snapshot whose file holds it, and its hash, by which it is stored there.
        document: What the caller gave.
    """

    format: Literal[1]
    kind: Literal["snapshot"]
    parent: str | None
    tensors: list[Annotated[tuple[str, str, str], Field(strict=False)]]
    document: JsonValue


class Snapshots:
    """A folder of snapshots, one file each, written atomically.

    A tensor is stored under the hash of its content, in the file of the first snapshot that had it; later ones refer to
    that file directly, so reading one never walks the chain. In memory are the names and hashes of one snapshot.

    Args:
        folder: Where the files lie; made where missing.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     snapshots = Snapshots(Path(folder) / "snapshots")
        ...     weights = {"a": torch.zeros(1000), "b": torch.zeros(3)}
        ...     snapshots.put("first", weights, {"step": 0})
        ...     snapshots.put("second", {**weights, "b": torch.ones(3)}, {"step": 1}, parent="first")
        ...     sizes = [snapshots.path("first").stat().st_size > 4000, snapshots.path("second").stat().st_size > 4000]
        ...     tensors, document = snapshots.get("second")
        >>> sizes, len(tensors["a"]), tensors["b"].tolist(), document
        ([True, False], 1000, [1.0, 1.0, 1.0], {'step': 1})
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._latest: tuple[str, dict[str, str]] | None = None

    def path(self, name: str) -> Path:
        """The file of a snapshot, whether it exists or not.

        Raises:
            SettingsError: The name cannot be a file's.
        """
        if not NAME.fullmatch(name):
            raise SettingsError(
                f"{name!r} cannot name a snapshot; use letters, digits, dots, dashes and underscores only"
            )
        return self._folder / f"{name}.safetensors"

    def put(
        self, name: str, tensors: Mapping[str, Tensor], document: object, *, parent: str | None = None
    ) -> None:
        """Store tensors and a JSON document under a name. Strides are not kept: the document may say (`model_snapshot`).

        Args:
            name: A new name.
            tensors: By name; read, not kept.
            document: JSON values.
            parent: A snapshot with which this one has tensors in common.

        Raises:
            RunError: The name is taken, or there is no such parent.
            SettingsError: The name or the document is not usable.
            ModelError: A tensor has a dtype that files cannot hold.
            StoreError: The disk is full or failed; nothing was changed.
        """
        path = self.path(name)
        if path.exists():
            raise RunError(f"the run already has a snapshot {name!r} ({path}); choose another name")
        homes = {} if parent is None else self._homes(parent)
        prints = fingerprints(tensors)
        fresh = {digest: tensors[key] for key, digest in prints.items() if digest not in homes}
        homes = {digest: homes.get(digest, name) for digest in prints.values()}
        manifest = {
            "format": FORMAT,
            "kind": "snapshot",
            "parent": parent,
            "tensors": [(key, homes[digest], digest) for key, digest in prints.items()],
            "document": document,
        }
        if not self._folder.exists():
            self._folder.mkdir()
            sync_folder(self._folder.parent)
        write_tensors(path, fresh, manifest)
        self._latest = (name, homes)

    def get(self, name: str) -> tuple[dict[str, Tensor], Any]:
        """The tensors, in the order in which they were given, and the document.

        Raises:
            RunError: There is no such snapshot, or one that holds some of its tensors is gone.
            FileFormatError: A file is damaged.
        """
        file, manifest = self._manifest(name)
        wanted: dict[str, set[str]] = {}
        for _, home, digest in manifest.tensors:
            wanted.setdefault(home, set()).add(digest)
        found: dict[str, Tensor] = {}
        for home, digests in wanted.items():
            holder = file if home == name else self._file(home)
            found.update(holder.read(sorted(digests)))
        for digest, actual in fingerprints(found).items():
            if actual != digest:
                homes = {digest: home for _, home, digest in manifest.tensors}
                raise FileFormatError(
                    f"{self.path(homes[digest])} is damaged (a checksum differs); reopen an earlier step, or restore"
                    " the file from a copy"
                )
        # Names that share a content must not share memory: only the caller knows whether they are tied.
        seen: set[str] = set()
        tensors: dict[str, Tensor] = {}
        for key, _, digest in manifest.tensors:
            tensors[key] = found[digest].clone() if digest in seen else found[digest]
            seen.add(digest)
        return tensors, manifest.document

    def keep_only(self, names: Iterable[str]) -> None:
        """Delete every snapshot but these and those that hold some of their tensors.

        Raises:
            RunError: One of `names`, or one that holds its tensors, is missing.
        """
        kept: set[str] = set()
        for name in names:
            _, manifest = self._manifest(name)
            kept |= {name, *(home for _, home, _ in manifest.tensors)}
        for name in sorted(kept):
            self._require(name)
        for path in sorted(self._folder.glob("*.safetensors")):
            if path.stem not in kept:
                path.unlink()
        self._latest = None

    def _require(self, name: str) -> Path:
        path = self.path(name)
        if not path.is_file():
            raise RunError(
                f"the run has no snapshot {name!r} ({path} is missing); restore it from a copy, or start the run again"
            )
        return path

    def _file(self, name: str) -> TensorFile:
        return read_header(self._require(name))

    def _manifest(self, name: str) -> tuple[TensorFile, _Manifest]:
        file = self._file(name)
        try:
            manifest = _Manifest.model_validate(file.document)
        except ValidationError as error:
            raise FileFormatError(
                f"{file.path} is not a snapshot, or its description is damaged ({first_problem(error)}); restore it"
                " from a copy, or reopen an earlier step"
            ) from error
        return file, manifest

    def _homes(self, name: str) -> dict[str, str]:
        if self._latest is None or self._latest[0] != name:
            _, manifest = self._manifest(name)
            self._latest = (name, {digest: home for _, home, digest in manifest.tensors})
        return self._latest[1]
