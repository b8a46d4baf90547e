"""Arguments and readers that the tests of several commands use."""
import csv

SERIAL = ["--workers", "0", "--device", "cpu", "--batch-size", "4"]


def rows(path):
    """Lines of a CSV file as lists."""
    with open(path, newline="") as file:
        return list(csv.reader(file))
