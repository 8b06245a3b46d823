"""Processes that call a function of a test: forked from a server that has torch and transformers imported already.

Starting one takes milliseconds instead of seconds. There is one such server, and whoever says last what it imports has
the say: so it is said here alone.
"""

import multiprocessing
import sys

context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
if sys.platform != "win32":
    context.set_forkserver_preload(["kdexp.cache", "kdexp.student.train", "datasets", "torch._dynamo"])
