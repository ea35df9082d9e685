"""Fresh processes for tests, sooner: each is forked from one that has imported torch and the like, and none of ours.

Seconds of each start go into these imports. What a test says about the order of imports, about variables that they
read, or about signals needs a process of its own, by `subprocess`.
"""

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
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


def run_python(
    code: str, *arguments: object, env: Mapping[str, str] | None = None, cwd: object = None, check: bool = False
) -> subprocess.CompletedProcess:
    """Run `code` as `python -c` would, in an environment and a folder of its own, and return what it printed."""
    command = ["-c", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        environment = dict(os.environ if env is None else env)
        process = CONTEXT.Process(target=_run, args=(code, command, environment, str(cwd or Path.cwd()), outputs))
        # A process would first import what the main module is here.
        no_main = mock.patch.dict(sys.modules, {"__main__": types.ModuleType("__main__")})
        with no_main, mock.patch.object(forkserver, "connect_to_new_process", SERVER.connect_to_new_process):
            process.start()
        process.join()
        printed = [path.read_text(encoding="utf-8") if path.exists() else "" for path in outputs]
    result = subprocess.CompletedProcess(command, process.exitcode or 0, *printed)
    if check:
        result.check_returncode()
    return result


def _run(code: str, command: list[str], environment: dict[str, str], cwd: str, outputs: list[Path]) -> None:
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    own = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    sys.path[:] = ["", *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *own]
    sys.argv = command
    if early := {"hf_vanilla", "transformers", "huggingface_hub", "datasets"} & sys.modules.keys():
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
