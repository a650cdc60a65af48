// Loops over columns of options for benchmarks/pricing_peers.py: the volatility by Jaeckel's own
// scalar code, which is compiled along from its source distribution, and the five Greeks of
// Black-76 at it, in the units of services/greeks/domain/pricing.py.

#include <cmath>

extern "C" double implied_volatility_from_a_transformed_rational_guess(
    double price, double forward, double strike, double tte, double flag);

extern "C" void price_columns(
    long n, const double *flag, const double *price, const double *forward, const double *strike,
    const double *tte, const double *df, double *iv, double *delta, double *gamma, double *theta,
    double *vega, double *rho)
{
    const double sqrt_half = std::sqrt(0.5);
    const double inv_sqrt_2pi = 0.3989422804014326779399460599343819;
    for (long i = 0; i < n; ++i) {
        const double vol = implied_volatility_from_a_transformed_rational_guess(
            price[i] / df[i], forward[i], strike[i], tte[i], flag[i]);
        const double root_tte = std::sqrt(tte[i]);
        const double s = vol * root_tte;
        const double d1 = std::log(forward[i] / strike[i]) / s + 0.5 * s;
        const double density = df[i] * forward[i] * inv_sqrt_2pi * std::exp(-0.5 * d1 * d1);
        const double rate = -std::log(df[i]) / tte[i];
        iv[i] = vol;
        delta[i] = 0.5 * df[i] * flag[i] * std::erfc(-flag[i] * d1 * sqrt_half);
        gamma[i] = density / (forward[i] * forward[i] * s);
        theta[i] = (rate * price[i] - 0.5 * density * s / tte[i]) / 365.0;
        vega[i] = 0.01 * density * root_tte;
        rho[i] = -0.01 * tte[i] * price[i];
    }
}
