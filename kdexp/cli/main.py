"""The command line: fast help, Hydra's composition, and one line for a person's mistake."""

import gc
import logging
import os
import signal
import sys
from typing import NoReturn

from kdexp.errors import PrunedError, SweepError, UserError, interrupt

logger = logging.getLogger(__name__)

USAGE_ERROR = 2
JOBS_FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells count


def main() -> None:
    """Entry point of `kdexp` and of `python -m kdexp`."""
    if any(argument in ("-h", "--help") for argument in sys.argv[1:]):
        from kdexp.cli.help import help_text

        sys.stdout.write(help_text())
        return
    if sys.argv[1:2] == ["summary"]:
        from kdexp.study.summary import main as print_summaries

        try:
            return print_summaries(sys.argv[2:])
        except UserError as error:
            _refuse(str(error))
    if sys.argv[1:2] == ["transplant"]:
        from kdexp.model.transplanted import main as write_twin

        try:
            return write_twin(sys.argv[2:])
        except UserError as error:
            _refuse(str(error))
    # Hydra would shorten every traceback and turn every failure into exit code 1; the lines below
    # tell a person's mistake from a bug instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from kdexp.cli.composition import register_schemas
    from kdexp.cli.conf_dir import CONF_DIR
    from kdexp.cli.explain import explain
    from kdexp.cli.sweeper import register

    register_schemas()
    register()
    job = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(_job)
    try:
        job()
    except UserError as error:
        _refuse(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _refuse(str(explain(error)))
    except SweepError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(JOBS_FAILED)
    except OSError as error:
        # Hydra makes the run's folder before the job starts; any other OSError is a bug.
        if _job_has_started():
            raise
        _refuse(
            f"hydra.run.dir: cannot write {error.filename}: {error.strerror}; "
            "choose another folder with hydra.run.dir=<folder>"
        )
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the same command continues from the last checkpoint\n")
        sys.exit(INTERRUPTED)


def _job(composed):  # type: ignore[no-untyped-def]  # Hydra reads the signature: no annotations it would not know
    """One job of Hydra's, alone or of a sweep: the only function here that is called in worker processes."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from kdexp.cli.composition import refuse_merged_options, resolve

    signal.signal(signal.SIGTERM, interrupt)
    is_alone = HydraConfig.get().mode != RunMode.MULTIRUN
    try:
        refuse_merged_options(HydraConfig.get().runtime.choices)
        config = resolve(composed)
        # Imported here: torch, transformers and mlflow are loaded only when a run really starts.
        from kdexp.results.terminal import print_line, print_result
        from kdexp.study.job import run_job

        # The Trainer collects garbage after every training; the libraries' million objects are none, and
        # looking through them again took longer than a small student's epoch.
        gc.freeze()
        record = run_job(config)
        if record is None:
            return None
        if is_alone:
            print_result(record, config.tracking.uri, config.cache_dir)
        else:
            print_line(record)
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


def _job_has_started() -> bool:
    return "kdexp.run" in sys.modules


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(USAGE_ERROR)
