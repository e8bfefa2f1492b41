"""Several things at the same moment."""

import threading


def together(works):
    """Runs all of it at once, each on a thread of its own; what failed."""
    barrier, failures = threading.Barrier(len(works)), []

    def run(work):
        barrier.wait()
        try:
            work()
        except Exception as error:  # Whatever it is, it is this one's result.
            failures.append(error)

    threads = [threading.Thread(target=run, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures
