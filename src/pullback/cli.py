"""The command line: `pullback report`, `pullback kernel`, `pullback nads` and `pullback study`."""

from __future__ import annotations

import math
import os
import shlex
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import psutil
import torch
import typer

from pullback import studies
from pullback.anisotropy.directions import METHODS
from pullback.anisotropy.models import ARCHITECTURES
from pullback.errors import InputError
from pullback.report import Settings, make_report
from pullback.report.anisotropy import AnisotropySettings, make_anisotropy_report
from pullback.report.kernel import KernelSettings, make_kernel_report

app = typer.Typer(
    help="Measure, and act on, the geometry of neural networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
DEFAULT, DEFAULT_KERNEL, DEFAULT_NADS = Settings(), KernelSettings(), AnisotropySettings()


@app.callback()
def main() -> None:
    """Measure, and act on, the geometry of neural networks."""


DataOption = Annotated[
    str,
    typer.Option(
        help="digits, mnist, fashion-mnist, cifar10, or FILE.py:make_loader, which returns a "
        "loader of (inputs, labels) batches or a pair (train, test) of loaders."
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        help="conv, mlp, or FILE.py:make_model, which returns a torch.nn.Module; it is called "
        "with (input shape, classes) if it needs two arguments."
    ),
]
CheckpointOption = Annotated[
    Path | None, typer.Option(help="Weights to start from, .pt or .safetensors.")
]
TrainOption = Annotated[
    bool, typer.Option("--train/--no-train", help="Train, or measure the network as it is.")
]
EpochsOption = Annotated[
    int | None, typer.Option(help="Passes over the data; by default about 1,500 updates.")
]
BatchSizeOption = Annotated[int, typer.Option(help="Samples an update, for data given by name.")]
LearningRateOption = Annotated[float, typer.Option(help="Of gradient descent with momentum 0.9.")]
SeedOption = Annotated[int, typer.Option(help="For everything random.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Processor threads; by default as many as cores are free."),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with a run that was interrupted.")
]


@app.command()
def report(
    data: DataOption = DEFAULT.data,
    model: ModelOption = DEFAULT.model,
    checkpoint: CheckpointOption = None,
    train: TrainOption = DEFAULT.train,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = DEFAULT.batch_size,
    learning_rate: LearningRateOption = DEFAULT.learning_rate,
    seed: SeedOption = DEFAULT.seed,
    samples: Annotated[
        int, typer.Option(help="On how many samples the tangent kernel is taken.")
    ] = DEFAULT.samples,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("pullback-report"),
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
) -> None:
    """Measure the geometry of a network while it learns real images; leave a report as HTML.

    Without options: a small convolutional network on 8x8 digits, about a minute.
    """
    with complaints():
        settings = Settings(
            data=data,
            model=model,
            checkpoint=checkpoint,
            train=train,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            samples=samples,
        )
        use_threads(threads)
        page = make_report(settings, out, resume=resume, progress=True)
    typer.echo(page)


@app.command()
def kernel(
    data: DataOption = DEFAULT.data,
    model: ModelOption = DEFAULT.model,
    checkpoint: CheckpointOption = None,
    train: TrainOption = DEFAULT_KERNEL.subject.train,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = DEFAULT.batch_size,
    learning_rate: LearningRateOption = DEFAULT.learning_rate,
    seed: SeedOption = DEFAULT.seed,
    samples: Annotated[
        int,
        typer.Option(
            help="On how many training samples the kernel is taken, and how many test samples it "
            "predicts at most."
        ),
    ] = DEFAULT_KERNEL.subject.samples,
    outputs: Annotated[
        str,
        typer.Option(
            help="sum over the outputs, all pairs of them, the number of one, or two numbers a,b "
            "for output b minus output a, on samples of these classes."
        ),
    ] = DEFAULT_KERNEL.outputs,
    functions: Annotated[
        int, typer.Option(help="How many eigenfunctions are shown.")
    ] = DEFAULT_KERNEL.functions,
    centred: Annotated[
        bool,
        typer.Option(
            "--centred/--not-centred",
            help="Spectrum, eigenfunctions and alignment of the kernel centred over the samples.",
        ),
    ] = DEFAULT_KERNEL.centred,
    gram: Annotated[
        bool, typer.Option("--gram", help="Keep the kernel itself, as a store on disk.")
    ] = DEFAULT_KERNEL.gram,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("pullback-kernel"),
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
) -> None:
    """Take the tangent kernel of a network: spectrum, eigenfunctions, alignment, predictions.

    Leaves a page (kernel.html), all numbers (kernel.json) and the figures as SVG. With --train, the
    kernels before and after training stand side by side.
    """
    with complaints():
        subject = Settings(
            data=data,
            model=model,
            checkpoint=checkpoint,
            train=train,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            samples=samples,
        )
        settings = KernelSettings(subject, outputs, functions, centred, gram)
        use_threads(threads)
        page = make_kernel_report(settings, out, resume=resume, progress=True)
    typer.echo(page)


@app.command()
def nads(
    model: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(ARCHITECTURES)}, or FILE.py:make_model, which returns a new "
            "torch.nn.Module each time; it is called with the shape if it needs an argument."
        ),
    ] = DEFAULT_NADS.model,
    width: Annotated[
        float, typer.Option(help="A factor of the numbers of channels and hidden units.")
    ] = DEFAULT_NADS.width,
    shape: Annotated[str, typer.Option(help="Of one input, such as 1x32x32.")] = DEFAULT_NADS.shape,
    method: Annotated[str, typer.Option(help=", ".join(METHODS) + ".")] = DEFAULT_NADS.method,
    networks: Annotated[
        int | None, typer.Option(help="How many random networks; 10,000 for gradients.")
    ] = None,
    step: Annotated[
        float | None,
        typer.Option(
            help="Of finite differences; published directions have 100. Exact derivatives without."
        ),
    ] = None,
    at: Annotated[
        str, typer.Option(help="Where derivatives are taken: normal draws an input, or zero.")
    ] = DEFAULT_NADS.at,
    samples: Annotated[
        int | None, typer.Option(help="Inputs for each network, with the method kernel.")
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(
            help="The number of one output, or two numbers a,b for output b minus output a; by "
            "default the only one."
        ),
    ] = None,
    seed: SeedOption = DEFAULT_NADS.seed,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("pullback-nads"),
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
) -> None:
    """Take the directions of the input that an architecture prefers before it is trained.

    Leaves a page (nads.html), all numbers (nads.json), the directions (nads.safetensors) and the
    figures as SVG. Without options: a LeNet, about ten seconds.
    """
    with complaints():
        settings = AnisotropySettings(
            model, shape, method, networks, step, at, samples, outputs, seed, width
        )
        use_threads(threads)
        page = make_anisotropy_report(settings, out, resume=resume, progress=True)
    typer.echo(page)


