"""Pricing engine against its peers: nanoseconds per option for the volatility and five Greeks.

The peers come from the package index that pip is configured for, into a temporary folder that is
gone afterwards; the repository holds none of their code, and what cannot be had is named with the
reason. Beside vollib, which the tests need anyway:

* Jaeckel's scalar "Let's Be Rational" in C++, compiled here from the source distribution of the
  package `lets_be_rational`, called once per batch over C arrays, with its Greeks in the same loop
  (`lets_be_rational_loop.cpp`);
* QuantLib: `blackFormulaImpliedStdDev` (to 1e-12) and a `BlackCalculator` per option;
* fast-vollib: one call for all volatilities, one for all Greeks.

Rounds of all engines are interleaved and medians printed, so that a slow moment of the machine
hits every engine; errors are those against the golden table of 60 digits (tradable options listed
within 0.4 to 2.5 of the forward).

    python -m benchmarks.pricing_peers [--rounds 15]
"""

import argparse
import csv
import ctypes
import importlib
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import vollib.black.greeks.analytical as vollib_greeks
from vollib.black.implied_volatility import implied_volatility as vollib_solve

from benchmarks.pricing import SIZES, VOLLIB_ROWS_MAX, chain, seconds_per_call
from services.greeks.domain import pricing

Floats = npt.NDArray[np.float64]
Options = tuple[np.ndarray, ...]
"""flag, price, forward, strike, tte, df: the arguments of `pricing.compute`."""
Run = Callable[[], Floats]
"""Prices a batch and returns the volatilities."""

GOLDEN: Final = Path(__file__).parents[1] / "tests" / "golden" / "greeks" / "black76.csv"
LOOP: Final = Path(__file__).with_name("lets_be_rational_loop.cpp")
SOLVER_SOURCES: Final = "lets_be_rational<1.1"
"""The last releases that hold the C++ source; later ones are Python."""
CLAIMS: Final = (
    ("vollib", 300, "≥", 45.0),
    ("vollib", 3000, "≥", 120.0),
    ("C Let's Be Rational", 300, "≤", 1.6),
    ("C Let's Be Rational", 3000, "≤", 0.7),
)


class Unavailable(Exception):  # noqa: N818  # Its name is the message's beginning.
    """A peer that cannot be had here, and why."""


class Peer(NamedTuple):
    """An engine to be compared with.

    Attributes:
        name: As printed.
        prepare: Takes a batch and returns what is timed.
        rows_max: No more options are timed at once: one that works option by option takes the same
            time for each.
    """

    name: str
    prepare: Callable[[Options], Run]
    rows_max: int = sys.maxsize


def ours(options: Options) -> Run:
    """Our engine, filling the same array again."""
    out = np.empty((len(pricing.VALUES), len(options[0])))

    def run() -> Floats:
        pricing.compute(*options, out=out)
        volatility: Floats = out[0]
        return volatility

    return run


def vollib(options: Options) -> Run:
    """As its users call it: six functions per option, from Python floats."""
    flag, price, forward, strike, tte, df = options
    letters = ["c" if value > 0 else "p" for value in flag]
    rate = (-np.log(df) / tte).tolist()
    columns = (price.tolist(), forward.tolist(), strike.tolist(), tte.tolist())
    rows = list(zip(letters, *columns, rate, strict=True))

    def run() -> Floats:
        found = []
        for letter, quote, future, level, years, yearly in rows:
            try:
                vol = vollib_solve(quote, future, level, yearly, years, letter)
            except ArithmeticError:
                vol = math.nan
            terms = (letter, future, level, years, yearly, vol)
            for name in pricing.GREEKS:
                getattr(vollib_greeks, name)(*terms)
            found.append(vol)
        return np.array(found)

    return run


def lets_be_rational(folder: Path) -> Peer:
    """Compile Jaeckel's scalar code with our loop around it."""
    compiler = next(
        (found for name in (os.environ.get("CXX", "c++"), "g++", "clang++")
         if (found := shutil.which(name))), None
    )  # fmt: skip
    if compiler is None:
        raise Unavailable("no C++ compiler")
    pip("download", "--no-deps", "--no-binary", ":all:", "--dest", str(folder), SOLVER_SOURCES)
    for archive in folder.glob("*.tar.gz"):
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")
    sources = [str(path) for path in folder.rglob("*.cpp")]
    if not sources:
        raise Unavailable("its source distribution holds no C++")
    target = folder / "lets_be_rational.so"
    command = [compiler, "-O3", "-shared", "-fPIC", "-w", "-o", str(target), str(LOOP), *sources]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        raise Unavailable(f"it does not compile: {last_line(built.stderr)}")
    price_columns = ctypes.CDLL(str(target)).price_columns
    price_columns.restype = None

    def prepare(options: Options) -> Run:
        count = len(options[0])
        inputs = [np.ascontiguousarray(column, dtype=np.float64) for column in options]
        out = np.empty((len(pricing.VALUES), count))
        pointers = [ctypes.c_void_p(column.ctypes.data) for column in (*inputs, *out)]

        def run() -> Floats:
            price_columns(ctypes.c_long(count), *pointers)
            volatility: Floats = out[0]
            return volatility if inputs else out[0]  # The columns live as long as their pointers.

        return run

    return Peer("C Let's Be Rational", prepare)


