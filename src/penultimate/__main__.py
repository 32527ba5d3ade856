"""``python -m penultimate``: the command line, also what torchrun starts."""

from penultimate.cli.main import main

if __name__ == "__main__":
    main()
