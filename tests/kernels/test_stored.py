"""Kernels on disk: tiles, interruption, processes, and stores that are of something else."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from pullback.kernels import stored
from pullback.kernels.stored import StoredKernel
from tests.checks import assert_agree

ROOT = Path(__file__).parents[2]
SMALL = 8_000  # bytes of memory that cut the kernels below into several tiles
FILES = ("kernel.json", "tiles.bin", "done.bin")


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)
    return nn.Sequential(*layers)


def images(seed: int = 1, n: int = 23) -> Tensor:
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def store(folder: Path, **options: object) -> StoredKernel:
    arguments: dict[str, object] = {
        "model": model(), "x": images(), "store": folder, "memory": SMALL, **options
    }  # fmt: skip
    return pb.tangent_kernel(**arguments)  # type: ignore[call-overload]


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that was interrupted after two tiles."""
    with monkeypatch.context() as patch:
        patch.setattr(stored, "tracked", broken_after(2))
        with pytest.raises(KeyboardInterrupt):
            store(tmp_path / "kernel")
    return tmp_path / "kernel"


def broken_after(count: int) -> object:
    def tracked(items: list[int], *_: object) -> Iterator[int]:
        yield from items[:count]
        raise KeyboardInterrupt

    return tracked


@pytest.mark.parametrize("outputs", ["all", "sum", 1, (0, 1), torch.tensor([1.0, -0.5])], ids=str)
class TestContent:
    def test_it_is_the_kernel_in_memory(self, outputs: object, tmp_path: Path) -> None:
        kernel = store(tmp_path / "kernel", outputs=outputs)
        dense = pb.tangent_kernel(model(), images(), outputs=outputs)
        assert len(kernel.layout.tiles) > 3
        found = kernel.load()
        assert_agree(found.matrix, dense.matrix, 1e-5)
        assert torch.equal(found.flat, found.flat.T)

    def test_two_sets(self, outputs: object, tmp_path: Path) -> None:
        y = images(seed=2, n=9)
        kernel = store(tmp_path / "kernel", y=y, outputs=outputs)
        dense = pb.tangent_kernel(model(), images(), y, outputs=outputs)
        assert_agree(kernel.load().matrix, dense.matrix, 1e-5)


