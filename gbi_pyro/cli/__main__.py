"""``python -m gbi_pyro.cli``."""

from gbi_pyro.cli import app

if __name__ == "__main__":
    app()
