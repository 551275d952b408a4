"""How long ``%load_ext privnb`` takes in a fresh kernel, beside importing pandas in one.

Target: under 0.5 seconds.
"""

from __future__ import annotations

import statistics

from jupyter_client.manager import start_new_kernel

ROUNDS = 5
TIMED = """
import time
_began = time.perf_counter()
{statement}
print(time.perf_counter() - _began)
"""


def seconds_in_a_fresh_kernel(statement: str) -> float:
    """Run one statement as the first of a new kernel."""
    manager, client = start_new_kernel()
    try:
        printed = []
        client.execute_interactive(
            TIMED.format(statement=statement),
            timeout=120,
            output_hook=lambda message: printed.append(message["content"].get("text", "")),
        )
        return float("".join(printed).split()[-1])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def main() -> None:
    ours, pandas = [], []
    for _ in range(ROUNDS):
        ours.append(seconds_in_a_fresh_kernel("get_ipython().run_line_magic('load_ext', 'privnb')"))
        pandas.append(seconds_in_a_fresh_kernel("import pandas"))
    load, reference = statistics.median(ours), statistics.median(pandas)
    print(f"%load_ext privnb: median {load:.3f} s of {ROUNDS} (target < 0.5 s)")
    print(f"import pandas:    median {reference:.3f} s; ratio {load / reference:.2f}")


if __name__ == "__main__":
    main()
