"""What `make bench` runs still measures something, on networks that are small for it."""

import re
import subprocess
import sys

import pytest


def numbers(name: str, *options: str) -> dict[str, list[float]]:
    """The lines of a benchmark's table: the first word, and the numbers after it."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = (line.split(maxsplit=1) for line in done.stdout.splitlines())
    return {row[0]: [float(number) for number in re.findall(r"[\d.]*\d", row[1])] for row in rows if len(row) == 2}


def test_physics_takes_time_in_each_of_its_parts() -> None:
    table = numbers("physics", "--aps", "10,20", "--blocks", "1", "--slots", "2")
    assert all(time > 0 for size in ("10", "20") for time in table[size])


def test_throughput_counts_slots_and_messages() -> None:
    slots, messages, _, ratio = numbers("throughput", "--aps", "5", "--slots", "20", "--runtimes", "local")["local"]
    assert messages > slots > 0
    assert ratio == 1


NETWORKS = ("hidden", "--set", "cooperation.serving=forecast", "radio.num_aps=8", "radio.num_ues=4", "radio.area_m=280")
SIZES = ("--slots", "6", "--networks", "2", "--layouts", "1", "--links", "4")


def test_what_agents_have_learned_is_measured_beside_those_who_learn_nothing() -> None:
    table = numbers("learned", *NETWORKS, "run.slots_per_episode=3", *SIZES)
    rate = {policy: table[policy][1] for policy in ("forecast", "forecast,", "belief", "informed")}  # after the links
    assert 0 < rate["forecast"] < rate["informed"]
    assert table["belief"] != table["forecast"]
    assert table["never"][0] > 0


@pytest.mark.parametrize(("trial", "slots", "rows"), [("liars", 3, ["10%", "100%"]), ("permuted", 20, ["at", "after"])])
def test_agents_are_tried_among_liars_and_with_others_defects(trial: str, slots: int, rows: list[str]) -> None:
    table = numbers("learned", *NETWORKS, f"run.slots_per_episode={slots}", *SIZES, "--trial", trial)
    assert all(table[row] for row in rows)


@pytest.mark.ray
def test_cpu_time_goes_to_each_part_of_a_slot() -> None:
    table = numbers("shares", "--aps", "6", "--slots", "80")
    for part in ("learning", "precoding", "physics", "protocol", "wire", "transport", "metrics"):
        local, _, on_ray, _ = table[part]
        assert min(local, on_ray) > 0, part


@pytest.mark.ray
def test_groups_cost_something_and_change_no_result() -> None:
    table = numbers("groups", "--aps", "6", "--slots", "200", "--ways", "local", "3")
    for way in ("local", "ray,"):
        assert min(table[way]) > 0, way
    assert table["digests:"] == []  # all equal