def quantlib(folder: Path) -> Peer:
    """Install QuantLib and loop over its formula and calculator."""
    ql = install(folder, "QuantLib", "QuantLib")

    def prepare(options: Options) -> Run:
        flag, *columns = options
        kinds = [ql.Option.Call if value > 0 else ql.Option.Put for value in flag]
        rows = list(zip(kinds, *(column.tolist() for column in columns), strict=True))

        def run() -> Floats:
            found = []
            for kind, quote, forward, strike, tte, df in rows:
                try:
                    total = ql.blackFormulaImpliedStdDev(
                        kind, strike, forward, quote, df, 0.0, ql.nullDouble(), 1e-12, 100
                    )
                except RuntimeError:
                    found.append(math.nan)
                    continue
                payoff = ql.PlainVanillaPayoff(kind, strike)
                of = ql.BlackCalculator(payoff, forward, total, df)
                of.deltaForward()
                of.gammaForward()
                of.theta(forward, tte)
                of.vega(tte)
                of.rho(tte)
                found.append(total / math.sqrt(tte))
            return np.array(found)

        return run

    return Peer("QuantLib", prepare, VOLLIB_ROWS_MAX)


def fast_vollib(folder: Path) -> Peer:
    """Install fast-vollib; its numpy backend is timed."""
    library = install(folder, "fast-vollib", "fast_vollib")

    def prepare(options: Options) -> Run:
        flag, price, forward, strike, tte, df = options
        letters = np.where(flag > 0, "c", "p")
        rate = -np.log(df) / tte

        def run() -> Floats:
            vol: Floats = library.fast_implied_volatility_black(
                price, forward, strike, rate, tte, letters,
                return_as="numpy", on_error="ignore", backend="numpy",
            )  # fmt: skip
            library.get_all_greeks(
                letters, forward, strike, tte, rate, vol,
                model="black", return_as="dict", backend="numpy",
            )  # fmt: skip
            return vol

        return run

    return Peer("fast-vollib", prepare)


def install(folder: Path, package: str, module: str) -> Any:
    """Install a package into a folder, behind everything that is installed already.

    Raises:
        Unavailable: It cannot be installed or imported.
    """
    pip("install", "--no-deps", "--only-binary", ":all:", "--target", str(folder), package)
    sys.path.append(str(folder))
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unavailable(f"it does not import: {error}") from error


def pip(*arguments: str) -> None:
    """Run pip as it is configured here.

    Raises:
        Unavailable: It failed; with its last words, without addresses.
    """
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"pip: {last_line(done.stderr)}")


def last_line(text: str) -> str:
    """The last line of an output that says something, without addresses."""
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"\w+://\S+", "…", lines[-1].strip()) if lines else "no reason given"


def peers_in(folder: Path) -> list[Peer]:
    """All engines that can be had, ours first; the others are named with the reason."""
    found = [Peer("tickfleet", ours)]
    for name, make in (
        ("C Let's Be Rational", lets_be_rational),
        ("QuantLib", quantlib),
        ("fast-vollib", fast_vollib),
    ):
        own = folder / name.replace(" ", "-")
        own.mkdir()
        try:
            found.append(make(own))
        except Unavailable as error:
            print(f"not measured: {name}: {error}")
    return [*found, Peer("vollib", vollib, VOLLIB_ROWS_MAX)]


def error_of(peer: Peer) -> tuple[float, int]:
    """Greatest volatility error against the golden table, and how many rows have no answer."""
    with GOLDEN.open(newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if float(row["vega"]) >= 0.005
            and 0.4 < float(row["strike"]) / float(row["forward"]) < 2.5
        ]
    names = ("price", "forward", "strike", "tte", "df")
    flag = np.array([int(row["flag"]) for row in rows], dtype=np.int8)
    options = (flag, *(np.array([float(row[name]) for row in rows]) for name in names))
    exact = np.array([float(row["iv"]) for row in rows])
    with np.errstate(all="ignore"):
        errors = np.abs(peer.prepare(options)() - exact)
    return float(np.nanmax(errors)), int(np.isnan(errors).sum())


def measure(peers: list[Peer], rounds: int) -> dict[tuple[str, int], float]:
    """Nanoseconds per option by engine and batch size: medians of interleaved rounds."""
    medians = {}
    for n in SIZES:
        options = chain(n)
        timed = []
        for peer in peers:
            rows = min(n, peer.rows_max)
            timed.append((peer.prepare(tuple(column[:rows] for column in options)), rows))
        samples: list[list[float]] = [[] for _ in peers]
        for _ in range(rounds):
            for (run, rows), kept in zip(timed, samples, strict=True):
                kept.append(seconds_per_call(run) / rows * 1e9)
        for peer, kept in zip(peers, samples, strict=True):
            medians[peer.name, n] = statistics.median(kept)
    return medians


def main() -> None:
    """Get the peers, measure all, print the table and the claims."""
    parser = argparse.ArgumentParser(description="ns per option, and errors, of pricing engines")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peers = peers_in(Path(folder))
        figures = measure(peers, arguments.rounds)
        print("ns per option, IV + 5 Greeks (in brackets: tickfleet is so many times as fast)")
        print("| engine |" + "".join(f" n={n} |" for n in SIZES) + " max IV error |")
        print("|---" * (len(SIZES) + 2) + "|")
        for peer in peers:
            cells = []
            for n in SIZES:
                own, mine = figures[peer.name, n], figures[peers[0].name, n]
                cells.append(f" {own:.0f}" + ("" if peer is peers[0] else f" ({own / mine:.2f})"))
            error, missing = error_of(peer)
            lost = f", {missing} unsolved" if missing else ""
            print(f"| {peer.name} |" + " |".join(cells) + f" | {error:.1e}{lost} |")
        for name, n, side, limit in CLAIMS:
            if (name, n) not in figures:
                continue
            own, mine = figures[name, n], figures[peers[0].name, n]
            ratio = own / mine if side == "≥" else mine / own
            kept = ratio >= limit if side == "≥" else ratio <= limit
            of = "faster than" if side == "≥" else "the time of"
            print(f"{n} options: {ratio:.2f}x {of} {name} (asked {side} {limit:g}x: {kept})")


if __name__ == "__main__":
    main()
