"""What names of Python and its libraries mean for somebody who decides whether code may run."""

from __future__ import annotations

__all__ = [
    "ATTRIBUTES",
    "BANDIT",
    "DISTRIBUTIONS",
    "MODULES",
    "NAMES",
    "ROW_METHODS",
    "SINGLE_VALUES",
    "SUMMARIES",
]


def _each(words: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, words)


DISTRIBUTIONS = {
    "scikit-learn": "sklearn",
    "scikit-image": "skimage",
    "pillow": "PIL",
    "python-dateutil": "dateutil",
    "pyyaml": "yaml",
    "beautifulsoup4": "bs4",
    "opencv-python": "cv2",
}
"""Names under which packages are imported, where they are not their own."""

MODULES = (
    _each(
        "reaches the operating system",
        *("fcntl", "grp", "nt", "os", "platform", "posix", "pty", "pwd", "resource", "shutil"),
        *("signal", "syslog", "termios", "tty"),
    )
    | _each(
        "starts other programs or threads",
        *("_thread", "concurrent", "multiprocessing", "subprocess", "threading"),
    )
    | _each(
        "reaches the network",
        *("aiohttp", "asyncio", "ftplib", "http", "httpx", "imaplib", "paramiko", "poplib"),
        *("requests", "select", "selectors", "smtplib", "socket", "socketserver", "ssl"),
        *("telnetlib", "urllib", "urllib3", "webbrowser", "xmlrpc"),
    )
    | _each(
        "reads or writes files",
        *("bz2", "dbm", "fileinput", "glob", "gzip", "io", "linecache", "lzma", "mmap", "pathlib"),
        *("sqlite3", "tarfile", "tempfile", "zipfile"),
    )
    | _each("runs machine code past Python's rules", "_ctypes", "cffi", "ctypes")
    | _each(
        "rebuilds objects from bytes, which can run hidden code",
        *("cloudpickle", "copyreg", "dill", "joblib", "marshal", "pickle", "shelve"),
    )
    | _each(
        "looks into Python itself, or changes how it works",
        *("_frozen_importlib", "_imp", "ast", "atexit", "bdb", "builtins", "code", "codeop", "dis"),
        *("faulthandler", "gc", "imp", "importlib", "inspect", "opcode", "pdb", "pkgutil"),
        *("runpy", "site", "sys", "sysconfig", "trace", "tracemalloc", "types", "weakref"),
        *("zipimport",),
    )
)
"""Modules whose import matters, and why."""

NAMES = (
    _each("runs text as code", "compile", "eval", "exec", "execfile")
    | _each("loads a module by a name made at run time", "__import__")
    | _each("opens a file", "open")
    | _each("reaches parts of an object by names made at run time", "delattr", "getattr", "setattr")
    | _each("reaches all variables at once", "globals", "locals", "vars")
    | _each("stops for somebody at a keyboard", "breakpoint", "input")
    | _each("reads memory as bytes", "memoryview")
)
"""Functions of Python whose use matters, and why."""

_FILES = "reads or writes a file, an address or a text"
_FRAMES = "looks into running code"
_ENCODES = "encodes values: rows can be hidden in what looks like one number or text"

ATTRIBUTES = (
    _each(
        _FILES,
        *("dump", "dumps", "fromfile", "fromregex", "genfromtxt", "imread", "imsave", "loadtxt"),
        *("memmap", "read_clipboard", "read_csv", "read_excel", "read_feather", "read_fwf"),
        *("read_hdf", "read_html", "read_json", "read_orc", "read_parquet", "read_pickle"),
        *("read_sas", "read_spss", "read_sql", "read_sql_query", "read_sql_table", "read_stata"),
        *("read_table", "read_xml", "save", "savefig", "savetxt", "savez", "savez_compressed"),
        *("to_clipboard", "to_csv", "to_excel", "to_feather", "to_gbq", "to_hdf", "to_json"),
        *("to_latex", "to_orc", "to_parquet", "to_pickle", "to_sql", "to_stata", "to_xml"),
        *("tofile", "urlopen", "write_bytes", "write_text"),
    )
    | _each("runs text as an expression", "eval", "query")
    | _each(
        _FRAMES,
        *("ag_frame", "co_code", "co_consts", "cr_frame", "f_back", "f_builtins", "f_code"),
        *("f_globals", "f_locals", "gi_code", "gi_frame", "tb_frame", "tb_next"),
    )
    | _each("writes all rows as text", "to_markdown", "to_string", "to_html", "tobytes", "tostring")
    | _each(
        _ENCODES,
        *("b16encode", "b32encode", "b64encode", "b85encode", "compress", "encode", "encodebytes"),
        *("from_bytes", "frombuffer", "hexdigest", "hexlify", "packbits", "to_bytes"),
    )
)
"""Attributes and methods, of whatever object, whose use matters, and why."""
NAMES |= _each(_ENCODES, "bytearray", "bytes", "chr", "hex", "oct", "ord")

