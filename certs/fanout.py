"""The same work for every device of a fleet, a few at a time."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from threading import Event
from typing import TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from certs.registry import fault
from certs.store import Progress
from ops.errors import UserError

Result = TypeVar("Result")

DEFAULT_CONCURRENCY = 8


def for_each_thing(
    thing_names: Sequence[str],
    work: Callable[[str], Result],
    *,
    concurrency: int,
    progress: Progress | None,
) -> dict[str, Result]:
    """Call `work(name)` for each name on up to `concurrency` threads; returns what each answered.

    A `UserError` concerns one device: the others are still worked on, and it is raised at the end. A failed call to AWS
    (no permission, nobody there) most likely concerns them all: no further device is begun.

    Raises:
        UserError: for one device or more; the line is that of the first, with the number of the others.
    """
    if concurrency < 1:
        raise UserError(f"a concurrency of {concurrency} does nothing: use 1 or more")
    stop = Event()

    def unless_stopped(name: str) -> Result:
        if stop.is_set():
            raise _NotBegunError
        try:
            return work(name)
        except UserError:
            raise
        except BaseException:
            stop.set()
            raise

    results: dict[str, Result] = {}
    refused: dict[str, UserError] = {}
    with ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="certs") as pool:
        try:
            futures = {pool.submit(unless_stopped, name): name for name in thing_names}
            for done, future in enumerate(as_completed(futures), start=1):
                _collect(futures[future], future, results, refused)
                if progress:
                    progress(done, len(futures))
        finally:
            stop.set()  # after Ctrl-C only what has begun is waited for
    if refused:
        raise _summary([refused[name] for name in thing_names if name in refused], len(thing_names))
    return results


class _NotBegunError(Exception):
    """The work was stopped before it came to this device."""


def _collect(name: str, future: Future[Result], results: dict[str, Result], refused: dict[str, UserError]) -> None:
    try:
        results[name] = future.result()
    except UserError as error:
        refused[name] = error
    except (ClientError, BotoCoreError) as error:
        raise fault(error, f"thing {name}") from error
    except _NotBegunError:
        pass  # the call that failed is among the futures still to come


def _summary(errors: list[UserError], total: int) -> UserError:
    if len(errors) == 1:
        return errors[0]
    return UserError(f"{errors[0]} ({len(errors)} of {total} devices have such a fault; the others are done)")
