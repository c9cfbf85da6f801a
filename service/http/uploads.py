"""One upload of photos: what is good is stored, what is not is listed, a failing one is undone."""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from fastapi import UploadFile

from adapters.errors import BadImage, RMAdapterError
from adapters.pixels import decode_image
from service.archives import ArchiveLimits, Rejected, read_archive
from service.errors import Invalid, Problem
from service.http.labels import Labels
from service.http.schemas import RejectedOut, UploadOut
from service.records.datasets import Added
from service.wiring import Components, image_limits
from training.data import Sample

_MAX_NAME = 255  # characters of a file's name


class PhotoUpload:
    """One upload to a data set; its pictures are decoded on the decoders' threads."""

    def __init__(self, components: Components, tenant: str, dataset: str) -> None:
        self._components, self._tenant, self._dataset = components, tenant, dataset
        self._id, self._warnings = secrets.token_hex(8), list[str]()
        labels = components.records.datasets.get(tenant, dataset).labels
        self._labels = Labels(components.clip, labels, components.settings.max_classes)

    def run(
        self, label: str | None, files: Sequence[UploadFile], archive: UploadFile | None
    ) -> UploadOut:
        """Stores each photo that can be read.

        Args:
            label: the class of `files`.
            files: photos.
            archive: a zip or tar with a folder per class, instead of files and a label.

        Returns:
            What became of each file.

        Raises:
            Invalid: no photo could be read, or the archive breaks off. Nothing of it is stored.
            OverQuota: a quota is used up. Nothing of it is stored.
        """
        records = self._components.records.datasets
        accepted, new = 0, list[str]()
        rejected, duplicates = list[Rejected](), list[str]()
        try:
            for item in self._incoming(label, files, archive):
                outcome = self._store(item)
                if isinstance(outcome, Rejected):
                    rejected.append(outcome)
                    continue
                accepted += 1
                (new if outcome.new else duplicates).append(
                    outcome.digest if outcome.new else _path(item)
                )
        except RMAdapterError:  # all of an upload or, as its answer says, nothing
            records.undo(self._tenant, self._dataset, self._id, new)
            raise
        records.confirm(self._tenant, self._dataset, self._id, new)
        if not accepted:
            problems = [Problem(r.file, r.reason) for r in rejected]
            none = [Problem("files", "none were sent")]
            raise Invalid("no picture was good", *(problems or none))
        return UploadOut(
            accepted=accepted,
            rejected=[RejectedOut(file=r.file, reason=r.reason) for r in rejected],
            duplicates=duplicates,
            labels=records.get(self._tenant, self._dataset).labels,
            warnings=self._warnings,
        )

    def _incoming(
        self, label: str | None, files: Sequence[UploadFile], archive: UploadFile | None
    ) -> Iterable[Sample | Rejected]:
        if (archive is None) == (not files):
            raise Invalid(
                "send either files with a label, or one archive", Problem("files", "required")
            )
        if archive is not None:
            settings = self._components.settings
            limits = ArchiveLimits(
                settings.max_archive_entries, settings.max_archive_bytes, settings.max_image_bytes
            )
            return read_archive(archive.file, limits, self._warnings.append)
        if label is None:
            raise Invalid("files need a label", Problem("label", "required"))
        return _labelled(self._labels.take(label), files)

    def _store(self, item: Sample | Rejected) -> Added | Rejected:
        """Where the picture is stored, or why it is not."""
        if isinstance(item, Rejected):
            return item
        name, said = _path(item), list[str]()
        clip, limits = self._components.clip, image_limits(self._components.settings)
        try:
            self._components.decoders.submit(
                self._tenant, decode_image, item.data, clip.spec, limits, said.append
            ).result()
            item = replace(item, label=self._labels.take(item.label))
        except BadImage as error:
            return Rejected(name, str(error))
        except Invalid as error:
            return Rejected(name, "; ".join(problem.reason for problem in error.problems))
        records = self._components.records.datasets
        added = records.add(self._tenant, self._dataset, item, self._id)
        if added.label != item.label:
            return Rejected(name, f"the same picture is in class {added.label!r}")
        self._warnings += (f"{name}: {text}" for text in said)
        return added


def _labelled(label: str, files: Sequence[UploadFile]) -> Iterator[Sample]:
    for file in files:
        yield Sample(label, (file.filename or "")[-_MAX_NAME:], file.file.read())


def _path(item: Sample | Rejected) -> str:
    return item.file if isinstance(item, Rejected) else str(PurePosixPath(item.label) / item.name)
