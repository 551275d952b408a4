"""The names that an answer of a worker may carry; any other could be chosen to carry data."""

from __future__ import annotations

__all__ = ["KNOWN_ERRORS", "KNOWN_TYPES"]

KNOWN_ERRORS = frozenset(
    """
    ArithmeticError AssertionError AttributeError BufferError EOFError FileExistsError
    FileNotFoundError FloatingPointError ImportError IndentationError IndexError IsADirectoryError
    KeyError KeyboardInterrupt LookupError MemoryError ModuleNotFoundError NameError
    NotADirectoryError NotImplementedError OSError OverflowError PermissionError RecursionError
    RuntimeError StopIteration SyntaxError SystemExit TabError TimeoutError TypeError
    UnboundLocalError UnicodeDecodeError UnicodeEncodeError UnicodeError ValueError
    ZeroDivisionError
    ConvergenceWarning DataError IntCastingNaNError InvalidIndexError LinAlgError MergeError
    MissingDataError NotFittedError OutOfBoundsDatetime ParserError PatsyError
    PerfectSeparationError SpecificationError UndefinedVariableError
    """.split()  # noqa: SIM905 - words read better than a hundred lines of quotes
)
"""Exceptions of Python and of the usual packages, by class name."""

KNOWN_TYPES = frozenset(
    """
    NoneType bool bytes complex dict float frozenset function generator int list map module object
    range set slice str tuple type zip
    Categorical DataFrame DataFrameGroupBy DatetimeIndex Index Interval MultiIndex NAType NaTType
    Period RangeIndex Rolling Series SeriesGroupBy Styler
    complex128 complex64 matrix ndarray recarray void csr_array csr_matrix
    BinaryResultsWrapper GEEResultsWrapper GLM GLMResultsWrapper Logit MixedLMResultsWrapper OLS
    OLSResults PHReg RegressionResultsWrapper Results SimpleTable Summary
    ConfusionMatrixDisplay KMeans LinearRegression LogisticRegression PCA Pipeline
    RandomForestClassifier RandomForestRegressor StandardScaler
    Axes Figure Table
    """.split()  # noqa: SIM905 - words read better than a hundred lines of quotes
)
"""Types of Python and of the usual packages that a cell may end with by mistake."""
