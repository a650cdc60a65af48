"""Everything that speaks Kite: the wire format of frames, and the REST client at the edge."""
