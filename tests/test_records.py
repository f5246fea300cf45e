"""Recorded studies: read, summarised, complete."""

import statistics

import pytest

from cvae_lib.course import records

RECORDS = sorted(path.stem for path in records.FOLDER.glob("*.json"))


def test_what_is_written_comes_back_with_the_textbooks_spread(tmp_path):
    runs = [{"seed": 0, "nll": 1.0}, {"seed": 1, "nll": 2.0}, {"seed": 2, "nll": 6.0}]
    records.write("trial", command="c", protocol="p", versions={"torch": "2"}, runs=runs, folder=tmp_path)
    record = records.load("trial", tmp_path)
    band = records.band(record, "nll")
    assert record["runs"] == runs and band.seeds == 3
    assert band.mean == pytest.approx(3) and band.spread == pytest.approx(statistics.stdev([1.0, 2.0, 6.0]))
    assert str(band) == "3.00 ± 2.65"


def test_unknown_records_and_figures_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recorded study 'x'; there are: none"):
        records.load("x", tmp_path)
    with pytest.raises(KeyError, match="nll"):
        records.band({"runs": [{"seed": 0}]}, "nll")


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_holds_protocol_seeds_versions_and_the_script_that_made_it(name, root):
    record = records.load(name)
    assert record["protocol"] and record["versions"]["torch"]
    assert (root / record["command"].split()[-1]).is_file()
    assert len({run["seed"] for run in record["runs"]}) >= 3
