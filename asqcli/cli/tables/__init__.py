"""What commands show to people, drawn from the documents that they print with `--json`."""
