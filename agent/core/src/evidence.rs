//! How far a signal moved: robust effect sizes of recent windows against a reference.
