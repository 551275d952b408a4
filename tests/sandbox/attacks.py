"""System calls that must be refused, and cells whose end is what matters."""

from __future__ import annotations

REFUSED = {  # name: (x86_64, aarch64)
    "acct": (163, 89),
    "add_key": (248, 217),
    "bind": (49, 200),
    "bpf": (321, 280),
    "capset": (126, 91),
    "chroot": (161, 51),
    "clone3": (435, 435),
    "connect": (42, 203),
    "delete_module": (176, 106),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fallocate": (285, 47),
    "fanotify_init": (300, 262),
    "fchmodat": (268, 53),
    "fchownat": (260, 54),
    "finit_module": (313, 273),
    "futex_waitv": (449, 449),
    "get_mempolicy": (239, 236),
    "getpriority": (140, 141),
    "init_module": (175, 105),
    "inotify_init1": (294, 26),
    "io_setup": (206, 0),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "linkat": (265, 37),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "pkey_alloc": (330, 289),
    "prctl": (157, 167),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setscheduler": (144, 119),
    "seccomp": (317, 277),
    "semget": (64, 190),
    "sendmsg": (46, 211),
    "set_mempolicy": (238, 237),
    "setdomainname": (171, 162),
    "setfsuid": (122, 151),
    "setgid": (106, 144),
    "setgroups": (116, 159),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "setresuid": (117, 147),
    "setreuid": (113, 145),
    "setsid": (112, 157),
    "setuid": (105, 146),
    "shmat": (30, 196),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "splice": (275, 76),
    "swapon": (167, 224),
    "symlinkat": (266, 36),
    "sync_file_range": (277, 84),
    "syslog": (103, 116),
    "tee": (276, 77),
    "tgkill": (234, 131),
    "timer_create": (222, 107),
    "timerfd_create": (283, 85),
    "tkill": (200, 130),
    "truncate": (76, 45),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "utimensat": (280, 88),
    "vhangup": (153, 58),
    "vmsplice": (278, 75),
    "wait4": (61, 260),
    "fork": (57, None),
    "vfork": (58, None),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "arch_prctl": (158, None),
    "open": (2, None),
    "creat": (85, None),
    "chmod": (90, None),
    "link": (86, None),
    "symlink": (88, None),
    "inotify_init": (253, None),
    "alarm": (37, None),
    "mknod": (133, None),
}

