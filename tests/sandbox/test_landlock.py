"""Which rights each version of Landlock can take away, and what the rules of a worker give."""

from __future__ import annotations

import pytest

from privnb.site.sandbox.landlock import Access, handled


@pytest.mark.parametrize(
    ("version", "new"),
    [(2, Access.REFER), (3, Access.TRUNCATE), (5, Access.IOCTL_DEV)],
)
def test_a_version_takes_the_rights_away_that_came_with_it(version, new):
    assert not handled(version - 1)[0] & new
    assert handled(version)[0] & new


def test_ports_and_scopes_are_taken_away_where_the_kernel_can():
    assert [handled(version)[1:] for version in (3, 4, 5, 6, 7)] == [
        (0, 0),
        (3, 0),
        (3, 0),
        (3, 3),
        (3, 3),
    ]


def test_a_version_of_the_future_is_asked_only_for_what_is_known():
    assert handled(99) == handled(6)


def test_scratch_gives_no_right_to_execute_link_or_make_devices():
    forbidden = Access.EXECUTE | Access.MAKE_CHAR | Access.MAKE_BLOCK | Access.MAKE_SOCK
    forbidden |= Access.MAKE_FIFO | Access.MAKE_SYM | Access.REFER | Access.IOCTL_DEV
    assert not Access.SCRATCH & forbidden


def test_reading_gives_no_right_to_write():
    writing = Access.WRITE_FILE | Access.TRUNCATE | Access.MAKE_REG | Access.REMOVE_FILE
    assert not Access.READ & writing
    assert Access.LIST & Access.READ_FILE == 0