ROW_METHODS = frozenset(
    [
        "abs",
        "add",
        "apply",
        "applymap",
        "asfreq",
        "asof",
        "assign",
        "astype",
        "at",
        "bfill",
        "clip",
        "combine",
        "convert_dtypes",
        "copy",
        "cumcount",
        "cummax",
        "cummin",
        "cumprod",
        "cumsum",
        "diff",
        "div",
        "drop",
        "drop_duplicates",
        "dropna",
        "duplicated",
        "eq",
        "eval",
        "explode",
        "ffill",
        "fillna",
        "filter",
        "flatten",
        "ge",
        "get",
        "gt",
        "head",
        "iat",
        "iloc",
        "index",
        "infer_objects",
        "insert",
        "interpolate",
        "isin",
        "isna",
        "isnull",
        "items",
        "iterrows",
        "itertuples",
        "join",
        "keys",
        "le",
        "loc",
        "lt",
        "map",
        "mask",
        "melt",
        "merge",
        "mod",
        "mul",
        "ne",
        "nlargest",
        "notna",
        "notnull",
        "nsmallest",
        "pipe",
        "pop",
        "pow",
        "query",
        "rank",
        "ravel",
        "reindex",
        "rename",
        "rename_axis",
        "replace",
        "reset_index",
        "reshape",
        "round",
        "sample",
        "select_dtypes",
        "set_axis",
        "set_index",
        "shift",
        "sort_index",
        "sort_values",
        "squeeze",
        "stack",
        "str",
        "sub",
        "swapaxes",
        "T",
        "tail",
        "take",
        "to_csv",
        "to_dict",
        "to_frame",
        "to_html",
        "to_json",
        "to_latex",
        "to_list",
        "to_markdown",
        "to_numpy",
        "to_records",
        "to_string",
        "tolist",
        "transform",
        "transpose",
        "truncate",
        "unique",
        "unstack",
        "values",
        "where",
        "xs",
    ]
)
"""Of a frame or series: what gives rows again, or one value per row."""

SINGLE_VALUES = frozenset(
    [
        "argmax",
        "argmin",
        "describe",
        "first",
        "idxmax",
        "idxmin",
        "item",
        "last",
        "max",
        "median",
        "min",
        "mode",
        "nlargest",
        "nsmallest",
        "nth",
        "percentile",
        "quantile",
        "sample",
        "unique",
        "value_counts",
    ]
)
"""What may show the value of one person: the largest, the first, a rare one."""

SUMMARIES = frozenset(
    [
        "agg",
        "aggregate",
        "all",
        "any",
        "boxplot",
        "corr",
        "corrwith",
        "count",
        "cov",
        "crosstab",
        "cut",
        "describe",
        "fit",
        "from_formula",
        "groupby",
        "hist",
        "kurt",
        "len",
        "max",
        "mean",
        "median",
        "min",
        "mode",
        "nunique",
        "pivot",
        "pivot_table",
        "plot",
        "prod",
        "qcut",
        "quantile",
        "resample",
        "rolling",
        "sem",
        "shape",
        "size",
        "skew",
        "std",
        "sum",
        "value_counts",
        "var",
    ]
)
"""What makes fewer values out of many rows."""

BANDIT = {
    "B102": ("text", "runs text as code"),
    "B103": ("file", "changes who may read a file"),
    "B104": ("network", "listens to every network"),
    "B105": ("secret", "holds a text that looks like a password"),
    "B106": ("secret", "passes on a text that looks like a password"),
    "B107": ("secret", "has a default that looks like a password"),
    "B108": ("file", "names a file in a shared temporary folder"),
    "B110": ("swallows", "goes on silently after any error"),
    "B112": ("swallows", "goes on silently after any error"),
    "B113": ("network", "waits for the network without end"),
    "B201": ("network", "serves a web page in debug mode"),
    "B202": ("file", "unpacks an archive wherever it wants to go"),
    "B301": ("bytes", "rebuilds objects from bytes, which can run hidden code"),
    "B302": ("bytes", "rebuilds code from bytes"),
    "B306": ("file", "names a temporary file that others can guess"),
    "B307": ("text", "runs text as code"),
    "B310": ("network", "opens an address, which may be a file too"),
    "B312": ("network", "reaches the network"),
    "B313": ("file", "reads XML, which can name other files"),
    "B314": ("file", "reads XML, which can name other files"),
    "B315": ("file", "reads XML, which can name other files"),
    "B316": ("file", "reads XML, which can name other files"),
    "B317": ("file", "reads XML, which can name other files"),
    "B318": ("file", "reads XML, which can name other files"),
    "B319": ("file", "reads XML, which can name other files"),
    "B321": ("network", "reaches the network"),
    "B323": ("network", "trusts any server"),
    "B401": ("import", "reaches the network"),
    "B402": ("import", "reaches the network"),
    "B403": ("import", "rebuilds objects from bytes, which can run hidden code"),
    "B404": ("import", "starts other programs"),
    "B405": ("import", "reads XML, which can name other files"),
    "B406": ("import", "reads XML, which can name other files"),
    "B407": ("import", "reads XML, which can name other files"),
    "B408": ("import", "reads XML, which can name other files"),
    "B409": ("import", "reads XML, which can name other files"),
    "B411": ("import", "reaches the network"),
    "B412": ("import", "serves web pages"),
    "B415": ("import", "reaches the network"),
    "B501": ("network", "trusts any server"),
    "B502": ("network", "uses broken encryption"),
    "B506": ("bytes", "rebuilds objects from text, which can run hidden code"),
    "B507": ("network", "trusts any server"),
    "B601": ("process", "runs commands on another machine"),
    "B602": ("process", "runs a command through the shell"),
    "B603": ("process", "starts another program"),
    "B604": ("process", "runs a command through the shell"),
    "B605": ("process", "runs a command through the shell"),
    "B606": ("process", "starts another program"),
    "B607": ("process", "starts another program"),
    "B609": ("process", "runs a command with a wildcard"),
    "B612": ("network", "listens for how to log"),
    "B614": ("bytes", "rebuilds objects from bytes, which can run hidden code"),
    "B615": ("network", "loads something from the internet"),
}
"""Bandit's tests that matter here, what each is about, and what it means in plain words."""
