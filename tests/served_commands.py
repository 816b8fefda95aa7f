"""Commands that start in a fraction of a second, in an environment of their own: they are forked from a server that has
imported what takes seconds, torch above all, and is none of ours. Foundry and its plugins each command imports anew.

A command has the arguments, the folder, the environment and the streams of whoever calls it:

    python served_commands.py                           serves in this folder, until its stdin ends
    python served_commands.py FOLDER MODULE ARGUMENTS   has the server of that folder run `python -m MODULE ARGUMENTS`
"""

import json
import os
import socket
import sys

IMPORTED = ("torch", "torch._dynamo", "pydantic", "typer", "rich.progress", "pytest")
ADDRESS = "commands"  # in the server's folder, and taken there: an address may have 100 characters, a path has more


def serve() -> None:
    import gc
    import importlib
    import select
    import signal

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(ADDRESS)
        server.listen()
        print("at your service", flush=True)
        for name in IMPORTED:
            importlib.import_module(name)
        gc.collect()
        gc.freeze()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
            caller, _ = server.accept()
            if not os.fork():
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                attend(caller)
            caller.close()
    gc.unfreeze()  # else libraries complain of leaks at the end


def attend(caller: socket.socket) -> None:
    """Fork the command, and tell its caller how it ended."""
    _, streams, *_ = socket.recv_fds(caller, 1, 3)
    order = json.loads(caller.makefile().readline())
    if command := os.fork():
        _, status = os.waitpid(command, 0)
        caller.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    caller.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    run(**order)


def run(folder: str, environment: dict[str, str], module: str, arguments: list[str]) -> None:
    import atexit
    import runpy
    import traceback

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0], sys.argv[1:] = folder, arguments
    code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Python's own exit would take all of torch apart


def call(folder: str, module: str, *arguments: str) -> int:
    order = {"folder": os.getcwd(), "environment": dict(os.environ), "module": module, "arguments": arguments}
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(ADDRESS)
        socket.send_fds(server, [b"."], [0, 1, 2])
        server.sendall(json.dumps(order).encode() + b"\n")
        code = int(server.recv(16))
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(call(*sys.argv[1:]) if sys.argv[1:] else serve())
