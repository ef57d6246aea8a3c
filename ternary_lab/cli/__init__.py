"""The command line `ternary-lab`: it parses, calls the library and prints.

For: users at a shell. A user's error is one line and exit status 2; nothing is computed here.
May import: everything.
"""

from ternary_lab.cli.commands import main as main
