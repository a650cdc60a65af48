"""Pure decisions about orders: values and a clock in, values or typed reasons out."""
