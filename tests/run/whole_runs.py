"""Runs of `asq quantize` in this process, and who listens to them."""

import json

import torch

from asqcli.run import entry
from asqcli.run.context import RunContext
from asqcli.train.reporter import Reporter

CPU = torch.device("cpu")


class Notes(Reporter):
    """Keeps what is told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def run(recipe, out, poll=lambda: None, reporter=None):
    context = RunContext(CPU, reporter or Reporter(), poll)
    return entry.start_run(recipe, context, source="test", out=str(out), force=False, given=None)


def resume(out, poll=lambda: None):
    folder, checkpoint = entry.open_run(str(out))
    return entry.resume_run(folder, checkpoint, RunContext(CPU, Reporter(), poll), factory=None)


def epochs_of(out):
    """Return the records of a run's epochs, without their times."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
