//! Ranks root causes: self evidence, callee discount, edge blame.
