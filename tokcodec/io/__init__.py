"""Files, remote stores and the formats that more than one part reads."""
