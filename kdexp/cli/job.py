"""One job, as Hydra calls it: alone, or one of a sweep's, then perhaps in a process of its own."""

import gc
import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from kdexp.cli.folders import discard, register_resolvers
from kdexp.cli.refusal import refuse
from kdexp.errors import PrunedError, UserError, interrupt

logger = logging.getLogger(__name__)

# When this module is imported, since workers of a launcher resolve the folder before they call the job.
register_resolvers()


def job(composed):  # type: ignore[no-untyped-def]  # Hydra reads the signature: no annotations it would not know
    """One job of Hydra's, alone or of a sweep: what a launcher calls in its worker processes."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    signal.signal(signal.SIGTERM, interrupt)
    hydra = HydraConfig.get()
    is_alone = hydra.mode != RunMode.MULTIRUN
    # With hydra.job.chdir=true Hydra went into the run's folder: the files that a person names, and the store, lie
    # where the command was started.
    os.chdir(hydra.runtime.cwd)
    try:
        return _run_composed(composed, hydra.runtime.choices, is_alone)
    except UserError as error:
        if is_alone:
            if not error.run_id:
                discard(Path(hydra.runtime.output_dir))
            refuse(str(error))
        logger.error("%s", error)
        raise  # the sweep goes on with the other jobs, and fails at its end
    except PrunedError as error:
        logger.info("stopped early: %s", error)
        raise
    except Exception:
        if not is_alone:
            logger.exception("the job failed")
        raise


def _run_composed(composed: DictConfig, choices: Mapping[str, Any], is_alone: bool) -> float | None:
    """Run it and print what it found; return the primary metric on validation, or None where others have it."""
    from kdexp.cli.composition import resolve
    from kdexp.processes import Processes

    is_main = Processes.current().is_main
    config = resolve(composed, choices)
    config.tracking.enabled &= is_main  # of the processes of one training, one tracks and prints
    # Imported here: torch, transformers and mlflow are loaded only when a run really starts.
    from kdexp.results.terminal import print_line, print_result
    from kdexp.study.job import run_job
    from kdexp.tracking.uri import ui_command

    # The Trainer collects garbage after every training; the libraries' million objects are none, and
    # looking through them again took longer than a small student's epoch.
    gc.freeze()
    record = run_job(config)
    if record is None or not is_main:
        return None
    if is_alone:
        print_result(record, ui_command(config.tracking.uri), config.cache_dir)
    else:
        print_line(record)
    return record.score("validation")
