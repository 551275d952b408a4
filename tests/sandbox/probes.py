"""Attacks that can be tried one after the other in one cell, and calls that must be refused.

This text runs inside a sandbox; nothing of it is imported by the tests. A function that returns has
worked; one that raises `OSError` or another of `REFUSALS` was stopped.
"""

# ruff: noqa: F401, F821, ICN001, PTH101, PTH103, PTH104, PTH108, PTH111, PTH119, PTH120, PTH123, PTH208, PTH211, RUF059, S103, S108, S606, SIM115 - a cell as people write them

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import sys
import threading

import numpy
import pandas

REFUSALS = (OSError, ImportError, AttributeError, ValueError, RuntimeError)
LIBC = ctypes.CDLL(None, use_errno=True)
SCRATCH = os.environ["TMPDIR"]


def call(number, *arguments):
    LIBC.syscall.restype = ctypes.c_long
    result = LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


# Files


def attack_read_the_canary():
    open(canary).read()


def attack_read_the_canary_through_a_directory_descriptor():
    folder = os.open(os.path.dirname(canary), os.O_PATH)
    os.open(os.path.basename(canary), os.O_RDONLY, dir_fd=folder)


def attack_read_the_canary_through_proc_root():
    open("/proc/self/root" + canary).read()


def attack_read_the_canary_through_a_symlink():
    os.symlink(canary, SCRATCH + "/link")
    open(SCRATCH + "/link").read()


def attack_read_the_canary_through_a_hard_link():
    os.link(canary, SCRATCH + "/hard")
    open(SCRATCH + "/hard").read()


def attack_move_the_canary_into_scratch():
    os.rename(canary, SCRATCH + "/moved")


def attack_read_the_canary_through_dotdot_of_scratch():
    os.makedirs(SCRATCH + "/a/b", exist_ok=True)
    open(SCRATCH + "/a/b/" + "../" * 12 + canary).read()


def attack_read_the_canary_by_handle():
    call(CALLS["open_by_handle_at"], -100, 0, 0)


def attack_map_the_canary():
    numpy.memmap(canary, mode="r", dtype="u1").sum()


def attack_read_the_canary_with_pandas():
    pandas.read_csv(canary)


def attack_truncate_the_canary():
    os.truncate(canary, 0)


def attack_empty_a_file_of_python_while_reading():
    os.open(os.__file__, os.O_RDONLY | os.O_TRUNC)


def attack_write_to_python():
    open(os.__file__, "a").close()


def attack_write_to_site_packages():
    open(os.path.dirname(os.path.dirname(numpy.__file__)) + "/evil.pth", "x").close()


def attack_delete_the_canary():
    os.unlink(canary)


def attack_create_beside_the_canary():
    open(canary + ".new", "x").close()


def attack_list_the_canarys_folder():
    os.listdir(os.path.dirname(canary))


def attack_list_the_root():
    os.listdir("/")


def attack_list_home():
    os.listdir(os.path.expanduser("~root"))


def attack_read_passwd():
    open("/etc/passwd").read()


def attack_read_shadow():
    open("/etc/shadow").read()


def attack_read_hosts():
    open("/etc/hosts").read()


def attack_read_a_package_that_is_not_offered():
    folder = os.path.dirname(os.path.dirname(numpy.__file__))
    open(folder + "/pydantic/__init__.py").read()


def attack_read_the_code_of_privnb():
    open(privnb_file).read()


def attack_write_shared_memory():
    open("/dev/shm/evil", "x").close()


def attack_read_kernel_messages():
    open("/dev/kmsg").read(1)


def attack_open_memory():
    open("/dev/mem", "rb").read(1)


def attack_open_a_terminal():
    os.open("/dev/ptmx", os.O_RDWR)


def attack_make_a_file_without_a_name():
    os.open(SCRATCH, os.O_TMPFILE | os.O_RDWR)


def attack_make_a_pipe_file():
    os.mkfifo(SCRATCH + "/pipe")


def attack_make_a_device():
    os.mknod(SCRATCH + "/device", 0o20666, os.makedev(1, 1))


def attack_open_the_mode_of_scratch():
    os.chmod(SCRATCH, 0o777)


def attack_set_user_id_bit():
    open(SCRATCH + "/tool", "w").close()
    os.chmod(SCRATCH + "/tool", 0o4755)


def attack_set_an_attribute():
    open(SCRATCH + "/file", "w").close()
    os.setxattr(SCRATCH + "/file", "user.note", b"data")


def attack_leave_a_time_as_a_message():
    os.utime(SCRATCH, (1, 1))


# Processes and the agent


def attack_fork():
    os.fork() or os._exit(0)


def attack_fork_in_c():
    child = LIBC.fork()
    if child == 0:
        os._exit(0)
    if child < 0:
        raise OSError


def attack_start_a_process_pool():
    import multiprocessing

    multiprocessing.get_context("fork").Process(target=print).start()


def attack_run_a_command():
    import subprocess

    subprocess.run(["true"], check=True)


def attack_run_a_command_by_posix_spawn():
    os.posix_spawn("/bin/true", ["true"], {})


def attack_run_a_command_through_c():
    if LIBC.system(b"true") != 0:
        raise OSError


def attack_replace_itself():
    os.execv(sys.executable, ["python"])


def attack_signal_the_agent():
    os.kill(agent, 0)


def attack_signal_its_parent():
    os.kill(os.getppid(), 0)


def attack_signal_everybody():
    os.kill(-1, 0)


