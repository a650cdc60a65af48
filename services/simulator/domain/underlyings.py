"""The underlyings of the simulated market: names, tokens and how each of them moves."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Underlying:
    """Something that is quoted itself and may carry futures and options.

    Attributes:
        name: What derivatives call it ("NIFTY").
        tradingsymbol: Its own symbol ("NIFTY 50").
        exchange: Where it is quoted: "NSE" or "BSE".
        exchange_token: The exchange's number; the Kite token is this * 256 + segment.
        derivatives: "NFO", "BFO", or None when nothing is written on it.
        is_index: Index or equity.
        reference_rupees: The level its path wanders around.
        beta: Sensitivity to the common market factor.
        own_volatility: Volatility per year of its own part of the path, as a fraction.
        implied_volatility: Usual at-the-money volatility of its options, as a fraction.
        activity: Volume relative to NIFTY.
        code: Number below 128 that its derivatives carry in their tokens; never reused.
    """

    name: str
    tradingsymbol: str
    exchange: str
    exchange_token: int
    derivatives: str | None
    is_index: bool
    reference_rupees: float
    beta: float
    own_volatility: float
    implied_volatility: float
    activity: float
    code: int


# Tokens of the indices as Kite numbers them; the rest of a row is ours.
# name, symbol, exchange, exchange token, derivatives, level, beta, own vol, implied vol, activity
_INDICES: Final = (
    ("NIFTY", "NIFTY 50", "NSE", 1001, "NFO", 26_050.0, 1.00, 0.010, 0.125, 1.00),
    ("BANKNIFTY", "NIFTY BANK", "NSE", 1016, "NFO", 58_900.0, 1.10, 0.050, 0.140, 0.60),
    ("FINNIFTY", "NIFTY FIN SERVICE", "NSE", 1007, "NFO", 27_600.0, 1.08, 0.045, 0.138, 0.08),
    ("MIDCPNIFTY", "NIFTY MID SELECT", "NSE", 1125, "NFO", 13_850.0, 1.20, 0.070, 0.170, 0.06),
    ("NIFTYNXT50", "NIFTY NEXT 50", "NSE", 1058, "NFO", 69_300.0, 1.25, 0.080, 0.180, 0.01),
    ("SENSEX", "SENSEX", "BSE", 1, "BFO", 85_200.0, 0.99, 0.012, 0.124, 0.70),
    ("BANKEX", "BANKEX", "BSE", 1072, "BFO", 66_100.0, 1.09, 0.052, 0.140, 0.02),
    ("INDIA VIX", "INDIA VIX", "NSE", 1035, None, 12.6, 0.0, 0.0, 0.0, 0.0),
)

# symbol, level in rupees, beta, own volatility, activity. The first 24 make the demo.
_STOCKS: Final = (
    ("RELIANCE", 1_420.0, 1.05, 0.18, 0.10),
    ("HDFCBANK", 985.0, 1.00, 0.15, 0.10),
    ("ICICIBANK", 1_365.0, 1.00, 0.16, 0.08),
    ("INFY", 1_540.0, 0.90, 0.20, 0.07),
    ("TCS", 3_120.0, 0.80, 0.18, 0.06),
    ("SBIN", 965.0, 1.15, 0.20, 0.08),
    ("M&M", 3_690.0, 1.10, 0.21, 0.03),
    ("BAJAJ-AUTO", 9_020.0, 0.90, 0.21, 0.02),
    ("360ONE", 1_095.0, 1.20, 0.30, 0.01),
    ("AXISBANK", 1_235.0, 1.15, 0.20, 0.05),
    ("KOTAKBANK", 2_110.0, 0.95, 0.19, 0.03),
    ("LT", 4_010.0, 1.10, 0.19, 0.03),
    ("ITC", 404.0, 0.60, 0.16, 0.05),
    ("BHARTIARTL", 2_130.0, 0.80, 0.19, 0.04),
    ("HINDUNILVR", 2_420.0, 0.50, 0.17, 0.02),
    ("MARUTI", 15_850.0, 0.90, 0.20, 0.02),
    ("TATASTEEL", 171.0, 1.30, 0.26, 0.07),
    ("BAJFINANCE", 1_010.0, 1.20, 0.24, 0.05),
    ("SUNPHARMA", 1_740.0, 0.60, 0.19, 0.02),
    ("ADANIENT", 2_440.0, 1.50, 0.36, 0.03),
    ("WIPRO", 245.0, 0.95, 0.22, 0.03),
    ("TITAN", 3_860.0, 0.90, 0.20, 0.02),
    ("ULTRACEMCO", 11_650.0, 0.85, 0.20, 0.01),
    ("NTPC", 327.0, 0.90, 0.20, 0.04),
    ("POWERGRID", 276.0, 0.80, 0.19, 0.03),
    ("ONGC", 248.0, 0.90, 0.22, 0.03),
    ("COALINDIA", 378.0, 0.85, 0.20, 0.02),
    ("HCLTECH", 1_620.0, 0.90, 0.21, 0.02),
    ("TECHM", 1_450.0, 0.95, 0.23, 0.02),
    ("ASIANPAINT", 2_870.0, 0.70, 0.20, 0.02),
    ("NESTLEIND", 1_260.0, 0.45, 0.17, 0.01),
    ("JSWSTEEL", 1_150.0, 1.20, 0.24, 0.02),
    ("HINDALCO", 790.0, 1.30, 0.26, 0.03),
    ("TATAPOWER", 388.0, 1.20, 0.26, 0.03),
    ("GRASIM", 2_720.0, 0.95, 0.21, 0.01),
    ("CIPLA", 1_520.0, 0.55, 0.20, 0.01),
    ("DRREDDY", 1_245.0, 0.55, 0.21, 0.01),
    ("EICHERMOT", 6_850.0, 0.90, 0.22, 0.01),
    ("HEROMOTOCO", 5_720.0, 0.90, 0.22, 0.01),
    ("BRITANNIA", 5_830.0, 0.50, 0.18, 0.01),
    ("APOLLOHOSP", 7_420.0, 0.70, 0.21, 0.01),
    ("DIVISLAB", 6_480.0, 0.70, 0.23, 0.01),
    ("INDUSINDBK", 842.0, 1.30, 0.32, 0.03),
    ("BANKBARODA", 288.0, 1.25, 0.24, 0.03),
    ("PNB", 123.0, 1.30, 0.26, 0.03),
    ("CANBK", 148.0, 1.30, 0.27, 0.02),
    ("FEDERALBNK", 246.0, 1.10, 0.24, 0.02),
    ("IDFCFIRSTB", 80.0, 1.20, 0.28, 0.02),
    ("DLF", 735.0, 1.40, 0.29, 0.02),
    ("GODREJPROP", 2_150.0, 1.40, 0.32, 0.01),
    ("HAL", 4_620.0, 1.30, 0.30, 0.03),
    ("BEL", 415.0, 1.30, 0.28, 0.03),
    ("IRCTC", 705.0, 1.00, 0.24, 0.01),
    ("TRENT", 4_330.0, 1.20, 0.33, 0.02),
    ("DMART", 3_980.0, 0.80, 0.24, 0.01),
    ("PIDILITIND", 1_480.0, 0.55, 0.19, 0.01),
    ("HAVELLS", 1_450.0, 0.80, 0.23, 0.01),
    ("VOLTAS", 1_360.0, 0.95, 0.27, 0.01),
    ("LUPIN", 2_030.0, 0.60, 0.25, 0.01),
    ("AUROPHARMA", 1_210.0, 0.65, 0.26, 0.01),
    ("BIOCON", 412.0, 0.70, 0.27, 0.01),
    ("TVSMOTOR", 3_480.0, 0.95, 0.25, 0.01),
    ("ASHOKLEY", 148.0, 1.15, 0.27, 0.02),
    ("BHEL", 286.0, 1.30, 0.31, 0.02),
    ("SAIL", 138.0, 1.35, 0.31, 0.02),
    ("NMDC", 75.0, 1.20, 0.28, 0.02),
    ("VEDL", 512.0, 1.30, 0.29, 0.03),
    ("GAIL", 184.0, 0.95, 0.22, 0.02),
    ("IOC", 166.0, 0.90, 0.23, 0.02),
    ("BPCL", 362.0, 0.95, 0.25, 0.02),
    ("RECLTD", 362.0, 1.35, 0.31, 0.02),
    ("PFC", 378.0, 1.35, 0.31, 0.02),
    ("LICHSGFIN", 558.0, 1.10, 0.26, 0.01),
    ("MUTHOOTFIN", 3_720.0, 0.90, 0.27, 0.01),
    ("CHOLAFIN", 1_690.0, 1.15, 0.27, 0.01),
    ("SHRIRAMFIN", 838.0, 1.25, 0.29, 0.02),
    ("JIOFIN", 305.0, 1.15, 0.28, 0.03),
    ("ETERNAL", 302.0, 1.10, 0.33, 0.04),
)

_FIRST_STOCK_TOKEN: Final = 20_001
DEMO_STOCKS: Final = 24

ALL: Final[tuple[Underlying, ...]] = (
    *(Underlying(*row[:5], True, *row[5:], code) for code, row in enumerate(_INDICES, start=1)),
    *(
        Underlying(
            name=symbol,
            tradingsymbol=symbol,
            exchange="NSE",
            exchange_token=_FIRST_STOCK_TOKEN + number,
            derivatives="NFO",
            is_index=False,
            reference_rupees=level,
            beta=beta,
            own_volatility=own,
            # What both parts of the path add up to, with the premium options usually carry.
            implied_volatility=round(1.1 * ((beta * 0.12) ** 2 + own**2) ** 0.5, 4),
            activity=activity,
            code=len(_INDICES) + 1 + number,
        )
        for number, (symbol, level, beta, own, activity) in enumerate(_STOCKS)
    ),
)
DEMO: Final = ALL[: len(_INDICES) + DEMO_STOCKS]


def equity_tick_paise(rupees: float) -> int:
    """Give the price step of a share, or of a future on it, by its level (NSE, April 2025).

    Args:
        rupees: The level that decides the band.
    """
    for limit, paise in ((250, 1), (1_000, 5), (5_000, 10), (10_000, 50), (20_000, 100)):
        if rupees <= limit:
            return paise
    return 500
