"""The `foundry` command, `python -m foundry.cli`, and what `torchrun -m foundry.cli` starts."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the working directory, put there by `python -m`: a person's signal.py is not Python's

from foundry.cli import interrupts

TYPE_CHECKING = False  # typing's would be an import, before Ctrl-C has its handler
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line, by default the process's own, and return its exit code."""
    ours = arguments is None and interrupts.take_over()
    if arguments is None and "RANK" in os.environ:
        from foundry.core.system.parents import end_with_parent

        end_with_parent()
    from foundry.cli.main import run

    code = run(sys.argv[1:] if arguments is None else arguments)
    if ours and code in interrupts.CODES:
        os._exit(code)  # where an `exec` was interrupted, Python's own exit would end the process by SIGINT again
    return code


if __name__ == "__main__":
    sys.exit(main())
