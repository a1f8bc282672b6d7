"""Becoming another user, and the limit on descriptors, with the system's calls replaced."""

import os
import pwd
import resource

import pytest

from fastbean.daemon import privileges
from fastbean.errors import NoSuchUserError, PrivilegeError

ENTRY = pwd.getpwuid(os.getuid())


@pytest.fixture
def calls(monkeypatch):
    """The calls that change who we are, in order; as if root had made them."""
    made = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("initgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, name, lambda *args, name=name: made.append((name, *args)))
    return made


def test_groups_go_before_the_group_and_the_group_before_the_user(calls):
    privileges.become(ENTRY.pw_name)
    assert calls == [
        ("initgroups", ENTRY.pw_name, ENTRY.pw_gid),
        ("setgid", ENTRY.pw_gid),
        ("setuid", ENTRY.pw_uid),
    ]


def test_a_user_can_be_given_by_number(calls):
    privileges.become(str(ENTRY.pw_uid))
    assert calls[-1] == ("setuid", ENTRY.pw_uid)


@pytest.mark.parametrize("user", ["nosuchuser-", "4294967290", "-5", "9" * 40])
def test_an_unknown_user_is_named(user, calls):
    with pytest.raises(NoSuchUserError, match="no such user") as caught:
        privileges.become(user)
    assert user in str(caught.value)
    assert caught.value.exit_status == 33
    assert calls == []


def test_a_refusal_says_what_to_do(monkeypatch, calls):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setgid", refuse)
    with pytest.raises(PrivilegeError, match="Operation not permitted; start as root, or without -u") as caught:
        privileges.become(ENTRY.pw_name)
    assert caught.value.exit_status == 34
    assert [name for name, *_ in calls] == ["initgroups"]


def test_nothing_happens_for_a_common_user_that_is_this_one_already(monkeypatch, calls):
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(os, "getegid", lambda: 4712)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pwd.struct_passwd((name, "x", 4711, 4712, "", "/", "/bin/sh")))
    privileges.become("worker")
    assert calls == []


@pytest.mark.parametrize(
    ("soft", "hard", "refused", "holds"), [(64, 256, False, 256), (64, -1, True, 64), (9, 9, True, 9)]
)
def test_the_limit_on_descriptors(monkeypatch, soft, hard, refused, holds):
    def set_limit(which, limits):
        assert (which, limits) == (resource.RLIMIT_NOFILE, (hard, hard))
        if refused:
            raise ValueError("not permitted")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    assert privileges.raise_descriptor_limit() == holds
