"""What Foundry asks of the operating system, and what becomes of it where the system refuses.

A file system may have no locks, no links and no way to flush a folder; an account may have no home folder and no name;
a container may have fewer cores than the machine. Each of these works, or is one line that names it and the way out.
The table is in docs/architecture.md. Nothing else in Foundry calls flock, fsync, expanduser or sched_getaffinity, and
nothing here imports torch or numpy; besides the contracts, this is what a sibling package or a plugin may import.

    refusals    what the system may answer, and what to do about it
    files       files and folders that a crash leaves old or new, never half; files of others, as far as one may trust
    locks       one process at a time
    places      the home folder, the cache, a path that a person wrote; whose a file is
    machine     how many cores and how much memory are ours
    processes   which process something belongs to, and whether it is gone
    parents     processes that end with the one that started them
    signals     being asked to stop
"""

from foundry.core.system.files import (
    JSON_BYTES,
    TOKENIZER_BYTES,
    copy_or_link,
    move_folder,
    open_regular,
    read_regular,
    replace_durably,
    sync_file,
    sync_folder,
    write_durably,
)
from foundry.core.system.locks import Busy, locked
from foundry.core.system.machine import available_cores, crowd_remark, memory_bytes, require_memory
from foundry.core.system.places import cache_folder, code_folder, not_trusted, temporary_folder, user_path
from foundry.core.system.refusals import unread, way_out, writing

__all__ = [
    "JSON_BYTES",
    "TOKENIZER_BYTES",
    "Busy",
    "available_cores",
    "cache_folder",
    "code_folder",
    "copy_or_link",
    "crowd_remark",
    "locked",
    "memory_bytes",
    "move_folder",
    "not_trusted",
    "open_regular",
    "read_regular",
    "replace_durably",
    "require_memory",
    "sync_file",
    "sync_folder",
    "temporary_folder",
    "unread",
    "user_path",
    "way_out",
    "write_durably",
    "writing",
]