def attack_signal_its_group():
    os.killpg(0, 0)


def attack_signal_a_thread_of_the_agent():
    call(CALLS["tgkill"], agent, agent, 0)


def attack_signal_through_an_owned_pipe():
    import fcntl

    reading, writing = os.pipe()
    fcntl.fcntl(reading, fcntl.F_SETOWN, agent)


def attack_hold_the_agent():
    os.pidfd_open(agent)


def attack_limit_the_agent():
    resource.prlimit(agent, resource.RLIMIT_NOFILE, (20, 20))


def attack_read_the_limits_of_the_agent():
    resource.prlimit(agent, resource.RLIMIT_NOFILE)


def attack_raise_its_own_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, resource.RLIM_INFINITY))


def attack_move_the_agent_to_one_processor():
    os.sched_setaffinity(agent, {0})


def attack_slow_the_agent_down():
    os.setpriority(os.PRIO_PROCESS, agent, 19)


def attack_speed_itself_up():
    os.setpriority(os.PRIO_PROCESS, 0, -5)


def attack_trace_the_agent():
    if LIBC.ptrace(16, agent, 0, 0) != 0:
        raise OSError


def attack_read_the_agents_environment():
    open(f"/proc/{agent}/environ").read()


def attack_read_the_agents_memory():
    open(f"/proc/{agent}/mem", "rb").read(1)


def attack_read_the_agents_command_line():
    open(f"/proc/{agent}/cmdline").read()


def attack_list_the_agents_descriptors():
    os.listdir(f"/proc/{agent}/fd")


def attack_read_the_environment_of_process_one():
    open("/proc/1/environ").read()


def attack_list_processes():
    os.listdir("/proc")


def attack_write_its_own_memory_through_proc():
    open("/proc/self/mem", "r+b").close()


def attack_read_its_own_maps():
    open("/proc/self/maps").read()


def attack_find_secrets_in_the_environment():
    if not any("SECRET" in name for name in os.environ):
        raise OSError


# Rights


def attack_become_root():
    os.setuid(0)


def attack_become_root_for_real():
    os.setresuid(0, 0, 0)


def attack_join_a_group():
    os.setgroups([0])


def attack_have_the_user_of_root():
    if os.getuid() != 0 and os.geteuid() != 0:
        raise OSError


def attack_change_root():
    os.chroot("/")


def attack_change_the_host_name():
    socket.sethostname("evil")


def attack_become_dumpable_again():
    if LIBC.prctl(4, 1, 0, 0, 0) != 0:
        raise OSError


def attack_outlive_the_agent():
    if LIBC.prctl(1, 0, 0, 0, 0) != 0:
        raise OSError


# Network


def attack_open_a_socket():
    socket.socket()


def attack_open_a_datagram_socket():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def attack_open_a_socket_pair():
    socket.socketpair()


def attack_open_a_netlink_socket():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)


def attack_open_a_kernel_crypto_socket():
    socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)


def attack_resolve_a_name():
    socket.getaddrinfo("localhost", 80)


def attack_download():
    import urllib.request

    urllib.request.urlopen("http://127.0.0.1:1/", timeout=1)


def attack_find_a_socket_left_open():
    for number in range(3, 256):
        try:
            socket.socket(fileno=number).recv(1)
        except OSError:
            continue
        return
    raise OSError


# What came in, and what was left lying about


def attack_change_a_table_that_was_sent():
    for number in range(3, 256):
        try:
            os.pwrite(number, b"x", 0)
        except OSError:
            continue
        return
    raise OSError


def attack_import_privnb():
    import privnb


def attack_import_a_module_of_the_sandbox():
    import privnb.site.sandbox.pool


def attack_import_by_taking_the_gate_away():
    sys.meta_path[:] = [finder for finder in sys.meta_path if isinstance(finder, type)]
    import pydantic


def attack_import_from_scratch_a_copy_of_what_is_forbidden():
    with open(SCRATCH + "/stolen.py", "w") as file, open(privnb_file) as code:
        file.write(code.read())


def attack_find_other_tables_in_memory():
    import gc

    frames = [o for o in gc.get_objects() if isinstance(o, pandas.DataFrame)]
    if not any("secret" in frame.columns for frame in frames):
        raise OSError


def attack_find_modules_of_privnb():
    if not any(name.startswith("privnb") for name in sys.modules):
        raise OSError


def attack_map_executable_memory_of_a_stolen_file():
    descriptor = os.open(canary, os.O_RDONLY)
    mmap.mmap(descriptor, 0, prot=mmap.PROT_EXEC)


def attack_queue_a_signal_for_later():
    signal.setitimer(signal.ITIMER_REAL, 1000)


def attack_start_more_threads_than_allowed():
    waiting = threading.Event()
    started = []
    try:
        for _ in range(2000):
            thread = threading.Thread(target=waiting.wait, daemon=True)
            thread.start()
            started.append(thread)
    finally:
        waiting.set()
        for thread in started:
            thread.join()


CALLS = json.loads(calls)
outcomes = {}
for name, attack in list(globals().items()):
    if name.startswith("attack_"):
        try:
            attack()
            outcomes[name] = "worked"
        except REFUSALS as problem:
            outcomes[name] = type(problem).__name__
for name, number in CALLS.items():
    try:
        call(number, 0, 0, 0, 0, 0, 0)
        outcomes["call " + name] = "worked"
    except OSError as problem:
        outcomes["call " + name] = str(problem.errno)
outcome = pandas.Series(outcomes)
