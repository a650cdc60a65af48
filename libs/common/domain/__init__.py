"""Pure rules of the market: values in, values out, no I/O and no event loop."""
