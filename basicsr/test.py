"""BasicSR's command in this checkout; results go to this checkout. BasicSR itself is the installed package."""

from pathlib import Path

from airnet_basicsr.test import main

if __name__ == '__main__':
    main(str(Path(__file__).resolve().parents[1]))
