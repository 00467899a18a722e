"""``python -m airnet_basicsr.test -opt X.yml``, which is ``airnet test``."""

from airnet_basicsr.__main__ import run


def main(root_path: str | None = None) -> None:
    """The program; results go below ``root_path``, the working directory where none is given."""
    run('test', root_path=root_path)


if __name__ == '__main__':
    main()