# Each: what the cell does, and how it may end. "fine" is an output that harms nobody.
ENDINGS = {
    "an endless loop": ("while True: pass", {"time"}),
    "an endless loop in threads": (
        """
import threading
def spin():
    while True: pass
for _ in range(8): threading.Thread(target=spin).start()
spin()
""",
        {"time"},
    ),
    "an endless loop in C": ("sum(iter(int, 1))", {"time"}),
    "an endless loop that ignores the signal": (
        """
import signal
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
while True: pass
""",
        {"time", "killed"},
    ),
    "a regular expression bomb": (
        "import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')",
        {"time"},
    ),
    "a number too long to print": ("x = 7 ** 7 ** 8\nlen(str(x))", {"time", "error", "memory"}),
    "many small objects": (
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        {"memory", "time"},  # where a machine is busy, it takes as long as a cell may run
    ),
    "eight gigabytes at once": ("import numpy as np\nnp.ones(1 << 30)", {"memory"}),
    "eight gigabytes mapped": ("import mmap\nmmap.mmap(-1, 8 << 30)\n1", {"error", "memory"}),
    "memory that is caught and taken again": (
        """
x = []
while True:
    try:
        while True: x.append(bytearray(1 << 24))
    except MemoryError:
        pass
""",
        {"time", "killed"},
    ),
    "recursion without end": ("def f(): f()\nf()", {"error"}),
    "recursion in C": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        {"killed", "memory", "error", "time"},
    ),
    "a crash": ("import ctypes\nctypes.string_at(0)", {"killed"}),
    "an abort": ("import os\nos.abort()", {"killed"}),
    "leaving without an answer": ("import os\nos._exit(0)", {"killed"}),
    "leaving with the status of a timeout": ("import os\nos._exit(152)", {"killed", "time"}),
    "sys.exit": ("import sys\nsys.exit('row 7')", {"error"}),
    "a keyboard interrupt": ("raise KeyboardInterrupt", {"error"}),
    "a generator's exit": ("raise GeneratorExit", {"error"}),
    "closing every descriptor and staying": (
        "import os, time\nos.closerange(0, 4096)\ntime.sleep(600)",
        {"time", "killed"},
    ),
    "an answer too long": ("'x' * 10_000_000", {"size"}),
    "the table itself, too long": ("import pandas as pd\npd.concat([visits] * 1000)", {"size"}),
    "a frame of very many columns": (
        "import pandas as pd\npd.DataFrame([range(100_000)])",
        {"size", "time"},
    ),
    "column names too long": ("import pandas as pd\npd.DataFrame({'x' * 10**6: [1]})", {"size"}),
    "a flood of bytes on every descriptor": (
        """
import os
for fd in range(3, 64):
    try:
        for _ in range(100): os.write(fd, b"A" * 65536)
    except OSError: pass
""",
        {"size", "killed"},
    ),
    "a forged answer of another shape": ("FORGE(b'[1, 2, 3]')", {"killed"}),
    "an honest answer after a forged one": (
        "import os\nfor fd in range(3, 64):\n  try: os.write(fd, b'{}')\n  except OSError: pass\n1",
        {"killed"},
    ),
    "an error that tells a row": ("raise ValueError(str(visits.age[0]))", {"error"}),
    "an error class named after a row": (
        "raise type('Row_' + str(visits.age[0]), (Exception,), {})",
        {"error"},
    ),
    "an error whose text does harm": (
        """
class Evil(Exception):
    def __str__(self): raise SystemExit
    __repr__ = __str__
raise Evil
""",
        {"error"},
    ),
    "an error whose class has no name": (
        """
class Meta(type):
    @property
    def __name__(cls): raise SystemExit
    @property
    def __mro__(cls): raise SystemExit
class Evil(Exception, metaclass=Meta): pass
raise Evil
""",
        {"error", "killed"},
    ),
    "a line number that is a message": (
        "exec(compile('\\n' * 123456 + 'raise ValueError', '<cell>', 'exec'))",
        {"error"},
    ),
    "source nested too deeply": ("(" * 5000 + "1" + ")" * 5000, {"error", "memory", "killed"}),
    "source of a very long sum": ("+".join(["1"] * 30_000), {"error", "memory", "killed", "fine"}),
    "source that is no Python": ("SELECT 1", {"error"}),
    "source with a null byte": ("1\0", {"error"}),
    "source with half a character": ("'\\ud800'", {"fine", "error"}),
    "a frame of a class of its own": (
        """
import pandas as pd
class Evil(pd.DataFrame):
    def __reduce__(self): return (print, ("row",))
    @property
    def size(self): return 0
    @property
    def columns(self): return ["row 7"]
Evil({"a": [1]})
""",
        {"fine", "error", "output"},
    ),
    "text of a class of its own": (
        """
class Evil(str):
    def encode(self, *a): return b"row"
    def __str__(self): raise SystemExit
    def __len__(self): return -1
Evil("a")
""",
        {"fine", "error", "output"},
    ),
    "a number of a class of its own": (
        """
class Evil(int):
    def __int__(self): return 10 ** 400
    def __repr__(self): return "row 7"
Evil(1)
""",
        {"fine", "error", "output"},
    ),
    "an object that calls itself an array": (
        """
class Evil:
    def __array__(self, *a, **k): raise SystemExit
    def __len__(self): return 1 << 60
    size = 10 ** 400
Evil()
""",
        {"output"},
    ),
    "an array of objects that pickle badly": (
        """
import numpy as np
class Evil:
    def __reduce__(self): return (exec, ("1/0",))
np.array([Evil()], dtype=object)
""",
        {"output"},
    ),
    "an output named like data": ("type('Row_' + str(visits.age[0]), (), {})()", {"output"}),
    "nothing": ("x = 1", {"output"}),
    "an empty cell": ("", {"output"}),
    "other JSON in the worker": (
        'import json\njson.dumps = lambda *a, **k: \'{"status": "done", "row": 7}\'\n1',
        {"killed"},
    ),
    "other pandas in the worker": (
        "import pandas as pd\npd.api.types.is_scalar = lambda v: True\nobject()",
        {"output", "error", "fine"},
    ),
    "another declare in the worker": (
        """
import gc, types
for o in gc.get_objects():
    if isinstance(o, dict) and "declare" in o and "Undeclarable" in o:
        o["declare"] = lambda value: "row 7"
1
""",
        {"error", "killed", "fine"},
    ),
    "other modules in the worker": (
        "import sys\nfor name in list(sys.modules):\n    sys.modules[name] = None\n1",
        {"fine", "error", "killed"},
    ),
    "no builtins": (
        (
            "import builtins\nfor n in ('len', 'isinstance', 'type', 'next'):\n"
            "    delattr(builtins, n)\n1"
        ),
        {"killed", "error", "fine"},
    ),
    "a thread that writes on": (
        """
import os, threading
def write():
    while True:
        for fd in range(3, 64):
            try: os.write(fd, b" ")
            except OSError: pass
threading.Thread(target=write, daemon=True).start()
1
""",
        {"fine", "killed", "size"},
    ),
    "a thread that stays": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n1",
        {"fine"},
    ),
    "work left for the end": ("import atexit, time\natexit.register(time.sleep, 600)\n1", {"fine"}),
    "a full disk": (
        """
import os
for n in range(10_000):
    with open(os.environ["TMPDIR"] + f"/{n}", "wb") as file: file.write(bytes(1 << 22))
1
""",
        {"error", "size"},
    ),
    "one very long file": (
        "import os\nopen(os.environ['TMPDIR'] + '/b', 'wb').write(bytes(200 << 20))",
        {"error", "size"},
    ),
    "files without end": (
        """
import os
n = 0
while True:
    n += 1
    open(os.environ["TMPDIR"] + f"/{n}", "x").close()
""",
        {"error", "size", "time"},
    ),
    "folders deeper than a path can be": (
        """
import os
place = os.open(os.environ["TMPDIR"], os.O_RDONLY)
for _ in range(3000):
    os.mkdir("d", dir_fd=place)
    inner = os.open("d", os.O_RDONLY, dir_fd=place)
    os.close(place)
    place = inner
1
""",
        {"fine", "size", "time"},
    ),
    "a folder that cannot be listed": (
        "import os\nos.mkdir(os.environ['TMPDIR'] + '/d', 0)\n1",
        {"fine", "size"},
    ),
}

OF_X86_64 = {
    "a call of the other set of numbers (x32)": (
        "import ctypes\nctypes.CDLL(None).syscall(0x40000000 | 39)",
        {"killed"},
    ),
    "a call by the old interrupt (i386)": (
        """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=7)
code.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
""",
        {"killed"},
    ),
}

FORGE = """
def FORGE(answer):
    import os
    for fd in range(3, 64):
        try: os.write(fd, answer)
        except OSError: pass
    os._exit(0)
"""
