"""The command line: `pullback report`, and what comes after it."""

from __future__ import annotations

import math
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import psutil
import torch
import typer

from pullback.errors import InputError
from pullback.report import Settings, make_report

app = typer.Typer(
    help="Measure, and act on, the geometry of neural networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
DEFAULT = Settings()


@app.callback()
def main() -> None:
    """Measure, and act on, the geometry of neural networks."""


@app.command()
def report(
    data: Annotated[
        str,
        typer.Option(
            help="digits, mnist, fashion-mnist, cifar10, or FILE.py:make_loader, which returns a "
            "loader of (inputs, labels) batches or a pair (train, test) of loaders."
        ),
    ] = DEFAULT.data,
    model: Annotated[
        str,
        typer.Option(
            help="conv, mlp, or FILE.py:make_model, which returns a torch.nn.Module; it is called "
            "with (input shape, classes) if it needs two arguments."
        ),
    ] = DEFAULT.model,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Weights to start from, .pt or .safetensors."),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train/--no-train", help="Train, or measure the network as it is.")
    ] = DEFAULT.train,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the data; by default about 1,500 updates."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Samples an update, for data given by name.")
    ] = DEFAULT.batch_size,
    learning_rate: Annotated[
        float, typer.Option(help="Of gradient descent with momentum 0.9.")
    ] = DEFAULT.learning_rate,
    seed: Annotated[int, typer.Option(help="For everything random.")] = DEFAULT.seed,
    samples: Annotated[
        int, typer.Option(help="On how many samples the tangent kernel is taken.")
    ] = DEFAULT.samples,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("pullback-report"),
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Processor threads; by default as many as cores are free."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was interrupted.")
    ] = False,
) -> None:
    """Measure the geometry of a network while it learns real images; leave a report as HTML.

    Without options: a small convolutional network on 8x8 digits, about a minute.
    """
    try:
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
    except InputError as error:
        complain(f"Error: {error}")
        raise typer.Exit(2) from error
    except KeyboardInterrupt as interrupt:
        complain(f"Interrupted. To go on: {again()}")
        raise typer.Exit(130) from interrupt
    typer.echo(page)


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


def again() -> str:
    """The command that continues this one."""
    words = [word for word in sys.argv[1:] if word != "--resume"]
    return shlex.join(["pullback", *words, "--resume"])


if __name__ == "__main__":
    app()
