"""`python -m lora_ext`."""

import io
import sys

from lora_ext.cli import main

if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name this terminal cannot show must not end a run in a traceback
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())
