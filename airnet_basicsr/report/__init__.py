"""``python -m airnet_basicsr.report results/A [results/B ...]``: tables and a page from the files of tests."""
