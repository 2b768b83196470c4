"""``python -m ppl_vae``: the command line."""

from .cli import main

main()
