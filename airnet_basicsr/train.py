"""``python -m airnet_basicsr.train -opt X.yml``: the toolbox's training, with results below the working directory."""

import os

from basicsr.train import train_pipeline


def main(root_path: str | None = None) -> None:
    """Train as the command line's options say; experiments go to ``root_path``."""
    train_pipeline(root_path or os.getcwd())


if __name__ == '__main__':
    main()
