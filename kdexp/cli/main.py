"""The command line: fast help, Hydra's composition, and one line for a person's mistake."""

import gc
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from kdexp.cli.commands import answer_without_hydra, find_command
from kdexp.errors import PrunedError, SweepError, UserError, interrupt

if TYPE_CHECKING:
    from kdexp.config import Config
    from kdexp.results.record import RunRecord

logger = logging.getLogger(__name__)

USAGE_ERROR = 2
JOBS_FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells count


def main() -> None:
    """Entry point of `kdexp` and of `python -m kdexp`."""
    arguments = sys.argv[1:]
    answer = answer_without_hydra(arguments)
    if answer is not None:
        sys.stdout.write(answer)
        return
    command = find_command(arguments[0]) if arguments else None
    try:
        if command:
            command(arguments[1:])
        else:
            _compose_and_run()
    except UserError as error:
        _refuse(str(error))
    except SweepError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(JOBS_FAILED)
    except OSError as error:
        # Hydra makes the run's folder before the job starts; any other OSError is a bug.
        if command or "kdexp.run" in sys.modules:
            raise
        problem = f"hydra.run.dir: cannot write {error.filename}: {error.strerror}"
        _refuse(f"{problem}; choose another folder with hydra.run.dir=<folder>")
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the same command continues from the last checkpoint\n")
        sys.exit(INTERRUPTED)


def _compose_and_run() -> None:
    """Compose what the command line says, and run it: one job, or a sweep's jobs by the sweeper.

    Raises:
        UserError: Hydra refuses the composition, or kdexp refuses what it holds.
    """
    # Hydra would shorten every traceback and turn every failure into exit code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from kdexp.cli import sweeper
    from kdexp.cli.composition import refuse_null_options, register_schemas
    from kdexp.cli.conf_dir import CONF_DIR
    from kdexp.cli.explain import explain

    register_schemas()
    sweeper.register()
    refuse_null_options(sys.argv[1:])
    job = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(_job)
    try:
        job()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error


def _job(composed):  # type: ignore[no-untyped-def]  # Hydra reads the signature: no annotations it would not know
    """One job of Hydra's, alone or of a sweep: the only function here that is called in worker processes."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from kdexp.cli.composition import resolve
    from kdexp.processes import Processes

    is_main = Processes.current().is_main
    signal.signal(signal.SIGTERM, interrupt)
    is_alone = HydraConfig.get().mode != RunMode.MULTIRUN
    try:
        config = resolve(composed, HydraConfig.get().runtime.choices)
        config.tracking.enabled &= is_main  # of the processes of one training, one tracks and prints
        record = _run(config)
        if record is None or not is_main:
            return None
        _show(record, config, is_alone=is_alone)
    except UserError as error:
        if is_alone:
            _refuse(str(error))
        logger.error("%s", error)
        raise  # the sweep goes on with the other jobs, and fails at its end
    except PrunedError as error:
        logger.info("stopped early: %s", error)
        raise
    except Exception:
        if not is_alone:
            logger.exception("the job failed")
        raise
    return record.score("validation")


def _run(config: "Config") -> "RunRecord | None":
    # torch, transformers and mlflow are loaded only when a run really starts.
    from kdexp.study.job import run_job

    # The Trainer collects garbage after every training; the libraries' million objects are none, and
    # looking through them again took longer than a small student's epoch.
    gc.freeze()
    return run_job(config)


def _show(record: "RunRecord", config: "Config", *, is_alone: bool) -> None:
    from kdexp.results.terminal import print_line, print_result
    from kdexp.tracking.uri import ui_command

    if is_alone:
        print_result(record, ui_command(config.tracking.uri), config.cache_dir)
    else:
        print_line(record)


def _refuse(message: str) -> NoReturn:
    from kdexp.processes import Processes

    if Processes.current().is_main:
        sys.stderr.write(f"error: {message}\n")
    sys.exit(USAGE_ERROR)
