"""The broker's order side, pure: tickets, rules, the life of an order, matching, the day's book."""
