"""Code of trainings, honest and hostile, as analysts write it; it runs inside a sandbox."""

from __future__ import annotations

HEAD = """
import os, sys, threading, time
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
def say(message, arrays, **metrics):
    metrics = {"num-examples": 5} | metrics
    content = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)}
    return Message(RecordDict(content), reply_to=message)
"""

COUNT = (
    HEAD
    + """
seen = []
@app.train()
def train(message, context):
    seen.append(message.metadata.group_id)
    (array,) = message.content["arrays"].to_numpy_ndarrays()
    return say(message, [array + len(seen)], loss=0.5)
@app.evaluate()
def evaluate(message, context):
    return say(message, [], accuracy=context.node_config["tables"]["visits"].age.mean())
"""
)
"""Adds to the array how often it was asked."""

PROBING = (
    HEAD
    + """
PROBES
@app.train()
def train(message, context):
    worked = [outcomes[name] == "worked" for name in names.split()]
    errors = [int(outcomes["call " + name]) for name in json.loads(calls)]
    return say(message, [np.array(worked + errors, float)])
"""
)
"""Says of each probe whether it worked, then of each call with which error it was refused."""

# What only a worker that goes on living can try. WRITE writes to all that is open; TRUE makes an
# answer with the number of the request, which the app finds on the stack.
FORGING = (
    HEAD
    + """
import json, struct
def WRITE(data):
    for fd in range(3, 64):
        try: os.write(fd, data)
        except OSError: pass
def NUMBER():
    frame = sys._getframe()
    while "asks" not in frame.f_locals: frame = frame.f_back
    return frame.f_locals["number"]
def FRAME(values=b"\\0" * 8, **fields):
    fields = {"number": NUMBER(), "status": "done", "metrics": {}, "weight": 1.0} | fields
    fields = json.dumps({k: v for k, v in fields.items() if v is not ...}).encode()
    return struct.pack("<I", len(fields)) + fields + values
@app.train()
def train(message, context):
    (array,) = message.content["arrays"].to_numpy_ndarrays()
    ATTACK
    return say(message, [array])
"""
)

AHEAD = """
    early = FRAME(b"\\1" * 8, number="0" * 16)
    def write():
        while True:
            WRITE(early)
            time.sleep(0.001)
    threading.Thread(target=write, daemon=True).start()
"""
"""Answers all the time, without knowing what will be asked."""

# By name: the attack, how its step may end, and, where that matters, the one after it.
ATTACKS = {
    "an answer of its own": ("WRITE(FRAME()); time.sleep(60)", {"fine"}, {"time"}),
    "an answer twice": ("WRITE(FRAME())", {"fine"}, {"killed"}),
    "an answer to another step": ("WRITE(FRAME(number='0' * 16))", {"killed"}, None),
    "an answer with more values": ("WRITE(FRAME(b'0' * 4096))", {"fine"}, {"killed"}),
    "an answer with fewer values": (
        "WRITE(FRAME(b'0000')); time.sleep(60)",
        {"time"},
        {"fine", "time"},
    ),
    "an answer without values": ("WRITE(FRAME(b'')); time.sleep(60)", {"time"}, {"time", "fine"}),
    "an answer that is not JSON": ("WRITE(struct.pack('<I', 4) + b'{{{{')", {"killed"}, None),
    "an answer with another field": ("WRITE(FRAME(row=7))", {"killed"}, None),
    "an answer with a field of another type": ("WRITE(FRAME(weight='7'))", {"killed"}, None),
    "an answer of another status": ("WRITE(FRAME(status='lock'))", {"killed"}, None),
    "an answer of endless length": ("WRITE(struct.pack('<I', 2**32 - 1))", {"size"}, None),
    "a length and nothing more": (
        "WRITE(struct.pack('<I', 64)); time.sleep(60)",
        {"time"},
        None,
    ),
    "values that are not numbers": ("WRITE(FRAME(b'\\xff' * 8))", {"not finite"}, {"killed"}),
    "a weight that is infinite": ("WRITE(FRAME(weight=float('inf')))", {"killed"}, None),
    "a weight below zero": ("WRITE(FRAME(weight=-1))", {"weight"}, {"killed"}),
    "a metric under the name of a person": (
        "WRITE(FRAME(metrics={'Mr ' + str(7): 1.0}))",
        {"metrics"},
        {"killed"},
    ),
    "metrics without end": (
        "WRITE(FRAME(metrics={str(n): 1.0 for n in range(2000)}))",
        {"metrics"},
        {"killed"},
    ),
    "an error with the text of a row": (
        "WRITE(FRAME(b'', status='raised', error='Mr 7, 34', line=3))",
        {"Error"},
        {"killed"},
    ),
    "a fault of its own invention": (
        "WRITE(FRAME(b'', status='fault', fault='7'))",
        {"killed"},
        None,
    ),
    "a flood": ("while True: WRITE(b'{' * 65536)", {"size", "time"}, None),
    "closing every descriptor": ("os.closerange(3, 64); time.sleep(60)", {"killed"}, None),
    "leaving": ("os._exit(0)", {"killed"}, {"killed"}),
    "a crash": ("import ctypes; ctypes.string_at(0)", {"killed"}, None),
    "an endless loop": ("while True: pass", {"time"}, None),
    "waiting for ever": ("threading.Event().wait()", {"time"}, None),
    "threads that use every processor": (
        """
    def spin():
        while True: pass
    for _ in range(4): threading.Thread(target=spin).start()
    spin()
""",
        {"time"},
        None,
    ),
    "all memory there is": (
        "x = []\n    while True: x.append(bytearray(1 << 24))",
        {"memory"},
        None,
    ),
    "memory taken bit by bit": (
        "globals().setdefault('kept', []).append(bytearray(300 << 20))",
        {"fine"},
        {"memory"},
    ),
    "a full disk": (
        """
    for n in range(10_000):
        open(os.environ['TMPDIR'] + f'/{n}', 'wb').write(bytes(1 << 22))
""",
        {"OSError", "size"},
        None,
    ),
    "other modules in the worker": (
        "for name in list(sys.modules): sys.modules[name] = None",
        {"fine", "Error", "ImportError", "ModuleNotFoundError", "killed"},
        None,
    ),
}
