"""Look at a kernel: measure each state, keep what is finished, then draw and write."""

from __future__ import annotations

import base64
import copy
from pathlib import Path

from torch import nn

from pullback.errors import InputError
from pullback.probes import Recorder
from pullback.report import describe
from pullback.report.cost import Cost
from pullback.report.kernel.figures import draw
from pullback.report.kernel.measure import look, state_numbers
from pullback.report.kernel.numbers import KernelReport, StateNumbers
from pullback.report.kernel.page import render_kernel
from pullback.report.kernel.settings import KernelSettings
from pullback.report.kernel.task import Task
from pullback.report.measure import thumbnails
from pullback.report.numbers import DataNumbers
from pullback.report.parts import Parts
from pullback.report.progress import Advance, Stages
from pullback.report.samples import Subset
from pullback.report.stages import States
from pullback.report.subject import Subject, prepare
from pullback.report.training import train
from pullback.report.workspace import Workspace, check_writable, to_json, write_whole


def make_kernel_report(
    settings: KernelSettings | None = None,
    out: Path | str = "pullback-kernel",
    resume: bool = False,
    progress: bool = False,
) -> Path:
    """Take the tangent kernel of a network, and write down all that it says.

    Written are OUT/kernel.html, one page that needs nothing else; OUT/kernel.json, which has every
    number on it; OUT/figures, each drawing as SVG; and if it was asked for the kernel itself, a
    store that `pullback.kernels.StoredKernel` opens.

    Args:
        settings: what to measure; by default an untrained convolutional network on 8x8 digits.
        out: the folder to write to.
        resume: go on with a run that was interrupted.
        progress: show progress bars.

    Returns:
        The path of kernel.html.

    Raises:
        InputError: something in the settings cannot be used.

    Example:
        >>> from pullback.report.kernel import KernelSettings, make_kernel_report
        >>> page = make_kernel_report(KernelSettings(outputs="all"), out="k")  # doctest: +SKIP
    """
    settings, out = settings or KernelSettings(), Path(out)
    check_writable(out)
    trained = settings.subject.train
    with Stages(count=5 if trained else 3, shown=progress) as stages:
        with stages.stage("reading the data", None) as advance, Cost() as cost:
            subject = prepare(settings.subject, lambda: advance(1), least_outputs=1)
            task = Task.of(settings.outputs, subject.outputs)
            samples = _samples(subject, task)
        identity = {**describe.identity(subject), **settings.as_dict()}
        workspace = Workspace(out, identity, resume)
        try:
            parts = Parts(workspace, stages, [cost.numbers("reading the data")])
            report = _measure(settings, subject, task, samples, parts)
        except InputError:
            workspace.discard()
            raise
        with stages.stage("writing the page", None):
            _write(report, out)
    workspace.remove()
    return out / "kernel.html"


def _samples(subject: Subject, task: Task) -> dict[str, Subset]:
    """The samples of the kernel ("train") and those that it predicts ("test"), where there are any.

    Raises:
        InputError: fewer than two samples, or of a single class.
    """
    n = subject.settings.samples
    found = {
        split: subject.samples.balanced(split, n, task.classes)
        for split in subject.samples.by_class
    }
    classes = found["train"][1].unique()
    if len(classes) < 2:
        raise InputError(
            f"data: the samples of the kernel are all of class {int(classes[0])}; give data of two "
            "classes at least"
        )
    return found


def _measure(
    settings: KernelSettings,
    subject: Subject,
    task: Task,
    samples: dict[str, Subset],
    parts: Parts,
) -> KernelReport:
    states = _states(subject, parts)

    def measure(state: str, step: int, model: nn.Module) -> StateNumbers:
        name = f"gram {state}".replace(" ", "-")
        store = parts.workspace.out / name if settings.gram else None
        with parts.stages.aside():
            seen = look(
                model,
                task,
                samples,
                settings.centred,
                store,
                None if parts.stages.shown else False,
            )
        gram = name if settings.gram else None
        return state_numbers(seen, subject.classes, settings.functions, state, step, gram)

    def kept(state: str, step: int, model: nn.Module) -> StateNumbers:
        name = f"kernel {state}".replace(" ", "-")
        found: StateNumbers = parts.measure(
            name, f"tangent kernel, {state}", None, lambda _: measure(state, step, model)
        )
        return found

    numbers = [kept(*state) for state in states]
    return KernelReport(
        about=describe.about(),
        settings=settings.as_dict(),
        network=describe.network(subject.model, subject),
        data=_data(subject, samples["train"], numbers),
        training=describe.training(subject),
        test_samples=len(samples["test"][1]) if "test" in samples else 0,
        states=numbers,
        cost=parts.costs,
        notes=_notes(settings, samples),
    )


def _states(subject: Subject, parts: Parts) -> States:
    """The network as it is given; or before and after training."""
    if not subject.settings.train:
        return [("as given", 0, subject.model)]
    start, plan = copy.deepcopy(subject.model), subject.plan

    def compute(advance: Advance) -> None:
        recorder = Recorder(subject.model, [], ())
        train(subject.model, subject.source.train, plan, recorder, parts.workspace, advance)
        parts.workspace.write_tensors("trained", subject.model.state_dict())

    parts.measure("training", "training", plan.steps, compute)
    subject.model.load_state_dict(parts.workspace.read_tensors("trained") or {})
    return [("before training", 0, start), ("after training", plan.steps, subject.model)]


def _data(subject: Subject, train: Subset, states: list[StateNumbers]) -> DataNumbers:
    """The data; of the images, those that a figure shows."""
    inputs, labels = train
    functions = [state["functions"] for state in states if state["functions"]]
    shown = {
        sample
        for found in functions
        for one in found["eigenfunctions"]
        for sample in (*one["lowest"], *one["highest"])
    }
    chosen = sorted(shown)
    images = thumbnails(inputs[chosen]) if chosen else None
    kept = dict(zip(chosen, images, strict=True)) if images else None
    return DataNumbers(
        name=subject.settings.data,
        shape=list(subject.samples.shape),
        classes=list(subject.classes),
        sizes=subject.samples.sizes,
        counts=subject.samples.counts,
        evaluated={},
        probe_split="train",
        probe_asked=subject.settings.samples,
        probe_labels=labels.tolist(),
        images=[kept.get(sample, []) for sample in range(len(labels))] if kept else None,
    )


def _notes(settings: KernelSettings, samples: dict[str, Subset]) -> list[str]:
    """What a reader should know about this run in particular."""
    taken = len(samples["train"][1])
    if taken == settings.subject.samples:
        return []
    return [
        f"The kernel is taken on {taken} samples instead of {settings.subject.samples}: the same "
        "number of each class, as far as the data have them."
    ]


def _write(report: KernelReport, out: Path) -> None:
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    drawn = draw(report)
    for figures in drawn.values():
        for figure in figures:
            for number, panel in enumerate(figure.panels, start=1):
                name = figure.name if len(figure.panels) == 1 else f"{figure.name}-{number}"
                svg = base64.b64decode(panel.source.partition(",")[2])
                write_whole(folder / f"{name}.svg", svg)
    write_whole(out / "kernel.json", to_json(report))
    write_whole(out / "kernel.html", render_kernel(report, drawn).encode())
