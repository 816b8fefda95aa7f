"""What a server that is forked from has imported stays: no child's collector looks through it, which would take a tenth
of a second, and a copy of each page that it touches. The server imports this last."""

import atexit
import gc

gc.collect()
gc.freeze()
atexit.register(gc.unfreeze)  # else libraries complain of leaks at the end
