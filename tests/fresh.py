"""Fresh processes for tests, sooner: each is forked from one that has imported torch and the like, and none of ours.

Seconds of each start go into these imports; those of `LIBRARIES` have transformers, datasets and the like, too. What a
test says about the order of imports, about variables that they read, or about signals needs a process of its own, by
`subprocess`.
"""

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

CONTEXT = multiprocessing.get_context("forkserver")
SERVER = forkserver.ForkServer()  # of its own, for that of `multiprocessing` has transformers where sharding is tested
SERVER.set_forkserver_preload(
    "torch._dynamo torch.distributed.tensor torch.distributed.fsdp sympy scipy.special sklearn pyarrow".split()
)
LIBRARIES = forkserver.ForkServer()
LIBRARIES.set_forkserver_preload(
    "transformers.trainer_seq2seq transformers.pipelines transformers.models.auto.modeling_auto accelerate datasets "
    "evaluate jinja2 rapidfuzz.process ruamel.yaml sacrebleu sentencex torch._dynamo torch.distributed.tensor "
    "torch.distributed.fsdp sklearn".split()
)
STARTING = threading.Lock()


def run_python(
    code: str,
    *arguments: object,
    env: Mapping[str, str] | None = None,
    cwd: object = None,
    check: bool = False,
    input: str = "",
    server: forkserver.ForkServer = SERVER,
) -> subprocess.CompletedProcess:
    """Run `code` as `python -c` would, in an environment and a folder of its own, and return what it printed."""
    command = ["-c", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdin", "stdout", "stderr")]
        streams[0].write_text(input, encoding="utf-8")
        environment = dict(os.environ if env is None else env)
        early = {"hf_vanilla"} | ({"transformers", "huggingface_hub", "datasets"} if server is SERVER else set())
        given = (code, command, environment, str(cwd or Path.cwd()), streams, early)
        process = CONTEXT.Process(target=_run, args=given)
        # A process would first import what the main module is here.
        no_main = mock.patch.dict(sys.modules, {"__main__": types.ModuleType("__main__")})
        connect = mock.patch.object(forkserver, "connect_to_new_process", server.connect_to_new_process)
        with STARTING, no_main, connect:
            process.start()
        process.join()
        printed = [path.read_text(encoding="utf-8") if path.exists() else "" for path in streams[1:]]
    result = subprocess.CompletedProcess(command, process.exitcode or 0, *printed)
    if check:
        result.check_returncode()
    return result


def _run(
    code: str, command: list[str], environment: dict[str, str], cwd: str, streams: list[Path], early: set[str]
) -> None:
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    own = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    sys.path[:] = ["", *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *own]
    sys.argv = command
    if early := early & sys.modules.keys():
        raise AssertionError(f"imported before the test's process begins: {early}")
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    status: object = 0
    try:
        exec(compile(code, "<string>", "exec"), main.__dict__)
    except SystemExit as exit:
        status = exit.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    if not isinstance(status, int):
        print(status, file=sys.stderr)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)
