"""`python -m asqcli` is `asq`."""

from asqcli.cli.app import main

main()
