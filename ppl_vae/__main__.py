"""``python -m ppl_vae``: the command line."""

from .cli.app import main

main()
