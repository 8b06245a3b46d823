"""Sweeps without training: what a job would log is logged, so that a whole sweep takes a second."""

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import yaml

import kdexp
from kdexp.cache import Cache
from kdexp.config import flatten
from kdexp.errors import UserError
from kdexp.naming import run_name, run_tags
from kdexp.study.launch import Job, Outcome
from kdexp.study.sweep import run_sweep
from kdexp.task.load import load_task
from kdexp.tracking.run import RunDescription, open_run
from kdexp.tracking.store import Study


def log_job(config):
    """What a run leaves in MLflow, as far as summaries read it."""
    cache = Cache(Path(config.cache_dir))
    task = load_task(config.task, cache)
    digest = task.fingerprint("train", "validation", "test")
    tags = run_tags(config, cache) | {"kdexp.primary_metric": "accuracy", "kdexp.data_sha256": digest}
    params = {name: str(value) for name, value in flatten(config).items()}
    scores = {f"{role}{split}/accuracy": 0.7 for role in ("", "baseline/") for split in ("validation", "test")}
    with open_run(config.tracking, RunDescription(config.study, run_name(config), params, tags)) as run:
        run.log_metrics(scores | {"teacher/test/accuracy": 0.9, "kd/gain": 0.0})
    return 0.7


_composed = cache(kdexp.compose)


def composed(*lines):
    """A config of one's own of what may have been composed before: that takes a tenth of a second."""
    return copy.deepcopy(_composed(*lines))


class Folder:
    """A folder in which sweeps are started, and whose MLflow store can be read."""

    def __init__(self, path):
        self.path, self.launched = path, []

    @property
    def study(self):
        return Study("sqlite:///mlflow.db", "distillation")

    def sweep(self, *common, swept=(), varied=((),)):
        """Run a sweep of these jobs; return its summary."""
        common = (*common, f"cache_dir={self.path}/cache", "hardware=cpu")
        if not any(word.startswith("task=") for word in common):
            common = ("task.train_size=20", "task.transfer_size=0", *common)  # the default takes a second to write
        jobs = [self.job([*common, *lines]) for lines in varied]
        self.launched = []
        run_sweep(jobs, list(swept), self.launch)
        return self.summary()

    def job(self, lines):
        try:
            return Job(tuple(lines), " ".join(lines), composed(*lines), None)
        except UserError as error:
            return Job(tuple(lines), " ".join(lines), None, error)

    def launch(self, jobs, extra):
        self.launched += jobs
        more = dict(line.split("=", 1) for line in extra)
        told = {"parent_run": more["parent_run"], "varied": yaml.safe_load(more["varied"])} if more else {}
        return [Outcome(job, log_job(replace(job.config, **told)), None) for job in jobs]

    def summary(self):
        from kdexp.study.summary.settings import summarize

        runs = self.study.runs()
        latest = [run.run_id for run in runs if run.sweep_key][-1]
        return summarize(self.study, latest, runs)
