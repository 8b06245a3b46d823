"""The command line: fast help, Hydra's composition, and one line for a person's mistake."""

import gc
import os
import signal
import sys
from contextlib import nullcontext

from kdexp.cli.commands import answer_without_hydra, find_command
from kdexp.cli.flags import PLAN, expand_home, flags_first, may_set_mode, refuse_without_study, repeated
from kdexp.cli.help import GROUPS
from kdexp.cli.refusal import refuse
from kdexp.errors import SweepError, UserError

JOBS_FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells count
READER_GONE = 141  # 128 + SIGPIPE
_SHOWS = frozenset({"--info", "-i", "--cfg", "-c"})


def main() -> None:
    """Entry point of `kdexp` and of `python -m kdexp`."""
    # Looking for garbage among the million objects that the libraries make was a fifth of the start. The Trainer
    # collects after every training.
    gc.set_threshold(100_000)
    arguments = sys.argv[1:]
    answer = answer_without_hydra(arguments)
    command = find_command(arguments[0]) if answer is None and arguments else None
    try:
        if answer is not None:
            sys.stdout.write(answer)
            sys.stdout.flush()
        elif command:
            command(arguments[1:])
        else:
            _compose_and_run(flags_first(arguments))
    except UserError as error:
        refuse(str(error))
    except SweepError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(JOBS_FAILED)
    except OSError as error:
        # Hydra makes the run's folder before the job starts; any other OSError is a bug.
        is_of_a_job = not command and _is_of_a_job(error)
        _leave_if_reader_is_gone(error, is_of_a_job)
        if command or is_of_a_job:
            raise
        problem = f"hydra.run.dir: cannot write {error.filename or 'its files'}: {error.strerror}"
        refuse(f"{problem}; choose another folder with hydra.run.dir=<folder>")
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the same command continues from the last checkpoint\n")
        sys.exit(INTERRUPTED)


def _leave_if_reader_is_gone(error: OSError, is_of_a_job: bool) -> None:
    """End as other programs do whose reader, `head` say, has seen enough; a job's pipes may be others."""
    if is_of_a_job or not isinstance(error, BrokenPipeError):
        return
    # What is still to be written at the exit goes nowhere, instead of into one more error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(READER_GONE)


def _is_of_a_job(error: OSError) -> bool:
    """Whether anything of kdexp raised it but what makes folders before the jobs."""
    from traceback import walk_tb

    modules = {frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)}
    return any(name.startswith("kdexp.") for name in modules - {__name__, "kdexp.cli.sweeper"})


def _compose_and_run(arguments: list[str]) -> None:
    """Compose what the command line says, and run it: one job, or a sweep's jobs by the sweeper.

    Raises:
        UserError: Hydra refuses the composition, or kdexp refuses what it holds.
    """
    # Threads that wait for each other are to sleep: spinning makes a training many times longer on a busy machine.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # read when torch is loaded
    # Hydra would shorten every traceback and turn every failure into exit code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from kdexp.cli.composition import refuse_lax_values, with_loss_of_kind
    from kdexp.cli.conf_dir import CONF_DIR
    from kdexp.cli.explain import explain
    from kdexp.cli.hydra_adapter import first_of_swept, mode_of_flags
    from kdexp.cli.job import job
    from kdexp.cli.secrets import hide_secrets
    from kdexp.cli.sweeper import KdexpSweeper, register

    register()
    KdexpSweeper.only_plans = PLAN in arguments
    if PLAN in arguments:  # one run is planned as a sweep of one job
        arguments = ["--multirun", *(word for word in arguments if word not in (PLAN, "--multirun"))]
    refuse_lax_values(arguments)
    refuse_without_study(arguments)
    for line in repeated(arguments, list(GROUPS)):
        sys.stderr.write(f"note: {line}\n")
    sys.argv[1:] = hide_secrets(with_loss_of_kind(expand_home(arguments)))
    if _SHOWS.intersection(arguments) and hasattr(signal, "SIGPIPE"):
        # Hydra shows through the logging module, which has a traceback for each line that nobody reads.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    start = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(job)
    try:
        with (
            first_of_swept([group for group in GROUPS if group != "experiment"]),
            nullcontext() if may_set_mode(arguments) else mode_of_flags(),
        ):
            start()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