def test_only_the_lower_half_is_stored(tmp_path: Path) -> None:
    layout = store(tmp_path / "kernel", outputs="sum").layout
    blocks = -(-23 // layout.tile)
    assert len(layout.tiles) == len(set(layout.tiles)) == blocks * (blocks + 1) // 2
    assert all(j <= i for i, j in layout.tiles)


def test_a_store_is_opened_without_the_model(tmp_path: Path) -> None:
    made = store(tmp_path / "kernel")
    f = torch.randn(made.rows)
    assert torch.equal(StoredKernel(tmp_path / "kernel") @ f, made @ f)


def test_a_complete_store_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, before = store(tmp_path / "kernel"), contents(tmp_path / "kernel")
    computed: list[object] = []
    monkeypatch.setattr(stored.Blocks, "tile", lambda self, i, j: computed.append((i, j)))
    assert store(tmp_path / "kernel").layout == made.layout
    assert contents(tmp_path / "kernel") == before
    assert computed == []


class TestResumed:
    def test_it_is_the_same_bit_for_bit(self, interrupted: Path, tmp_path: Path) -> None:
        store(interrupted)
        store(tmp_path / "whole")
        assert contents(interrupted) == contents(tmp_path / "whole")

    def test_finished_tiles_are_not_computed_again(
        self, interrupted: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        computed = []
        tile = stored.Blocks.tile
        monkeypatch.setattr(
            stored.Blocks, "tile", lambda self, i, j: computed.append((i, j)) or tile(self, i, j)
        )
        kernel = store(interrupted)
        assert computed == kernel.layout.tiles[2:]

    def test_a_tile_that_was_half_written_is_written_again(
        self, interrupted: Path, tmp_path: Path
    ) -> None:
        slot = stored._read_layout(interrupted).slot
        with (interrupted / "tiles.bin").open("r+b") as file:
            file.seek(2 * slot)
            file.write(b"\xff" * (slot // 2))
        assert_agree(store(interrupted).load().matrix, store(tmp_path / "whole").load().matrix)

    def test_it_keeps_its_tiles_whatever_the_memory(self, interrupted: Path) -> None:
        tile = stored._read_layout(interrupted).tile
        assert store(interrupted, memory=2**20).layout.tile == tile

    def test_the_batches_may_be_others(self, interrupted: Path, tmp_path: Path) -> None:
        store(interrupted, x=list(images().split(5)))
        store(tmp_path / "whole")
        assert contents(interrupted) == contents(tmp_path / "whole")

    def test_an_incomplete_one_is_not_opened(self, interrupted: Path) -> None:
        with pytest.raises(pb.InputError, match=r"store: .* has 2 of \d+ tiles"):
            StoredKernel(interrupted)

    def test_a_process_is_killed(self, tmp_path: Path) -> None:
        """SIGKILL in the middle of the work, wherever that is."""
        folder = tmp_path / "kernel"
        program = (
            "from pathlib import Path; import time\n"
            "from pullback.kernels import stored\n"
            "from tests.kernels.test_stored import store\n"
            "settle = stored._settle\n"
            "stored._settle = lambda file: (settle(file), time.sleep(0.05))\n"
            f"store(Path({str(folder)!r}))\n"
        )
        process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
        started = time.monotonic()
        while not self.some_done(folder):
            assert process.poll() is None and time.monotonic() - started < 120
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with pytest.raises(pb.InputError, match="tiles"):
            StoredKernel(folder)
        store(folder)
        store(tmp_path / "whole")
        assert contents(folder) == contents(tmp_path / "whole")

    @pytest.mark.parametrize("settled", range(6))
    def test_a_write_fails(
        self, settled: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a tile, or of what says that it is done: no tile counts that is not on disk."""
        folder, settle, calls = tmp_path / "kernel", stored._settle, []

        def failing(file: BinaryIO) -> None:
            calls.append(Path(file.name).name)
            if len(calls) > settled:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            settle(file)

        with monkeypatch.context() as patch:
            patch.setattr(stored, "_settle", failing)
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                store(folder)
        assert calls == (["tiles.bin", "done.bin"] * 3)[: settled + 1]
        with pytest.raises(pb.InputError, match=r"store: .* tiles; call tangent_kernel again"):
            StoredKernel(folder)
        store(folder)
        store(tmp_path / "whole")
        assert contents(folder) == contents(tmp_path / "whole")

    def test_it_was_interrupted_before_its_files_were_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "kernel"

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(stored.os, "replace", interrupt)
            with pytest.raises(KeyboardInterrupt):
                store(folder)
        with pytest.raises(pb.InputError, match="store: no kernel"):
            StoredKernel(folder)
        store(folder)
        store(tmp_path / "whole")
        assert contents(folder) == contents(tmp_path / "whole")
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)

    @staticmethod
    def some_done(folder: Path) -> bool:
        done = folder / "done.bin"
        return done.exists() and sum(done.read_bytes()) >= 2


class TestProcesses:
    """Two real ones, under torchrun with gloo."""

    program = (
        "import sys; from pathlib import Path\n"
        "import torch.distributed as distributed\n"
        "from pullback.kernels import stored\n"
        "from tests.kernels.test_stored import store\n"
        "distributed.init_process_group('gloo')\n"
        "tile, mine = stored.Blocks.tile, []\n"
        "stored.Blocks.tile = lambda self, i, j: mine.append((i, j)) or tile(self, i, j)\n"
        "kernel = store(Path(sys.argv[1]), group=distributed.group.WORLD)\n"
        "assert 0 < len(mine) < len(kernel.layout.tiles)\n"
        "distributed.destroy_process_group()\n"
    )

    def run(self, folder: Path, name: str) -> subprocess.CompletedProcess[str]:
        program = folder / "program.py"
        program.write_text(self.program)
        return subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
             str(program), str(folder / name)],
            cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )  # fmt: skip

    def test_they_make_the_same_store(self, tmp_path: Path) -> None:
        run = self.run(tmp_path, "shared")
        assert run.returncode == 0, run.stderr
        store(tmp_path / "alone")
        assert contents(tmp_path / "shared") == contents(tmp_path / "alone")

    def test_they_refuse_a_store_of_another_kernel(self, tmp_path: Path) -> None:
        store(tmp_path / "kernel", outputs="sum")
        run = self.run(tmp_path, "kernel")
        assert run.returncode != 0
        assert "another outputs" in run.stderr


class TestRefused:
    @pytest.fixture
    def made(self, tmp_path: Path) -> Path:
        store(tmp_path / "kernel")
        return tmp_path / "kernel"

    @pytest.mark.parametrize(("options", "named"), [
        ({"model": model(seed=3)}, "model"),
        ({"x": images(seed=3)}, "data"),
        ({"x": images(n=22)}, "data"),
        ({"y": images(seed=2)}, "data"),
        ({"outputs": "sum"}, "outputs"),
        ({"outputs": torch.eye(2).flip(0)}, "outputs"),
        ({"model": model().double(), "x": images().double()}, "dtype"),
    ], ids=str)  # fmt: skip
    def test_another_kernel(self, made: Path, options: dict[str, object], named: str) -> None:
        before = contents(made)
        with pytest.raises(pb.InputError, match=f"store: .* another .*{named}"):
            store(made, **options)
        assert contents(made) == before

    def test_a_selection_of_other_parameters(self, made: Path) -> None:
        with pytest.raises(pb.InputError, match=r"store: .* another model"):
            store(made, model=pb.Network(model(), parameters="4.*"))

    def test_a_kernel_that_cannot_fit_on_the_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr(stored.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(pb.InputError, match=r"store: .* needs .* GB"):
            store(tmp_path / "kernel")
        assert not list((tmp_path / "kernel").iterdir())

    def test_a_kernel_larger_than_any_disk_is_refused_before_the_work(self, tmp_path: Path) -> None:
        """Of five million function values: 50 TB, which the message says, and nothing is made."""
        with pytest.raises(pb.InputError, match=r"needs 50,\d+\.\d GB .* are free; take fewer"):
            pb.tangent_kernel(nn.Linear(1, 100), torch.zeros(50_000, 1), store=tmp_path / "kernel")
        assert not list((tmp_path / "kernel").iterdir())

    def test_a_kernel_beyond_a_limit_on_files(self, tmp_path: Path) -> None:
        """That of the process, as a quota would be: the disk itself has room."""
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limit[1]))
        try:
            with pytest.raises(pb.InputError, match=r"store: .* needs .* GB .* too large; take"):
                store(tmp_path / "kernel")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert not list((tmp_path / "kernel").iterdir())
        assert store(tmp_path / "kernel").layout.bytes > 5000

    def test_a_folder_without_a_kernel(self, tmp_path: Path) -> None:
        with pytest.raises(pb.InputError, match="store: no kernel"):
            StoredKernel(tmp_path)

    @pytest.mark.parametrize("text", ["{", "{}", '{"format": 99}', '{"format": 1}'])
    def test_a_file_that_is_none(self, made: Path, text: str) -> None:
        (made / "kernel.json").write_text(text)
        with pytest.raises(pb.InputError, match=r"store: cannot read .*kernel\.json"):
            StoredKernel(made)

    @pytest.mark.parametrize("name", ["tiles.bin", "done.bin"])
    def test_a_file_that_was_cut(self, made: Path, name: str) -> None:
        with (made / name).open("r+b") as file:
            file.truncate(3)
        with pytest.raises(pb.InputError, match=r"store: .* is damaged"):
            StoredKernel(made)

    def test_each_output_by_itself(self, tmp_path: Path) -> None:
        with pytest.raises(pb.InputError, match="outputs: 'each'"):
            store(tmp_path / "kernel", outputs="each")


def test_what_is_written_is_plain(tmp_path: Path) -> None:
    store(tmp_path / "kernel")
    found = json.loads((tmp_path / "kernel" / "kernel.json").read_text())
    assert found["samples"] == [23, 23]
    assert found["dtype"] == "float32"


class TestCost:
    @pytest.mark.parametrize("options", [{}, {"outputs": "sum"}, {"y": images(seed=2, n=9)}],
                             ids=["all", "sum", "two sets"])  # fmt: skip
    def test_it_is_what_the_store_then_takes(
        self, options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cost = pb.kernel_cost(model(), images(), memory=SMALL, **options)
        passed, collected = [], stored.collected
        monkeypatch.setattr(
            stored, "collected", lambda *given: passed.append(found := collected(*given)) or found
        )
        kernel = store(tmp_path / "kernel", **options)
        assert cost.disk == (tmp_path / "kernel" / "tiles.bin").stat().st_size
        assert cost.tiles == len(kernel.layout.tiles)
        samples = kernel.rows[0] + (0 if kernel.symmetric else kernel.columns[0])
        assert cost.passes == sum(one.samples for one in passed) / samples
        assert cost.seconds > 0

    def test_it_reads_as_a_sentence(self) -> None:
        cost = pb.KernelCost(seconds=100.0, disk=2 * 10**9, tiles=3, passes=1.5)
        assert str(cost) == "2 min and 2 GB on disk, in 3 tiles; 1.5 passes of each sample"

    def test_it_writes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        pb.kernel_cost(model(), images())
        assert not list(tmp_path.iterdir())

    def test_each_output_by_itself_is_refused(self) -> None:
        with pytest.raises(pb.InputError, match="outputs: 'each'"):
            pb.kernel_cost(model(), images(), outputs="each")