study_app = typer.Typer(
    help="Experiments of the source documents, with claims that are judged over seeds.",
    no_args_is_help=True,
)
app.add_typer(study_app, name="study")
StudyName = Annotated[str, typer.Argument(help="One of those that `pullback study list` names.")]
SizeOption = Annotated[
    str, typer.Option(help="quick (minutes), full (hours) or paper (the document's own numbers).")
]
StudiesOption = Annotated[Path, typer.Option("--out", help="Folder of all studies.")]


@study_app.command("list")
def list_studies(
    name: Annotated[
        str | None, typer.Argument(help="One of them, to say what it does and claims.")
    ] = None,
) -> None:
    """Name the studies by topic; or say what one of them does, and what it claims."""
    with complaints(resume=()):
        if name is not None:
            describe_study(studies.find(name))
            return
        widest = max(len(study.name) for study in studies.registered())
        for topic, members in studies.topics().items():
            typer.echo(topic)
            for study in members:
                typer.echo(f"    {study.name:<{widest}}  {study.title}")


def describe_study(study: studies.Study) -> None:
    """Its title and source, what is done, and its claims with what they are judged by."""
    typer.echo(f"{study.title}\n{study.source}\n")
    typer.echo(textwrap.fill(study.about, 100))
    for claim in study.claims:
        side = "above" if claim.above else "below"
        typer.echo(f"\n{claim.name}: {claim.statement}")
        typer.echo(f"    {claim.statistic}; has to be {side} {claim.threshold:g}")


@study_app.command("run")
def run_study(
    name: StudyName,
    size: SizeOption = "quick",
    out: StudiesOption = Path("pullback-studies"),
    threads: ThreadsOption = None,
) -> None:
    """Run a study, or go on with one that was interrupted; leave a page and print the verdicts."""
    with complaints(resume=()):
        use_threads(threads)
        page = studies.run_study(name, size, out, progress=True)
        say_verdicts(name, size, out)
    typer.echo(page)


@study_app.command("show")
def show_study(
    name: StudyName, size: SizeOption = "quick", out: StudiesOption = Path("pullback-studies")
) -> None:
    """Draw the page of a study again from what it has stored, and print the verdicts."""
    with complaints(resume=()):
        page = studies.show_study(name, size, out)
        say_verdicts(name, size, out)
    typer.echo(page)


def say_verdicts(name: str, size: str, out: Path) -> None:
    """A line for each claim of a finished study."""
    for verdict in studies.verdicts(studies.find(name), studies.stored(name, size, out)):
        numbers = "no seed has a value"
        if verdict.mean is not None and verdict.low is not None and verdict.high is not None:
            numbers = (
                f"{verdict.mean:.3g}, 95 % in {verdict.low:.3g} to {verdict.high:.3g}, "
                f"{len(verdict.values)} seeds"
            )
        typer.echo(f"{verdict.verdict:<6} {verdict.claim.statement} ({numbers})")


@contextmanager
def complaints(resume: tuple[str, ...] = ("--resume",)) -> Iterator[None]:
    """End with one line on standard error: 2 after bad input, 130 after Ctrl-C.

    `resume` is what the command takes besides to go on.
    """
    try:
        yield
    except InputError as error:
        complain(f"Error: {error}")
        raise typer.Exit(2) from error
    except KeyboardInterrupt as interrupt:
        complain(f"Interrupted. To go on: {again(resume)}")
        raise typer.Exit(130) from interrupt


def use_threads(threads: int | None) -> None:
    """Let torch use so many threads, or by default as many as there are idle cores.

    Threads that wait for each other on busy cores are far slower than a single one: a report that
    took 30 seconds with one thread took more than five minutes with two, on two busy cores.
    """
    if threads is None and "OMP_NUM_THREADS" in os.environ:
        return
    idle = (os.cpu_count() or 1) - psutil.getloadavg()[0]
    torch.set_num_threads(threads or max(1, math.floor(idle + 0.5)))


def complain(message: str) -> None:
    """One line on standard error."""
    typer.echo(" ".join(message.split()), err=True)


def again(resume: tuple[str, ...]) -> str:
    """The command that continues this one."""
    words = [word for word in sys.argv[1:] if word not in resume]
    return shlex.join(["pullback", *words, *resume])


if __name__ == "__main__":
    app()
