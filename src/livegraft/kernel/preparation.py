# SPDX-License-Identifier: GPL-2.0-or-later
"""Make a kernel's parts: download and unpack side by side, then the build tree."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from livegraft.cache import Cache
from livegraft.errors import NotPrepared
from livegraft.jobs import Jobs
from livegraft.kernel.compiler import find_compiler
from livegraft.kernel.config import Config, check_usable
from livegraft.kernel.kernel import open_prepared
from livegraft.kernel.layout import FORMAT, RECORD, Stage, entry, modules_below
from livegraft.kernel.packages import Package, PackageSource, default_source
from livegraft.kernel.release import Release
from livegraft.kernel.resolve import KernelPackages, resolve, resolve_source
from livegraft.kernel.tree import BuildTree
from livegraft.kernel.unpack import localise_headers
from livegraft.progress import Progress, Step


def make(release: Release, source: PackageSource | None, cache: Cache, progress: Progress) -> None:
    """Make all stages of a release that the cache does not have, and its record.

    Raises:
        LivegraftError: as :func:`livegraft.kernel.kernel.prepare` says.
    """
    source = source or default_source()
    with progress.step("resolve"):
        packages = resolve(release, source, cache)
    # Held here, in the main thread, where an interrupt ends the wait for another run.
    with cache.lock(f"prepare/{packages.source_version}", progress):
        with suppress(NotPrepared):
            open_prepared(release, cache)
            return
        _Preparation(release, packages, source, cache, progress).run()


def make_source(
    version_or_release: str, source: PackageSource | None, cache: Cache, progress: Progress
) -> Path:
    """Make the source tree of a version or release.

    Raises:
        LivegraftError: as :func:`livegraft.kernel.kernel.source_of` says.
    """
    source = source or default_source()
    tree = resolve_source(version_or_release, source, cache)
    with cache.lock(f"prepare/{tree.package.version}", progress):
        if not cache.has(tree.entry):
            total = sum(package.size for package in tree.packages)
            with Jobs(1) as jobs:
                with progress.step("download", total or None) as step:
                    jobs.finish(jobs.start(source.fetch, tree.packages, cache, step.advance))
                with progress.step("unpack"):
                    jobs.finish(jobs.start(tree.make, cache))
    return cache.root / tree.entry


class _Preparation:
    """One run through the stages of one release."""

    def __init__(
        self,
        release: Release,
        packages: KernelPackages,
        source: PackageSource,
        cache: Cache,
        progress: Progress,
    ) -> None:
        self.release = release
        self.packages = packages
        self.source = source
        self.cache = cache
        self.progress = progress

    def run(self) -> None:
        self._forget_other()
        self._fetch_and_unpack()
        compiler = self._check()
        self.cache.tree(self._entry(Stage.BUILD), lambda path: self._build(path, compiler))
        self._write_record(compiler)

    def _forget_other(self) -> None:
        """Remove what an older layout, or the same cache at another place, has left."""
        path = self.cache.root / self._entry(RECORD)
        try:
            record = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return
        except ValueError:
            record = {}
        if record.get("format") != FORMAT or record.get("root") != str(self.cache.root):
            for stage in (*Stage, RECORD):
                self.cache.forget(self._entry(stage))

    def _fetch_and_unpack(self) -> None:
        """Fetch everything at once; unpack each part as soon as it is here."""
        absent = {
            stage: packages
            for stage, packages in self._parts().items()
            if not self.cache.has(stage)
        }
        if not absent:
            return
        total = sum(package.size for packages in absent.values() for package in packages)
        with Jobs(2 * len(absent)) as jobs:
            with self.progress.step("download", total or None) as step:
                arrived = _Arrived(step)
                fetches = {
                    stage: jobs.start(self.source.fetch, packages, self.cache, arrived)
                    for stage, packages in absent.items()
                }
                unpacks = [
                    jobs.start(self._unpack, stage, packages, fetches[stage])
                    for stage, packages in absent.items()
                ]
                jobs.finish(*fetches.values())
            with self.progress.step("unpack"):
                jobs.finish(*unpacks)

    def _parts(self) -> dict[str, tuple[Package, ...]]:
        """The packages of each entry, the largest first."""
        return {
            self.packages.source.entry: self.packages.source.packages,
            self._entry(Stage.IMAGE): (self.packages.image,),
            self._entry(Stage.HEADERS): self.packages.headers,
        }

    def _unpack(self, name: str, packages: tuple[Package, ...], fetch: Future[None]) -> None:
        fetch.result()
        if name == self.packages.source.entry:
            self.packages.source.make(self.cache)
            return

        def unpack(path: Path) -> None:
            for package in packages:
                package.origin.unpack(package, self.cache, path)
            if name == self._entry(Stage.HEADERS):
                localise_headers(path, self.release.name)
            else:
                self._check_image(path)

        self.cache.tree(name, unpack)

    def _check_image(self, path: Path) -> None:
        """Refuse an unusable kernel here, while the larger parts are still on their way."""
        config = Config.read(self._shipped_config(path))
        check_usable(self.release.name, config)
        find_compiler(self.release.name, config)
        modules_below(path, self.release.name)

    def _check(self) -> str:
        """Check the image again, for it may be of an earlier run; name its compiler."""
        config = Config.read(self._shipped_config(self._path(Stage.IMAGE)))
        check_usable(self.release.name, config)
        return find_compiler(self.release.name, config)

    def _shipped_config(self, image: Path) -> Path:
        return image / f"boot/config-{self.release}"

    def _build(self, path: Path, compiler: str) -> None:
        source = self.cache.root / self.packages.source.entry
        tree = BuildTree(self.release.name, source, path, compiler)
        with self.progress.step("configure"):
            tree.configure(self._shipped_config(self._path(Stage.IMAGE)))
        headers = self._path(Stage.HEADERS) / f"usr/src/{self.release.headers_package}"
        with self.progress.step("prepare") as step:
            tree.make_ready(headers / "Module.symvers", step.say)

    def _write_record(self, compiler: str) -> None:
        record = {
            "format": FORMAT,
            "root": str(self.cache.root),
            "release": self.release.name,
            "source_version": self.packages.source_version,
            "compiler": compiler,
            "packages": [
                str(package)
                for package in (
                    self.packages.image,
                    *self.packages.headers,
                    *self.packages.source.packages,
                )
            ],
        }
        text = json.dumps(record, indent=2)
        self.cache.forget(self._entry(RECORD))
        self.cache.file(self._entry(RECORD), lambda path: _write(path, text))

    def _entry(self, name: str) -> str:
        return entry(self.release.name, name)

    def _path(self, stage: Stage) -> Path:
        return self.cache.root / self._entry(stage)


class _Arrived:
    """Advances a step from several threads."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._lock = threading.Lock()

    def __call__(self, amount: int) -> None:
        with self._lock:
            self._step.advance(amount)


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
